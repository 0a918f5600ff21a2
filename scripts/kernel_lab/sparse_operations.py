"""What the sparse operations are asked in benchmarks: mixtures of experts.

As `scripts/kernel_lab/operations.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from scripts.kernel_lab.operations import Arguments, Cost, Operation, Random


@dataclass(frozen=True, kw_only=True)
class MoeFfn(Operation):
    """`kernels.moe_ffn`: T tokens of width H through K of E experts, I wide; zipf: expert e is chosen in proportion to
    1 / (e + 1) instead of evenly.
    """

    T: int
    E: int
    H: int
    I: int
    K: int
    zipf: bool = False
    activation: str = "silu"
    function: ClassVar[str] = "moe_ffn"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x", "w_in", "w_out", "expert_weight")

    def arguments(self, random: Random) -> Arguments:
        # The largest of perturbed logarithms are draws without replacement (Gumbel top-k).
        gumbel = -(-random.uniform(self.T, self.E, dtype=torch.float32).clamp(1e-9, 1 - 1e-7).log()).log()
        rank = torch.arange(1, self.E + 1, dtype=torch.float32, device=gumbel.device)
        index = (gumbel - rank.log() if self.zipf else gumbel).topk(self.K, dim=-1).indices
        weight = random.uniform(self.T, self.K, dtype=torch.float32) + 0.1
        return {
            "x": random.normal(self.T, self.H),
            "w_in": random.normal(self.E, self.H, 2 * self.I) * self.H**-0.5,
            "w_out": random.normal(self.E, self.I, self.H) * self.I**-0.5,
            "expert_index": index,
            "expert_weight": weight / weight.sum(-1, keepdim=True),
            "activation": self.activation,
        }

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.T, self.H)

    def forward_cost(self, itemsize: int) -> Cost:
        # With fewer choices than experts, no more of them are read than there are choices.
        weights = min(self.E, self.T * self.K) * 3 * self.H * self.I
        return Cost(6 * self.T * self.K * self.H * self.I, itemsize * (2 * self.T * self.H + weights))

    def backward_cost(self, itemsize: int) -> Cost:
        # Read x, dy and the weights; write dx and the weights' gradients.
        weights = 2 * self.E * 3 * self.H * self.I
        return Cost(12 * self.T * self.K * self.H * self.I, itemsize * (3 * self.T * self.H + weights))
