"""Which kernels run in which order in the forward pass, and the memory between them.

All tensors are contiguous and checked; log_decay is None, [B, T, Hv] or [B, T, Hv, K]. Nothing but the arguments is
kept for the backward pass (`launch_backward.py`): it computes scores, inverse and states again.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from triton import cdiv

from kernels._matrix_recurrence.gpu_delta import inverse_kernel, wy_kernel
from kernels._matrix_recurrence.gpu_forward import output_kernel, state_kernel
from kernels._matrix_recurrence.gpu_free import free_wy_kernel
from kernels._matrix_recurrence.gpu_fused import fused_kernel
from kernels._matrix_recurrence.gpu_scalar import scores_kernel
from kernels._matrix_recurrence.gpu_tiles import chunk_sum_kernel
from kernels._matrix_recurrence.gpu_vector import channel_scores_kernel
from kernels._matrix_recurrence.plan import FREE, SUB_CHUNK, Plan


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call; a tensor that the call does not have is stood in for by q and never read."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    a: Tensor | None
    b: Tensor | None
    bonus: Tensor | None
    initial_state: Tensor | None
    scale: float

    @cached_property
    def plan(self) -> Plan:
        return Plan.of(self.q, self.v, self.log_decay, self.beta, self.a, self.bonus)

    @property
    def length(self) -> int:
        return self.v.shape[1]

    @property
    def chunks(self) -> int:
        return cdiv(self.length, self.plan.chunk)

    @property
    def programs(self) -> int:
        """Batch times heads, the last axis of every grid."""
        return self.v.shape[0] * self.v.shape[2]

    @property
    def erasing_key(self) -> Tensor:
        """Where the value is written that depends on the state: b, or k without a free erase."""
        return self.k if self.b is None else self.b

    def or_unused(self, tensor: Tensor | None) -> Tensor:
        return self.q if tensor is None else tensor

    def per_pair(self, dtype: torch.dtype) -> Tensor:
        """Zeros for a matrix over the tokens of each chunk, [B, T, Hv, chunk]."""
        return self.v.new_zeros(*self.v.shape[:3], self.plan.chunk, dtype=dtype)

    def per_key(self) -> Tensor:
        return self.v.new_empty(*self.v.shape[:3], self.q.shape[-1], dtype=torch.float32)


@dataclass(frozen=True)
class Scores:
    """Products inside chunks: of q with the key of `written`, of q with k (the same but for a free erase), of a with k
    (free erase alone), and the inverse of the erasing system (without erasing, unused)."""

    g: Tensor
    scores: Tensor
    own_scores: Tensor
    recalling: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class Chunked(Scores):
    """And what follows up to the states between chunks. With a free erase, v is written beside `written`."""

    u: Tensor
    erased: Tensor
    written: Tensor
    states: Tensor
    final: Tensor


def compute_scores(x: Inputs) -> Scores:
    plan, unused = x.plan, x.q
    g = unused
    if x.log_decay is not None:
        g = torch.empty_like(x.log_decay, dtype=torch.float32)
        chunk_sums(x, x.log_decay, None, unused, g, reverse=False)
    scores = own_scores = x.per_pair(x.q.dtype)
    erasing = x.per_pair(torch.float32) if plan.delta else unused
    recalling = unused
    if plan.decay < 2:
        arguments = (x.q, x.k, g, x.or_unused(x.beta), scores, erasing, x.length)
        plan.launch(scores_kernel, (x.chunks, x.programs), *arguments)
    elif plan.delta == FREE:
        scores, recalling = x.per_pair(x.q.dtype), x.per_pair(x.q.dtype)
        _channel_scores(x, g, x.k, own_scores, recalling, own=plan.before, negated=False)
        _channel_scores(x, g, x.erasing_key, scores, erasing, own=False, negated=True)
    else:
        _channel_scores(x, g, x.k, scores, erasing, own=plan.before, negated=False)
    inverse = unused
    if plan.delta:
        inverse = x.per_pair(x.q.dtype)
        plan.launch(inverse_kernel, (x.chunks, x.programs), erasing, inverse, x.length)
    return Scores(g, scores, own_scores, recalling, inverse)


def _channel_scores(
    x: Inputs, g: Tensor, columns: Tensor, scores: Tensor, erasing: Tensor, *, own: bool, negated: bool
) -> None:
    rows = x.k if x.a is None else x.a
    x.plan.launch(
        channel_scores_kernel, (cdiv(x.length, SUB_CHUNK), x.programs), x.q, rows, columns, g, x.or_unused(x.beta),
        x.or_unused(x.bonus), scores, erasing, x.length, OWN=own, NEGATED=negated,
    )  # fmt: skip


def solve_erasing(x: Inputs, s: Scores) -> tuple[Tensor, Tensor]:
    """u and E of the values r = u - E S that depend on the state; v and unused without erasing."""
    plan, v = x.plan, x.v
    if not plan.delta:
        return v, v
    u, erased = torch.empty_like(v), v.new_empty(*v.shape[:3], plan.key_size)
    grid = (x.chunks, x.programs)
    if plan.delta == FREE:
        plan.launch(free_wy_kernel, grid, x.a, v, s.g, s.inverse, s.recalling, u, erased, x.length)
    else:
        plan.launch(wy_kernel, grid, x.k, v, s.g, x.beta, s.inverse, u, erased, x.length)
    return u, erased


def compute_states(x: Inputs) -> Chunked:
    """Everything up to the states between chunks."""
    plan, v, s = x.plan, x.v, compute_scores(x)
    u, erased = solve_erasing(x, s)
    written = torch.empty_like(v) if plan.delta else v
    shape = (v.shape[0], plan.heads, x.chunks + 1, plan.key_size, plan.value_size)
    states = v.new_empty(shape, dtype=plan.state_dtype)
    final = v.new_empty(shape[0], plan.heads, plan.key_size, plan.value_size, dtype=torch.float32)
    grid = (plan.k_blocks(state_kernel), plan.v_blocks(state_kernel), x.programs)
    plan.launch(
        state_kernel, grid, x.erasing_key, u, x.k, v, erased, s.g, x.or_unused(x.initial_state), written, states, final,
        x.length, HAS_INITIAL=x.initial_state is not None,
    )  # fmt: skip
    return Chunked(s.g, s.scores, s.own_scores, s.recalling, s.inverse, u, erased, written, states, final)


def forward(x: Inputs) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, Hv, V] and the last state [B, Hv, K, V].

    Where heads and blocks of V fill the device, and registers hold all that it needs, one kernel keeps the states to
    itself; else chunks run side by side.
    """
    plan = x.plan
    if plan.fits_in_one and x.programs * plan.default_v_blocks(fused_kernel) >= plan.multiprocessors:
        return _forward_in_one(x)
    c, out = compute_states(x), torch.empty_like(x.v)
    grid = (plan.v_blocks(output_kernel), x.chunks, x.programs)
    plan.launch(output_kernel, grid, x.q, c.scores, c.written, c.own_scores, x.v, c.g, c.states, out, x.scale, x.length)
    return out, c.final


def _forward_in_one(x: Inputs) -> tuple[Tensor, Tensor]:
    plan, v = x.plan, x.v
    s = compute_scores(x)
    u, erased = solve_erasing(x, s)
    out, final = (
        torch.empty_like(v),
        v.new_empty(v.shape[0], plan.heads, plan.key_size, plan.value_size, dtype=torch.float32),
    )
    plan.launch(
        fused_kernel, (plan.v_blocks(fused_kernel), x.programs), x.q, x.erasing_key, u, x.k, v, erased, s.scores,
        s.own_scores, s.g, x.or_unused(x.initial_state), out, final, x.scale, x.length,
        HAS_INITIAL=x.initial_state is not None,
    )  # fmt: skip
    return out, final


def chunk_sums(x: Inputs, values: Tensor, before: Tensor | None, offset: Tensor, out: Tensor, *, reverse: bool) -> None:
    plan = x.plan
    width = plan.heads * plan.gate_size
    grid = (cdiv(width, plan.config(chunk_sum_kernel)["BW"]), x.chunks, x.v.shape[0])
    plan.launch(
        chunk_sum_kernel, grid, values, x.or_unused(before), offset, out, x.length, REVERSE=reverse,
        SHIFTED=before is not None,
    )  # fmt: skip
