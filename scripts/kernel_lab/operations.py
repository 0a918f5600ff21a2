"""What the public functions of `kernels` are asked in benchmarks: sizes, arguments, arithmetic and traffic.

One class an operation. `arguments` are the keyword arguments of the public function. Costs are lower bounds: each
tensor moves once, each product that the mathematics needs is made once (causal halves left out), so that a time divided
by them can be compared with what the device can do at best.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Gate = Literal["none", "fixed", "head", "channel"]
Arguments = dict[str, Any]  # of functions with unlike signatures
CHUNK = 64  # tokens; the cost of the chunked form depends on it
BACKWARD_FACTOR = 2.5  # five products against two, in attention and in its linear relatives


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes from and to memory; vector: the arithmetic fits no matrix unit."""

    flops: float
    bytes: float
    vector: bool = False

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.vector)


@dataclass(frozen=True)
class Random:
    """Random tensors of one type on one device, the same for the same generator state."""

    generator: torch.Generator
    dtype: torch.dtype

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        made = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return made.to(self.dtype if dtype is None else dtype)

    def uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        made = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return made.to(self.dtype if dtype is None else dtype)


@dataclass(frozen=True)
class Operation(ABC):
    """One call of one public function, named by `function`. A decode step has no backward pass."""

    function: ClassVar[str]

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The arguments that receive gradients."""
        return ()

    @abstractmethod
    def arguments(self, random: Random) -> Arguments: ...

    @abstractmethod
    def forward_cost(self, itemsize: int) -> Cost: ...

    def backward_cost(self, itemsize: int) -> Cost:
        return Cost(0, 0)

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        """Of the first output that has gradients; asked of what has any."""
        raise NotImplementedError


@dataclass(frozen=True)
class Setting:
    """What a published layer sets of the matrix recurrence: decay, beta (delta), erase=(a, b), bonus."""

    gate: Gate
    delta: bool = False
    erase: bool = False
    bonus: bool = False


@dataclass(frozen=True, kw_only=True)
class Recurrence(Operation):
    """`kernels.matrix_recurrence`, its erase=(a, b) as two arguments erase_a and erase_b; state: it starts from a given
    state and returns the last one; constant_decay: the decay receives no gradient, as that of RetNet.

    Arithmetic of the chunked form, for a token and head: products of C x K and C x V within the chunk, K x V with the
    state; the delta rule adds the products with the inverted chunk matrix.
    """

    B: int
    T: int
    Hqk: int
    Hv: int
    K: int
    V: int
    gate: Gate
    delta: bool = False
    erase: bool = False
    bonus: bool = False
    state: bool = False
    constant_decay: bool = False
    function: ClassVar[str] = "matrix_recurrence"

    @property
    def differentiable(self) -> tuple[str, ...]:
        decay = self.gate != "none" and not self.constant_decay
        given = {"log_decay": decay, "beta": self.delta, "erase_a": self.erase, "erase_b": self.erase}
        given |= {"bonus": self.bonus, "initial_state": self.state}
        return ("q", "k", "v", *(name for name, is_given in given.items() if is_given))

    def arguments(self, random: Random) -> Arguments:
        q, k = (random.normal(self.B, self.T, self.Hqk, self.K) for _ in range(2))
        if self.delta:  # longer keys overwrite more than is there, and the state grows without bound
            k = F.normalize(k.float(), dim=-1).to(k.dtype)
        v = random.normal(self.B, self.T, self.Hv, self.V)
        beta = random.normal(self.B, self.T, self.Hv, dtype=torch.float32).sigmoid() if self.delta else None
        state = random.normal(self.B, self.Hv, self.K, self.V, dtype=torch.float32) if self.state else None
        gates = {"log_decay": self._log_decay(random), "beta": beta, **self._erase_and_bonus(random)}
        return {"q": q, "k": k, "v": v, **gates, "initial_state": state, "return_state": self.state}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["v"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        token_heads = self.B * self.T * self.Hv
        within, with_state = CHUNK * (self.K + self.V), self.K * self.V
        flops = 5 * within + 6 * with_state if self.delta else 2 * within + 4 * with_state
        if self.erase:  # three more matrices of products, a second key, and the system of equations
            flops += 6 * within + 4 * with_state
        return Cost(token_heads * flops, self._bytes(itemsize, keys=2, values=2, gates=1))

    def backward_cost(self, itemsize: int) -> Cost:
        # Read q, k, v, do and the gates; write dq, dk, dv and the gates' gradients.
        moved = self._bytes(itemsize, keys=4, values=3, gates=2)
        return Cost(BACKWARD_FACTOR * self.forward_cost(itemsize).flops, moved)

    def _bytes(self, itemsize: int, *, keys: int, values: int, gates: int) -> int:
        tokens = self.B * self.T
        channels = {"none": 0, "fixed": 0, "head": 1, "channel": self.K}[self.gate] + self.delta
        in_type = keys * self.Hqk * self.K + (values * self.V + 2 * gates * self.erase * self.K) * self.Hv
        states = gates * 2 * self.B * self.Hv * self.K * self.V * 4 if self.state else 0
        return tokens * (itemsize * in_type + gates * 4 * self.Hv * channels) + states

    def _erase_and_bonus(self, random: Random) -> Arguments:
        """a and b as RWKV-7 has them: a key of length one, and minus that times a rate per channel."""
        made: Arguments = {}
        if self.erase:
            key = F.normalize(random.normal(self.B, self.T, self.Hv, self.K).float(), dim=-1)
            rate = random.normal(self.B, self.T, self.Hv, self.K).float().sigmoid()
            made = {"erase_a": key.to(random.dtype), "erase_b": (-rate * key).to(random.dtype)}
        return made | ({"bonus": random.normal(self.Hv, self.K, dtype=torch.float32)} if self.bonus else {})

    def _log_decay(self, random: Random) -> Tensor | None:
        """In float32, as the mixers compute it; memories of ten to a few hundred tokens, as trained models have."""
        if self.gate == "none":
            return None
        if self.gate == "fixed":
            return -torch.exp2(-4.0 - random.uniform(self.Hv, dtype=torch.float32) * 4)
        shape = (self.B, self.T, self.Hv, self.K)[: 4 if self.gate == "channel" else 3]
        return F.logsigmoid(random.normal(*shape, dtype=torch.float32)) / 16


@dataclass(frozen=True, kw_only=True)
class RecurrenceStep(Operation):
    """`kernels.matrix_recurrence_step`: as `Recurrence` for one token."""

    B: int
    Hqk: int
    Hv: int
    K: int
    V: int
    gate: Gate
    delta: bool = False
    erase: bool = False
    bonus: bool = False
    function: ClassVar[str] = "matrix_recurrence_step"

    def arguments(self, random: Random) -> Arguments:
        given = Recurrence(**asdict(self), T=1, state=True).arguments(random)
        state, _ = given.pop("initial_state"), given.pop("return_state")
        return {name: x if x is None or x.dim() < 3 else x[:, 0] for name, x in given.items()} | {"state": state}

    def forward_cost(self, itemsize: int) -> Cost:
        state = self.B * self.Hv * self.K * self.V
        tensors = 2 * self.B * (self.Hqk * self.K + self.Hv * (self.V + self.erase * self.K))
        return Cost((4 + 2 * self.delta + 4 * self.erase) * state, 2 * 4 * state + itemsize * tensors, vector=True)


@dataclass(frozen=True, kw_only=True)
class Mlstm(Operation):
    """`kernels.mlstm`: the matrix recurrence with exponential input gates and a normaliser, a column beside v; state:
    it starts from one, whose parts are arguments initial_S and initial_m, and returns the last."""

    B: int
    T: int
    Hqk: int
    Hv: int
    K: int
    V: int
    state: bool = False
    function: ClassVar[str] = "mlstm"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("q", "k", "v", "input_gate", "forget_gate", *(("initial_S",) if self.state else ()))

    def arguments(self, random: Random) -> Arguments:
        q, k = (random.normal(self.B, self.T, self.Hqk, self.K) for _ in range(2))
        v = random.normal(self.B, self.T, self.Hv, self.V)
        write, keep = (random.normal(self.B, self.T, self.Hv, dtype=torch.float32) for _ in range(2))
        # Layers begin with input gates nearly closed (xLSTM 7B with a bias of -10, arXiv 2503.13427). Open ones divide
        # by sums near zero, whose rounding in 16 bits would be all that is seen.
        gates = {"input_gate": write - 3, "forget_gate": F.logsigmoid(keep + 3)}
        if not self.state:
            return {"q": q, "k": k, "v": v, **gates}
        memory = random.normal(self.B, self.Hv, self.K, self.V + 1, dtype=torch.float32)
        start = {"initial_S": memory, "initial_m": torch.zeros_like(memory[..., 0, 0])}
        return {"q": q, "k": k, "v": v, **gates, **start, "return_state": True}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["v"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        return self._cost(1.0, itemsize, keys=2, values=2, gates=2)  # q, k; v, h; both gates

    def backward_cost(self, itemsize: int) -> Cost:
        # Read q, k, v, dh and the gates; write dq, dk, dv and the gates' gradients.
        return self._cost(BACKWARD_FACTOR, itemsize, keys=4, values=3, gates=4)

    def _cost(self, factor: float, itemsize: int, *, keys: int, values: int, gates: int) -> Cost:
        tokens, columns = self.B * self.T, self.V + 1
        flops = 2 * CHUNK * (self.K + columns) + 4 * self.K * columns
        moved = itemsize * (keys * self.Hqk * self.K + values * self.Hv * self.V) + 4 * gates * self.Hv
        return Cost(factor * tokens * self.Hv * flops, tokens * moved)


@dataclass(frozen=True, kw_only=True)
class MlstmStep(Operation):
    """`kernels.mlstm_step`: as `Mlstm` for one token, from a state whose normaliser is nowhere near zero."""

    B: int
    Hqk: int
    Hv: int
    K: int
    V: int
    function: ClassVar[str] = "mlstm_step"

    def arguments(self, random: Random) -> Arguments:
        given = Mlstm(**asdict(self), T=1, state=True).arguments(random)
        state = {"state_S": given["initial_S"], "state_m": given["initial_m"]}
        tokens = ("q", "k", "v", "input_gate", "forget_gate")
        return {name: given[name][:, 0] for name in tokens} | state

    def forward_cost(self, itemsize: int) -> Cost:
        state = self.B * self.Hv * self.K * (self.V + 1)
        tensors = 2 * self.B * (self.Hqk * self.K + self.Hv * self.V)
        return Cost(4 * state, 2 * 4 * state + itemsize * tensors, vector=True)


@dataclass(frozen=True, kw_only=True)
class GroupedMatmul(Operation):
    """`kernels.grouped_matmul`; zipf: expert e gets rows in proportion to 1 / (e + 1) instead of evenly."""

    M: int
    E: int
    K: int
    N: int
    zipf: bool = False
    function: ClassVar[str] = "grouped_matmul"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x", "w")

    def arguments(self, random: Random) -> Arguments:
        device = random.generator.device
        rank = torch.arange(1, self.E + 1, dtype=torch.float32, device=device)
        weights = 1 / rank if self.zipf else torch.ones_like(rank)
        drawn = torch.multinomial(weights, self.M, replacement=True, generator=random.generator)
        w = random.normal(self.E, self.K, self.N) * self.K**-0.5
        sizes = torch.bincount(drawn, minlength=self.E).to(torch.int32)
        return {"x": random.normal(self.M, self.K), "w": w, "group_sizes": sizes}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.M, self.N)

    def forward_cost(self, itemsize: int) -> Cost:
        # With fewer rows than experts, no more matrices are read than there are rows.
        matrices = min(self.E, self.M) * self.K * self.N
        return Cost(2 * self.M * self.K * self.N, itemsize * (self.M * (self.K + self.N) + matrices))

    def backward_cost(self, itemsize: int) -> Cost:
        # Read x, w and, once for each product, do; write dx and dw.
        moved = self.M * (2 * self.K + 2 * self.N) + 2 * self.E * self.K * self.N
        return Cost(4 * self.M * self.K * self.N, itemsize * moved)
