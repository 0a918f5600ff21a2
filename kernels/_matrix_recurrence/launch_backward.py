"""Which kernels run in which order in the backward pass; it begins with the forward pass up to the states."""

from dataclasses import dataclass

import torch
from torch import Tensor
from triton import cdiv

from kernels._matrix_recurrence.gpu_backward import state_grad_kernel, token_grad_kernel, value_grad_kernel
from kernels._matrix_recurrence.gpu_delta import wy_grad_kernel
from kernels._matrix_recurrence.gpu_free import free_token_grad_kernel, free_wy_grad_kernel
from kernels._matrix_recurrence.gpu_scalar import erasing_grad_kernel
from kernels._matrix_recurrence.gpu_vector import channel_grad_kernel, score_grad_kernel
from kernels._matrix_recurrence.launch import Chunked, Inputs, chunk_sums, compute_states
from kernels._matrix_recurrence.plan import FREE, SUB_CHUNK


@dataclass
class Gradients:
    """Gradients of the arguments, q and k for every head of v; None for what the call does not have."""

    q: Tensor
    k: Tensor
    v: Tensor
    initial_state: Tensor
    log_decay: Tensor | None = None
    beta: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    bonus: Tensor | None = None


@dataclass(frozen=True)
class _Decays:
    """Sums for the gradient of log_decay: by token and key, of rows before their token's decay, and by chunk."""

    by_token: Tensor
    before: Tensor | None
    by_chunk: Tensor


def backward(x: Inputs, d_out: Tensor, d_final: Tensor) -> Gradients:
    plan, c, unused = x.plan, compute_states(x), x.q
    d_written, d_states, d_initial, d_last = _state_grads(x, c, d_out, d_final)
    k_blocks, per_token = plan.k_blocks(token_grad_kernel), x.v.shape[:3]
    d_g, d_before = unused, None
    if plan.decay > 0:
        shape = (k_blocks, *per_token) if plan.decay == 1 else (1, *per_token, plan.key_size)
        d_g = x.v.new_empty(shape, dtype=torch.float32)
    if plan.before or plan.delta == FREE:
        d_before = x.v.new_zeros(*per_token, plan.key_size, dtype=torch.float32)
    decays = _Decays(d_g, d_before, d_last)
    grads = Gradients(x.per_key(), x.per_key(), d_written, d_initial)
    d_erased = x.per_key().to(x.q.dtype) if plan.delta else unused
    own_written = x.v if plan.delta == FREE else c.written
    plan.launch(
        token_grad_kernel, (k_blocks, x.chunks, x.programs), x.q, x.k, own_written, c.g, c.states, d_states, d_out,
        d_written, grads.q, grads.k, d_g, x.or_unused(d_before), d_erased, x.scale, x.length,
    )  # fmt: skip
    d_scores = unused
    if plan.decay == 2:
        d_scores = _score_grads(x, own_written, d_out)
        _channel_grads(x, c, x.q, x.k, d_scores, grads.q, grads.k, decays, before=plan.before, own=plan.before)
    if plan.delta == FREE:
        _value_grads(x, c, x.k, c.own_scores, d_out, d_states, own := torch.empty_like(x.v), with_state=True)
        grads.v = own
        _free_grads(x, c, grads, decays, d_out, d_written, d_states, d_erased)
    elif plan.delta:
        _delta_grads(x, c, grads, decays, d_written, d_erased)
    if x.bonus is not None:
        grads.bonus = _bonus_grad(x, d_scores)
    if x.log_decay is not None:
        grads.log_decay = torch.empty_like(x.log_decay, dtype=torch.float32)
        chunk_sums(x, d_g[0] if len(d_g) == 1 else d_g.sum(0), d_before, d_last, grads.log_decay, reverse=True)
    return grads


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
    if plan.delta:
        _value_grads(x, c, x.erasing_key, c.scores, d_out, d_states, d_written, with_state=False)
    plan.launch(
        state_grad_kernel, (k_blocks, v_blocks, x.programs), x.q, x.erasing_key, c.erased, c.g, c.states, d_out,
        d_final, d_written, d_states, d_initial, d_last, x.scale, x.length,
    )  # fmt: skip
    if not plan.delta:
        _value_grads(x, c, x.k, c.scores, d_out, d_states, d_written, with_state=True)
    return d_written, d_states, d_initial, d_last.sum(0) if plan.decay > 0 else d_last


def _value_grads(
    x: Inputs, c: Chunked, key: Tensor, scores: Tensor, d_out: Tensor, d_states: Tensor, d_value: Tensor, *,
    with_state: bool,
) -> None:  # fmt: skip
    plan = x.plan
    grid = (plan.v_blocks(value_grad_kernel), x.chunks, x.programs)
    plan.launch(
        value_grad_kernel, grid, key, scores, c.g, d_out, d_states, d_value, x.scale, x.length, WITH_STATE=with_state
    )


