"""Which kernels run in which order, forward and backward, and the memory between them.

All tensors are contiguous and checked; log_decay is None, [B, T, Hv] or [B, T, Hv, K]. Nothing but the arguments is
kept for the backward pass: it computes scores, inverse and states again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from triton import cdiv

from kernels._matrix_recurrence.gpu_backward import state_grad_kernel, token_grad_kernel, value_grad_kernel
from kernels._matrix_recurrence.gpu_delta import inverse_kernel, wy_grad_kernel, wy_kernel
from kernels._matrix_recurrence.gpu_forward import output_kernel, state_kernel
from kernels._matrix_recurrence.gpu_scalar import erasing_grad_kernel, scores_kernel
from kernels._matrix_recurrence.gpu_tiles import chunk_sum_kernel
from kernels._matrix_recurrence.gpu_vector import channel_grad_kernel, channel_scores_kernel, score_grad_kernel
from kernels._matrix_recurrence.plan import CHUNK, SUB_CHUNK, Plan


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call; a tensor that the call does not have is stood in for by q and never read."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    initial_state: Tensor | None
    scale: float

    @property
    def plan(self) -> Plan:
        return Plan.of(self.q, self.v, self.log_decay, self.beta)

    @property
    def length(self) -> int:
        return self.v.shape[1]

    @property
    def chunks(self) -> int:
        return cdiv(self.length, CHUNK)

    @property
    def programs(self) -> int:
        """Batch times heads, the last axis of every grid."""
        return self.v.shape[0] * self.v.shape[2]

    def per_pair(self, dtype: torch.dtype) -> Tensor:
        """Zeros for a matrix over the tokens of each chunk, [B, T, Hv, CHUNK]."""
        return self.v.new_zeros(*self.v.shape[:3], CHUNK, dtype=dtype)

    def per_key(self) -> Tensor:
        return self.v.new_empty(*self.v.shape[:3], self.q.shape[-1], dtype=torch.float32)


@dataclass(frozen=True)
class Chunked:
    """What the forward pass computes on the way to the outputs."""

    g: Tensor
    scores: Tensor
    inverse: Tensor
    u: Tensor
    erased: Tensor
    written: Tensor
    states: Tensor
    final: Tensor


def compute_states(x: Inputs) -> Chunked:
    """Everything up to the states between chunks."""
    plan, v, length, unused = x.plan, x.v, x.length, x.q
    g, beta = unused, unused if x.beta is None else x.beta
    if x.log_decay is not None:
        g = torch.empty_like(x.log_decay, dtype=torch.float32)
        _chunk_sums(x, x.log_decay, unused, g, reverse=False)
    scores = x.per_pair(x.q.dtype)
    erasing = x.per_pair(torch.float32) if plan.delta else unused
    arguments = (x.q, x.k, g, beta, scores, erasing, length)
    if plan.decay == 2:
        plan.launch(channel_scores_kernel, (cdiv(length, SUB_CHUNK), x.programs), *arguments)
    else:
        plan.launch(scores_kernel, (x.chunks, x.programs), *arguments)

    inverse, u, erased, written = unused, v, unused, v
    if plan.delta:
        inverse, u, written = x.per_pair(x.q.dtype), torch.empty_like(v), torch.empty_like(v)
        erased = v.new_empty(*v.shape[:3], plan.key_size)
        plan.launch(inverse_kernel, (x.chunks, x.programs), erasing, inverse, length)
        plan.launch(wy_kernel, (x.chunks, x.programs), x.k, v, g, beta, inverse, u, erased, length)

    shape = (v.shape[0], plan.heads, x.chunks + 1, plan.key_size, plan.value_size)
    states = v.new_empty(shape, dtype=plan.state_dtype)
    final = v.new_empty(shape[0], plan.heads, plan.key_size, plan.value_size, dtype=torch.float32)
    grid = (plan.k_blocks(state_kernel), plan.v_blocks(state_kernel), x.programs)
    initial = unused if x.initial_state is None else x.initial_state
    plan.launch(
        state_kernel, grid, x.k, u, erased, g, initial, written, states, final, length,
        HAS_INITIAL=x.initial_state is not None,
    )  # fmt: skip
    return Chunked(g, scores, inverse, u, erased, written, states, final)


def forward(x: Inputs) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, Hv, V] and the last state [B, Hv, K, V]."""
    plan, c = x.plan, compute_states(x)
    out = torch.empty_like(x.v)
    grid = (plan.v_blocks(output_kernel), x.chunks, x.programs)
    plan.launch(output_kernel, grid, x.q, c.scores, c.written, c.g, c.states, out, x.scale, x.length)
    return out, c.final


