"""What the scans of vector and diagonal states are asked in benchmarks, as in `scripts/kernel_lab/operations.py`."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from scripts.kernel_lab.operations import BACKWARD_FACTOR, Arguments, Cost, Operation, Random


@dataclass(frozen=True, kw_only=True)
class SelectiveScan(Operation):
    """`kernels.selective_scan`, as in Mamba with skip and gate; state: it starts from one and returns the last; groups
    of channels with projections of their own."""

    B: int
    T: int
    Dm: int
    N: int
    skip: bool = True
    gate: bool = True
    groups: int = 1
    state: bool = False
    function: ClassVar[str] = "selective_scan"

    @property
    def differentiable(self) -> tuple[str, ...]:
        given = {"D": self.skip, "z": self.gate, "initial_state": self.state}
        return ("u", "delta", "A", "B", "C", *(name for name, is_given in given.items() if is_given))

    def arguments(self, random: Random) -> Arguments:
        u, z = (random.normal(self.B, self.T, self.Dm) for _ in range(2))
        delta = F.softplus(random.normal(self.B, self.T, self.Dm, dtype=torch.float32) - 3).to(random.dtype)
        groups = () if self.groups == 1 else (self.groups,)
        B, C = (random.normal(self.B, self.T, *groups, self.N) for _ in range(2))
        A = -torch.arange(1, self.N + 1, dtype=torch.float32, device=u.device).repeat(self.Dm, 1)
        state = random.normal(self.B, self.Dm, self.N, dtype=torch.float32) if self.state else None
        skip = random.normal(self.Dm, dtype=torch.float32)
        options = {"D": skip if self.skip else None, "z": z if self.gate else None}
        states = {"initial_state": state, "return_state": self.state}
        return {"u": u, "delta": delta, "A": A, "B": B, "C": C, **options, **states}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["u"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        tokens = self.B * self.T
        # u, delta, y, z; B, C.
        moved = itemsize * tokens * ((3 + self.gate) * self.Dm + 2 * self.groups * self.N)
        return Cost(9 * tokens * self.Dm * self.N, moved, vector=True)

    def backward_cost(self, itemsize: int) -> Cost:
        tokens = self.B * self.T
        # u, delta, dy, du, ddelta, z, dz; B, C, dB, dC.
        moved = itemsize * tokens * ((5 + 2 * self.gate) * self.Dm + 4 * self.groups * self.N)
        return Cost(BACKWARD_FACTOR * 9 * tokens * self.Dm * self.N, moved, vector=True)


@dataclass(frozen=True, kw_only=True)
class SelectiveScanStep(Operation):
    """`kernels.selective_scan_step`: as `SelectiveScan` for one token."""

    B: int
    Dm: int
    N: int
    skip: bool = True
    gate: bool = True
    groups: int = 1
    function: ClassVar[str] = "selective_scan_step"

    def arguments(self, random: Random) -> Arguments:
        given = SelectiveScan(**asdict(self), T=1, state=True).arguments(random)
        step = {name: given[name][:, 0] for name in ("u", "delta", "B", "C")}
        z = None if given["z"] is None else given["z"][:, 0]
        return {**step, "z": z, "A": given["A"], "D": given["D"], "state": given["initial_state"]}

    def forward_cost(self, itemsize: int) -> Cost:
        state = self.B * self.Dm * self.N
        tokens = self.B * ((3 + self.gate) * self.Dm + 2 * self.groups * self.N)
        return Cost(7 * state, 2 * 4 * state + itemsize * tokens, vector=True)


@dataclass(frozen=True, kw_only=True)
class VectorRecurrence(Operation):
    """`kernels.vector_recurrence`; state: it starts from one and returns the last; decays in float32, as gates are."""

    B: int
    T: int
    D: int
    state: bool = False
    reverse: bool = False
    half_decay: bool = False
    function: ClassVar[str] = "vector_recurrence"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x", "log_decay", *(("initial_state",) if self.state else ()))

    def arguments(self, random: Random) -> Arguments:
        x = random.normal(self.B, self.T, self.D)
        log_decay = F.logsigmoid(random.normal(self.B, self.T, self.D, dtype=torch.float32) + 3)
        state = random.normal(self.B, self.D, dtype=torch.float32) if self.state else None
        return {
            "x": x,
            "log_decay": log_decay.to(x.dtype) if self.half_decay else log_decay,
            "initial_state": state,
            "return_state": self.state,
            "reverse": self.reverse,
        }

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["x"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        return self._cost(2, itemsize, wide=1, narrow=2)  # log_decay; x, h

    def backward_cost(self, itemsize: int) -> Cost:
        return self._cost(5, itemsize, wide=2, narrow=3)  # log_decay and its gradient; h, dh, dx

    def _cost(self, flops: int, itemsize: int, *, wide: int, narrow: int) -> Cost:
        elements = self.B * self.T * self.D
        decay_bytes = itemsize if self.half_decay else 4
        return Cost(flops * elements, elements * (wide * decay_bytes + narrow * itemsize), vector=True)


@dataclass(frozen=True, kw_only=True)
class VectorRecurrenceStep(Operation):
    """`kernels.vector_recurrence_step`: as `VectorRecurrence` for one token."""

    B: int
    D: int
    half_decay: bool = False
    function: ClassVar[str] = "vector_recurrence_step"

    def arguments(self, random: Random) -> Arguments:
        one = VectorRecurrence(B=self.B, T=1, D=self.D, state=True, half_decay=self.half_decay)
        given = one.arguments(random)
        return {"x": given["x"][:, 0], "log_decay": given["log_decay"][:, 0], "state": given["initial_state"]}

    def forward_cost(self, itemsize: int) -> Cost:
        decay_bytes = itemsize if self.half_decay else 4
        return Cost(2 * self.B * self.D, self.B * self.D * (8 + decay_bytes + 2 * itemsize), vector=True)


@dataclass(frozen=True, kw_only=True)
class Wkv(Operation):
    """`kernels.wkv`; state: it starts from one and returns the last."""

    B: int
    T: int
    D: int
    state: bool = False
    function: ClassVar[str] = "wkv"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("k", "v", "w", "u", *(("initial_state",) if self.state else ()))

    def arguments(self, random: Random) -> Arguments:
        k, v = (random.normal(self.B, self.T, self.D) for _ in range(2))
        # The published initialisation spreads time_decay from -5 to 3; u is about log 0.3.
        w = -torch.exp(8 * random.uniform(self.D, dtype=torch.float32) - 5)
        u = random.normal(self.D, dtype=torch.float32) - 1.2
        state = None
        if self.state:
            numerator, shift = (random.normal(self.B, self.D, dtype=torch.float32) for _ in range(2))
            denominator = 0.5 + random.uniform(self.B, self.D, dtype=torch.float32)
            state = torch.stack((numerator, denominator, shift), dim=1)
        return {"k": k, "v": v, "w": w, "u": u, "initial_state": state, "return_state": self.state}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["v"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.T * self.D
        return Cost(16 * elements, 3 * itemsize * elements, vector=True)  # k, v, y

    def backward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.T * self.D
        return Cost(40 * elements, 5 * itemsize * elements, vector=True)  # k, v, dy, dk, dv


@dataclass(frozen=True, kw_only=True)
class WkvStep(Operation):
    """`kernels.wkv_step`: as `Wkv` for one token."""

    B: int
    D: int
    function: ClassVar[str] = "wkv_step"

    def arguments(self, random: Random) -> Arguments:
        given = Wkv(B=self.B, T=1, D=self.D, state=True).arguments(random)
        step = {name: given[name][:, 0] for name in ("k", "v")}
        return {**step, "w": given["w"], "u": given["u"], "state": given["initial_state"]}

    def forward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.D
        return Cost(16 * elements, elements * (2 * 3 * 4 + 3 * itemsize), vector=True)