def _score_grads(x: Inputs, written: Tensor, d_out: Tensor) -> Tensor:
    d_scores = x.per_pair(x.q.dtype)
    x.plan.launch(score_grad_kernel, (x.chunks, x.programs), written, d_out, d_scores, x.scale, x.length)
    return d_scores


def _delta_grads(x: Inputs, c: Chunked, grads: Gradients, decays: _Decays, d_written: Tensor, d_erased: Tensor) -> None:
    """Of v and beta through the WY form; adds to those of k and the decays."""
    plan, beta, d_g = x.plan, x.beta, decays.by_token
    assert beta is not None
    grads.v, d_erasing = torch.empty_like(x.v), x.per_pair(x.q.dtype)
    d_beta = x.v.new_zeros(plan.k_blocks(channel_grad_kernel), *x.v.shape[:3], dtype=torch.float32)
    plan.launch(
        wy_grad_kernel, (x.chunks, x.programs), x.k, x.v, c.g, beta, c.inverse, c.u, c.erased, d_written, d_erased,
        grads.v, grads.k, d_g, d_beta, d_erasing, x.length,
    )  # fmt: skip
    if plan.decay == 2:
        _channel_grads(x, c, x.k, x.k, d_erasing, grads.k, grads.k, decays, d_beta=d_beta)
    else:
        grid = (x.chunks, x.programs)
        plan.launch(erasing_grad_kernel, grid, x.k, c.g, beta, d_erasing, grads.k, d_g, d_beta, x.length)
    grads.beta = d_beta.sum(0)


def _free_grads(
    x: Inputs, c: Chunked, grads: Gradients, decays: _Decays, d_out: Tensor, d_written: Tensor, d_states: Tensor,
    d_erased: Tensor,
) -> None:  # fmt: skip
    """Of a and b; adds to all others. `d_written` is that of what is written at b."""
    plan = x.plan
    assert x.a is not None and x.b is not None
    grads.a, grads.b = x.per_key(), x.per_key()
    plan.launch(
        free_token_grad_kernel, (plan.k_blocks(free_token_grad_kernel), x.chunks, x.programs), x.b, c.g, c.written,
        c.states, d_states, d_written, grads.b, decays.by_token, d_erased, x.length,
    )  # fmt: skip
    d_erasing, d_recalling = x.per_pair(x.q.dtype), x.per_pair(x.q.dtype)
    plan.launch(
        free_wy_grad_kernel, (x.chunks, x.programs), x.a, x.v, c.g, c.inverse, c.recalling, c.u, c.erased, d_written,
        d_erased, grads.v, grads.a, decays.before, d_erasing, d_recalling, x.length,
    )  # fmt: skip
    d_scores = _score_grads(x, c.written, d_out)
    _channel_grads(x, c, x.q, x.b, d_scores, grads.q, grads.b, decays, before=plan.before)
    _channel_grads(x, c, x.a, x.k, d_recalling, grads.a, grads.k, decays, before=True)
    _channel_grads(x, c, x.a, x.b, d_erasing, grads.a, grads.b, decays, before=True)


def _channel_grads(
    x: Inputs, c: Chunked, rows: Tensor, columns: Tensor, d_products: Tensor, d_rows: Tensor, d_columns: Tensor,
    decays: _Decays, *, d_beta: Tensor | None = None, before: bool = False, own: bool = False,
) -> None:  # fmt: skip
    plan = x.plan
    grid = (plan.k_blocks(channel_grad_kernel), cdiv(x.length, SUB_CHUNK), x.programs)
    plan.launch(
        channel_grad_kernel, grid, rows, columns, c.g, x.or_unused(x.beta), x.or_unused(x.bonus), d_products, d_rows,
        d_columns, decays.by_token, x.or_unused(decays.before), x.or_unused(d_beta), x.length,
        ERASING=d_beta is not None, BEFORE=before, OWN=own,
    )  # fmt: skip


def _bonus_grad(x: Inputs, d_scores: Tensor) -> Tensor:
    """[Hv, K]: every token's gradient of its product with itself, times q⊙k."""
    place = torch.arange(x.length, device=x.q.device) % x.plan.chunk
    d_own = d_scores.float().gather(3, place.view(1, -1, 1, 1).expand(*d_scores.shape[:3], 1))
    products = (x.q.float() * x.k.float()).repeat_interleave(x.plan.group, dim=2)
    return (d_own * products).sum((0, 1))
