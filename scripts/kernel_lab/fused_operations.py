"""What the fused neighbours of a mixer are asked in benchmarks: convolutions, norms, gates, positions and the loss.

As `scripts/kernel_lab/operations.py`. All but the loss are bound by memory: their cost is that each tensor moves once.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from scripts.kernel_lab.operations import Arguments, Cost, Operation, Random


@dataclass(frozen=True, kw_only=True)
class ShortConvolution(Operation):
    """`kernels.short_convolution` with bias and SiLU; state: it starts from one and returns the last inputs."""

    B: int
    T: int
    D: int
    W: int = 4
    state: bool = False
    function: ClassVar[str] = "short_convolution"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x", "weight", "bias", *(("initial_state",) if self.state else ()))

    def arguments(self, random: Random) -> Arguments:
        weights = {
            "weight": random.normal(self.D, self.W, dtype=torch.float32) / self.W,
            "bias": random.normal(self.D, dtype=torch.float32),
        }
        state = random.normal(self.B, self.W - 1, self.D) if self.state else None
        x = random.normal(self.B, self.T, self.D)
        return {"x": x, **weights, "initial_state": state, "return_state": self.state}

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
    function: ClassVar[str] = "short_convolution_step"

    def arguments(self, random: Random) -> Arguments:
        given = ShortConvolution(B=self.B, T=1, D=self.D, W=self.W, state=True).arguments(random)
        return {name: given[name] for name in ("weight", "bias")} | {
            "x": given["x"][:, 0],
            "state": given["initial_state"],
        }

    def forward_cost(self, itemsize: int) -> Cost:
        elements = self.B * self.D
        return Cost(2 * elements * self.W, 2 * itemsize * elements * self.W, vector=True)  # x, y, both states