def backward(
    x: Inputs, d_out: Tensor, d_final: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k (for every head of v, in float32), v, log_decay, beta and initial_state."""
    plan, c, unused = x.plan, compute_states(x), x.q
    d_written, d_states, d_initial, d_last = _state_grads(x, c, d_out, d_final)
    d_q, d_k = x.per_key(), x.per_key()
    d_erased = x.per_key().to(x.q.dtype) if plan.delta else unused
    k_blocks = plan.k_blocks(token_grad_kernel)
    gates = x.v.shape[:3] if plan.decay < 2 else (*x.v.shape[:3], plan.key_size)
    d_g = unused if plan.decay == 0 else x.v.new_empty(k_blocks if plan.decay == 1 else 1, *gates, dtype=torch.float32)
    plan.launch(
        token_grad_kernel, (k_blocks, x.chunks, x.programs), x.q, x.k, c.written, c.g, c.states, d_states, d_out,
        d_written, d_q, d_k, d_g, d_erased, x.scale, x.length,
    )  # fmt: skip
    if plan.decay == 2:
        d_scores = x.per_pair(x.q.dtype)
        plan.launch(score_grad_kernel, (x.chunks, x.programs), c.written, d_out, d_scores, x.scale, x.length)
        _channel_grads(x, c, d_scores, x.q, d_q, d_k, d_g, unused, erasing=False)
    d_v, d_beta = d_written, None
    if plan.delta:
        d_v, d_beta = _delta_grads(x, c, d_written, d_erased, d_k, d_g)
    d_log_decay = None
    if x.log_decay is not None:
        d_log_decay = torch.empty_like(x.log_decay, dtype=torch.float32)
        _chunk_sums(x, d_g.sum(0), d_last, d_log_decay, reverse=True)
    return d_q, d_k, d_v, d_log_decay, d_beta, d_initial


def _state_grads(x: Inputs, c: Chunked, d_out: Tensor, d_final: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of what tokens write, of the state after each chunk, of the first state, and the sums for log_decay."""
    plan, batch = x.plan, x.v.shape[0]
    d_written = torch.empty_like(x.v)
    d_states = x.v.new_empty(batch, plan.heads, x.chunks, plan.key_size, plan.value_size, dtype=plan.state_dtype)
    d_initial = torch.empty_like(d_final)
    k_blocks, v_blocks = plan.k_blocks(state_grad_kernel), plan.v_blocks(state_grad_kernel)
    parts = v_blocks if plan.decay == 2 else v_blocks * k_blocks
    d_last = x.q
    if plan.decay > 0:
        d_last = x.v.new_empty(parts, batch, x.chunks, plan.heads * plan.gate_size, dtype=torch.float32)

    def grads_of_written(with_state: bool) -> None:
        grid = (plan.v_blocks(value_grad_kernel), x.chunks, x.programs)
        plan.launch(
            value_grad_kernel, grid, x.k, c.scores, c.g, d_out, d_states, d_written, x.scale, x.length,
            WITH_STATE=with_state,
        )  # fmt: skip

    if plan.delta:
        grads_of_written(with_state=False)
    plan.launch(
        state_grad_kernel, (k_blocks, v_blocks, x.programs), x.q, x.k, c.erased, c.g, c.states, d_out, d_final,
        d_written, d_states, d_initial, d_last, x.scale, x.length,
    )  # fmt: skip
    if not plan.delta:
        grads_of_written(with_state=True)
    return d_written, d_states, d_initial, d_last.sum(0) if plan.decay > 0 else d_last


def _delta_grads(
    x: Inputs, c: Chunked, d_written: Tensor, d_erased: Tensor, d_k: Tensor, d_g: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of v and beta through the WY form; adds to d_k and d_g."""
    plan, beta = x.plan, x.beta
    assert beta is not None
    d_v, d_erasing = torch.empty_like(x.v), x.per_pair(x.q.dtype)
    d_beta = x.v.new_zeros(plan.k_blocks(channel_grad_kernel), *x.v.shape[:3], dtype=torch.float32)
    plan.launch(
        wy_grad_kernel, (x.chunks, x.programs), x.k, x.v, c.g, beta, c.inverse, c.u, c.erased, d_written, d_erased,
        d_v, d_k, d_g, d_beta, d_erasing, x.length,
    )  # fmt: skip
    if plan.decay == 2:
        _channel_grads(x, c, d_erasing, x.k, d_k, d_k, d_g, d_beta, erasing=True)
    else:
        grid = (x.chunks, x.programs)
        plan.launch(erasing_grad_kernel, grid, x.k, c.g, beta, d_erasing, d_k, d_g, d_beta, x.length)
    return d_v, d_beta.sum(0)


def _channel_grads(
    x: Inputs, c: Chunked, d_products: Tensor, rows: Tensor, d_rows: Tensor, d_k: Tensor, d_g: Tensor, d_beta: Tensor,
    *, erasing: bool,
) -> None:  # fmt: skip
    plan = x.plan
    grid = (plan.k_blocks(channel_grad_kernel), cdiv(x.length, SUB_CHUNK), x.programs)
    beta = x.q if x.beta is None else x.beta
    plan.launch(
        channel_grad_kernel, grid, rows, x.k, c.g, beta, d_products, d_rows, d_k, d_g, d_beta, x.length,
        ERASING=erasing,
    )  # fmt: skip


def _chunk_sums(x: Inputs, values: Tensor, offset: Tensor, out: Tensor, *, reverse: bool) -> None:
    plan = x.plan
    width = plan.heads * plan.gate_size
    grid = (cdiv(width, plan.config(chunk_sum_kernel)["BW"]), x.chunks, x.v.shape[0])
    plan.launch(chunk_sum_kernel, grid, values, offset, out, x.length, REVERSE=reverse)
