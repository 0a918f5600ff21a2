"""What `attention` and `attention_step` are asked in benchmarks, with every option; see `operations.py`."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from scripts.kernel_lab.operations import BACKWARD_FACTOR, Arguments, Cost, Operation, Random


@dataclass(frozen=True, kw_only=True)
class Attention(Operation):
    """`kernels.attention`."""

    B: int
    T: int
    Hq: int
    Hkv: int
    D: int
    Dv: int | None = None  # D unless given
    Tq: int | None = None  # queries; T unless given
    causal: bool = True
    window: int | None = None
    num_global: int = 0
    prefix: int = 0
    softcap: float | None = None
    sink: bool = False
    forget: bool = False
    lse: bool = False  # returned too, with a gradient through it
    function: ClassVar[str] = "attention"

    @property
    def differentiable(self) -> tuple[str, ...]:
        return ("q", "k", "v", *(["sink"] if self.sink else []), *(["log_forget"] if self.forget else []))

    @property
    def queries(self) -> int:
        return self.T if self.Tq is None else self.Tq

    @property
    def value_size(self) -> int:
        return self.D if self.Dv is None else self.Dv

    def arguments(self, random: Random) -> Arguments:
        q = random.normal(self.B, self.queries, self.Hq, self.D)
        k, v = (random.normal(self.B, self.T, self.Hkv, size) for size in (self.D, self.value_size))
        made: Arguments = {"q": q, "k": k, "v": v}
        if self.sink:
            made["sink"] = random.normal(self.Hq, dtype=torch.float32)
        if self.forget:  # memories of ten to a few hundred tokens
            made["log_forget"] = F.logsigmoid(random.normal(self.B, self.T, self.Hq, dtype=torch.float32)) / 16
        options = {name: getattr(self, name) for name in ("causal", "window", "num_global", "prefix", "softcap")}
        if self.lse:
            options["return_lse"] = True
        return {**made, **options}

    def output_shape(self, arguments: Arguments) -> tuple[int, ...]:
        return (*arguments["q"].shape[:3], self.value_size)

    def forward_cost(self, itemsize: int) -> Cost:
        sizes = self.D + self.value_size
        tensors = self.B * (self.queries * self.Hq + self.T * self.Hkv) * sizes  # q and o, k and v
        return Cost(2 * self.B * self.Hq * sizes * self._pairs(), itemsize * tensors)

    def backward_cost(self, itemsize: int) -> Cost:
        sizes = self.D + self.value_size
        queries, keys = self.B * self.queries * self.Hq * sizes, self.B * self.T * self.Hkv * sizes
        # Read q, o, do, k, v; write dq, dk, dv.
        return Cost(BACKWARD_FACTOR * self.forward_cost(itemsize).flops, itemsize * 2 * (queries + keys))

    def _pairs(self) -> int:
        """Pairs of query and key that a head looks at."""
        total = 0
        for query in range(self.queries):
            reached = self.T - self.queries + query + 1 if self.causal else self.T
            seen = reached
            if self.window is not None:
                seen = min(reached, self.window)
                seen += min(max(self.num_global, self.prefix), reached - seen)
            total += seen + max(min(self.prefix, self.T) - reached, 0)
        return total


@dataclass(frozen=True, kw_only=True)
class AttentionStep(Operation):
    """`kernels.attention_step` over a cache that is full; kept: how many slots a mask leaves, all without one; listed:
    how many a list for each key head names; latent: the values are the first Dv numbers of the keys; on_device: so is
    the length."""

    B: int
    S: int
    Hq: int
    Hkv: int
    D: int
    Dv: int | None = None
    kept: int | None = None
    listed: int | None = None
    latent: bool = False
    on_device: bool = False
    softcap: float | None = None
    sink: bool = False
    bias: bool = False
    lse: bool = False
    function: ClassVar[str] = "attention_step"

    @property
    def value_size(self) -> int:
        return self.D if self.Dv is None else self.Dv

    def arguments(self, random: Random) -> Arguments:
        q = random.normal(self.B, self.Hq, self.D)
        k_cache = random.normal(self.B, self.S, self.Hkv, self.D)
        v_cache = None if self.latent else random.normal(self.B, self.S, self.Hkv, self.value_size)
        made: Arguments = {"q": q, "k_cache": k_cache, "v_cache": v_cache, "keep": None, "softcap": self.softcap}
        made["value_size"] = self.value_size if self.latent else None
        made["length"] = torch.tensor(self.S, dtype=torch.int32, device=q.device) if self.on_device else self.S
        if self.kept is not None:
            scores = random.uniform(self.B, self.Hkv, self.S, dtype=torch.float32)
            chosen = scores.topk(self.kept, dim=-1).indices
            made["keep"] = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)
        if self.listed is not None:
            scores = random.uniform(self.B, self.Hkv, self.S, dtype=torch.float32)
            made["listed"] = scores.topk(self.listed, dim=-1).indices
        if self.sink:
            made["sink"] = random.normal(self.Hq, dtype=torch.float32)
        if self.bias:
            made["bias"] = random.normal(self.B, self.Hq, self.S, dtype=torch.float32)
        if self.lse:
            made["return_lse"] = True
        return made

    def forward_cost(self, itemsize: int) -> Cost:
        slots = min(one for one in (self.S, self.kept, self.listed) if one is not None)
        sizes = self.D + self.value_size
        cached = self.D if self.latent else sizes
        moved = itemsize * self.B * (slots * self.Hkv * cached + self.Hq * sizes)
        return Cost(2 * self.B * self.Hq * sizes * slots, moved + (4 * self.B * self.Hq * slots if self.bias else 0))
