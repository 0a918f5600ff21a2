"""What the sparse operations are asked in benchmarks: attention over listed blocks, mixtures of experts, routers.

As `scripts/kernel_lab/operations.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from scripts.kernel_lab.operations import BACKWARD_FACTOR, Arguments, Cost, Operation, Random


@dataclass(frozen=True, kw_only=True)
class BlockSparseAttention(Operation):
    """`kernels.block_sparse_attention`: each list has the own block and the best-scored earlier ones, `chosen` in all.

    query_block divides block_size, so that the queries of a list lie in one block.
    """

    B: int
    T: int
    Hq: int
    Hkv: int
    D: int
    block_size: int
    chosen: int
    query_block: int = 1
    lse: bool = False  # returned too, with a gradient through it
    function: ClassVar[str] = "block_sparse_attention"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("q", "k", "v")

    def arguments(self, random: Random) -> Arguments:
        q = random.normal(self.B, self.T, self.Hq, self.D)
        k, v = (random.normal(self.B, self.T, self.Hkv, self.D) for _ in range(2))
        count, lists = -(-self.T // self.block_size), -(-self.T // self.query_block)
        scores = random.uniform(self.B, lists, self.Hkv, count, dtype=torch.float32)
        own = torch.arange(lists, device=scores.device).view(-1, 1, 1) * self.query_block // self.block_size
        block = torch.arange(count, device=scores.device)
        scores = scores.masked_fill(block == own, 2.0).masked_fill(block > own, -1.0)
        best = scores.topk(min(self.chosen, count), dim=-1)
        blocks = best.indices.masked_fill(best.values < 0, -1).to(torch.int32)
        sizes = {"block_size": self.block_size, "query_block": self.query_block}
        made: Arguments = {"q": q, "k": k, "v": v, "blocks": blocks, **sizes}
        return made | ({"return_lse": True} if self.lse else {})

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return tuple(arguments["q"].shape)

    def forward_cost(self, itemsize: int) -> Cost:
        tensors = 2 * self.B * self.T * (self.Hq + self.Hkv) * self.D  # q and o, k and v
        return Cost(4 * self.B * self.Hq * self.D * self._pairs(), itemsize * tensors)

    def backward_cost(self, itemsize: int) -> Cost:
        # Read q, o, do, k, v; write dq, dk, dv.
        tensors = 4 * self.B * self.T * (self.Hq + self.Hkv) * self.D
        return Cost(BACKWARD_FACTOR * self.forward_cost(itemsize).flops, itemsize * tensors)

    def _pairs(self) -> int:
        """Pairs of query and key that a head looks at: the own block up to the query, whole ones before it."""
        total = 0
        for position in range(self.T):
            earlier, within = divmod(position, self.block_size)
            total += min(earlier, self.chosen - 1) * self.block_size + within + 1
        return total


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
    gated: bool = True
    clamp: float | None = None  # beside biases and an offset of 1, as in gpt-oss
    function: ClassVar[str] = "moe_ffn"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("x", "w_in", "w_out", "expert_weight", *(("b_in", "b_out") if self.clamp is not None else ()))

    @property
    def columns(self) -> int:
        """Of the first product."""
        return 2 * self.I if self.gated else self.I

    def arguments(self, random: Random) -> Arguments:
        # The largest of perturbed logarithms are draws without replacement (Gumbel top-k).
        gumbel = -(-random.uniform(self.T, self.E, dtype=torch.float32).clamp(1e-9, 1 - 1e-7).log()).log()
        rank = torch.arange(1, self.E + 1, dtype=torch.float32, device=gumbel.device)
        index = (gumbel - rank.log() if self.zipf else gumbel).topk(self.K, dim=-1).indices
        weight = random.uniform(self.T, self.K, dtype=torch.float32) + 0.1
        made: Arguments = {
            "x": random.normal(self.T, self.H),
            "w_in": random.normal(self.E, self.H, self.columns) * self.H**-0.5,
            "w_out": random.normal(self.E, self.I, self.H) * self.I**-0.5,
            "expert_index": index,
            "expert_weight": weight / weight.sum(-1, keepdim=True),
            "activation": self.activation,
            "gated": self.gated,
        }
        if self.clamp is not None:
            made |= {"b_in": random.normal(self.E, self.columns), "b_out": random.normal(self.E, self.H)}
            made |= {"clamp": self.clamp, "up_offset": 1.0}
        return made

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.T, self.H)

    def forward_cost(self, itemsize: int) -> Cost:
        # With fewer choices than experts, no more of them are read than there are choices.
        weights = min(self.E, self.T * self.K) * (self.columns + self.I) * self.H
        return Cost(2 * self.T * self.K * self.H * (self.columns + self.I), itemsize * (2 * self.T * self.H + weights))

    def backward_cost(self, itemsize: int) -> Cost:
        # Read x, dy and the weights; write dx and the weights' gradients.
        weights = 2 * self.E * (self.columns + self.I) * self.H
        return Cost(4 * self.T * self.K * self.H * (self.columns + self.I), itemsize * (3 * self.T * self.H + weights))


@dataclass(frozen=True, kw_only=True)
class RouteTopK(Operation):
    """`kernels.route_top_k`: the k best of E experts for T tokens, of so many groups where they have some.

    The logits of a token are unlike one another in every type, so that it is never open who comes first.
    """

    T: int
    E: int
    k: int
    scoring: str = "softmax"
    normalize: bool = True
    num_groups: int = 1
    top_groups: int = 1
    function: ClassVar[str] = "route_top_k"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("logits",)

    def arguments(self, random: Random) -> Arguments:
        place = random.uniform(self.T, self.E, dtype=torch.float32).argsort(dim=-1)
        options = ("k", "scoring", "normalize", "num_groups", "top_groups")
        # Multiples of 1/64, which between -4 and 4 are exact in bfloat16.
        logits = ((place - self.E // 2) / 64).to(random.dtype)
        return {"logits": logits, **{name: getattr(self, name) for name in options}}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (self.T, self.k)

    def forward_cost(self, itemsize: int) -> Cost:
        # A score takes a few operations, and a comparison for each expert that is picked.
        return Cost((self.k + 5) * self.T * self.E, self.T * (itemsize * self.E + 12 * self.k), vector=True)

    def backward_cost(self, itemsize: int) -> Cost:
        return Cost((self.k + 5) * self.T * self.E, self.T * (2 * itemsize * self.E + 12 * self.k), vector=True)
