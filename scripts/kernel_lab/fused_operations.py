"""What the fused neighbours of a mixer are asked in benchmarks: convolutions, norms, gates, positions and the loss.

As `scripts/kernel_lab/operations.py`. All but the loss are bound by memory: their cost is that each tensor moves once.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch

from scripts.kernel_lab.operations import Arguments, Cost, Operation, Random


@dataclass(frozen=True, kw_only=True)
class ShortConvolution(Operation):
    """`kernels.short_convolution`; state: it starts from one and returns the last inputs."""

    B: int
    T: int
    D: int
    W: int = 4
    bias: bool = True
    activation: Literal["silu"] | None = "silu"
    state: bool = False
    function: ClassVar[str] = "short_convolution"

    @property
    def differentiable(self) -> tuple[str, ...]:
        given = {"bias": self.bias, "initial_state": self.state}
        return ("x", "weight", *(name for name, is_given in given.items() if is_given))

    def arguments(self, random: Random) -> Arguments:
        filters = {
            "weight": random.normal(self.D, self.W, dtype=torch.float32) / self.W,
            "bias": random.normal(self.D, dtype=torch.float32) if self.bias else None,
            "activation": self.activation,
        }
        state = random.normal(self.B, self.W - 1, self.D) if self.state else None
        x = random.normal(self.B, self.T, self.D)
        return {"x": x, **filters, "initial_state": state, "return_state": self.state}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["x"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.T * self.D
        return Cost(2 * elements * self.W, 2 * itemsize * elements, vector=True)  # x, y

    def backward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.T * self.D
        return Cost(6 * elements * self.W, 3 * itemsize * elements, vector=True)  # x, dy, dx


@dataclass(frozen=True, kw_only=True)
class ShortConvolutionStep(Operation):
    """`kernels.short_convolution_step`: as `ShortConvolution` for one token."""

    B: int
    D: int
    W: int = 4
    bias: bool = True
    activation: Literal["silu"] | None = "silu"
    function: ClassVar[str] = "short_convolution_step"

    def arguments(self, random: Random) -> Arguments:
        given = ShortConvolution(**asdict(self), T=1, state=True).arguments(random)
        filters = {name: given[name] for name in ("weight", "bias", "activation")}
        return {"x": given["x"][:, 0], **filters, "state": given["initial_state"]}

    def forward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.D
        return Cost(2 * elements * self.W, 2 * itemsize * elements * self.W, vector=True)  # x, y, both states


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Operation):
    """`kernels.rms_norm` of N rows; with a residual, or a gate behind or in front of the norm."""

    N: int
    D: int
    weight: bool = True
    residual: bool = False
    gate: Literal["none", "behind", "front"] = "none"
    gate_activation: Literal["silu", "sigmoid"] = "silu"
    groups: int = 1
    function: ClassVar[str] = "rms_norm"

    @property
    def differentiable(self) -> tuple[str, ...]:
        given = {"weight": self.weight, "residual": self.residual, "gate": self.gate != "none"}
        return ("x", *(name for name, is_given in given.items() if is_given))

    def arguments(self, random: Random) -> Arguments:
        given: Arguments = {
            "x": random.normal(self.N, self.D),
            "weight": random.normal(self.D, dtype=torch.float32) if self.weight else None,
            "group_size": None if self.groups == 1 else self.D // self.groups,
        }
        if self.residual:
            given["residual"] = random.normal(self.N, self.D)
        if self.gate != "none":
            given |= {"gate": random.normal(self.N, self.D), "gate_first": self.gate == "front"}
            given["gate_activation"] = self.gate_activation
        return given

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.N, self.D)

    def forward_cost(self, itemsize: int) -> Cost:
        # x, y; the residual and the sum; the gate.
        tensors = 2 + 2 * self.residual + (self.gate != "none")
        return Cost(4 * self.N * self.D, tensors * itemsize * self.N * self.D, vector=True)

    def backward_cost(self, itemsize: int) -> Cost:
        # x, dy, dx; the gradient of the sum; the gate and its gradient.
        tensors = 3 + self.residual + 2 * (self.gate != "none")
        return Cost(10 * self.N * self.D, tensors * itemsize * self.N * self.D, vector=True)


@dataclass(frozen=True, kw_only=True)
class GatedUnit(Operation):
    """`kernels.glu` on N rows of D, the halves of one projection."""

    N: int
    D: int
    activation: str = "silu"
    function: ClassVar[str] = "glu"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("gate", "up")

    def arguments(self, random: Random) -> Arguments:
        gate, up = random.normal(self.N, 2 * self.D).chunk(2, dim=-1)
        return {"gate": gate, "up": up, "activation": self.activation}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.N, self.D)

    def forward_cost(self, itemsize: int) -> Cost:
        return Cost(5 * self.N * self.D, 3 * itemsize * self.N * self.D, vector=True)

    def backward_cost(self, itemsize: int) -> Cost:
        return Cost(10 * self.N * self.D, 5 * itemsize * self.N * self.D, vector=True)


@dataclass(frozen=True, kw_only=True)
class Rotation(Operation):
    """`kernels.rope`; turned: how many channels of a head, all unless given."""

    B: int
    T: int
    H: int
    D: int
    turned: int | None = None
    interleaved: bool = False
    function: ClassVar[str] = "rope"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x",)

    def arguments(self, random: Random) -> Arguments:
        x = random.normal(self.B, self.T, self.H, self.D)
        turned = self.D if self.turned is None else self.turned
        angles = 10 * random.uniform(self.T, turned // 2, dtype=torch.float32)
        return {"x": x, "cos": angles.cos(), "sin": angles.sin(), "interleaved": self.interleaved}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.B, self.T, self.H, self.D)

    def forward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.T * self.H * self.D
        return Cost(3 * elements, 2 * itemsize * elements, vector=True)

    def backward_cost(self, itemsize: int) -> Cost:
        return self.forward_cost(itemsize)


@dataclass(frozen=True, kw_only=True)
class LinearCrossEntropy(Operation):
    """`kernels.linear_cross_entropy` of N tokens of width D over V words; every one asks for something."""

    N: int
    D: int
    V: int
    soft_cap: float | None = None
    function: ClassVar[str] = "linear_cross_entropy"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x", "weight")

    def arguments(self, random: Random) -> Arguments:
        device = random.generator.device
        targets = torch.randint(self.V, (self.N,), generator=random.generator, device=device)
        weight = random.normal(self.V, self.D) * self.D**-0.5
        return {"x": random.normal(self.N, self.D), "weight": weight, "targets": targets, "soft_cap": self.soft_cap}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return ()

    def forward_cost(self, itemsize: int) -> Cost:
        return Cost(2 * self.N * self.D * self.V, itemsize * self.D * (self.N + self.V))

    def backward_cost(self, itemsize: int) -> Cost:
        return Cost(4 * self.N * self.D * self.V, 2 * itemsize * self.D * (self.N + self.V))


@dataclass(frozen=True, kw_only=True)
class L2Norm(Operation):
    """`kernels.l2_norm` of N rows, such as the heads of queries and keys."""

    N: int
    D: int
    function: ClassVar[str] = "l2_norm"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x",)

    def arguments(self, random: Random) -> Arguments:
        return {"x": random.normal(self.N, self.D)}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.N, self.D)

    def forward_cost(self, itemsize: int) -> Cost:
        return Cost(3 * self.N * self.D, 2 * itemsize * self.N * self.D, vector=True)

    def backward_cost(self, itemsize: int) -> Cost:
        return Cost(6 * self.N * self.D, 3 * itemsize * self.N * self.D, vector=True)
