"""The Triton matrix recurrence as operators of torch: what autograd and torch.compile must know.

Every combination runs on the kernels, each setting on those made for it:

| decay | nothing erased | beta | erase |
|---|---|---|---|
| none, per head | matrix products times decays | WY form of the delta rule | as below |
| per channel | products of sub-chunks | WY form on such products | WY form with two keys, four such products |

A bonus and erase run on a decay per channel, which is widened to that; where both need more heads than q and k have,
those are repeated. Sums are float32; operands of matrix products keep the dtype of q, but for the triangular inverse,
which is float32 throughout. Chunks have 64 tokens, 32 in float32, and sub-chunks
16.
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence import launch, launch_backward
from kernels._matrix_recurrence.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._matrix_recurrence.cases import launch_case as launch_case
from kernels._matrix_recurrence.gpu_step import step_kernel
from kernels._matrix_recurrence.launches import launch_candidates as launch_candidates
from kernels._matrix_recurrence.options import Options


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, options: Options, initial_state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.recurrence`."""
    bonus = options.bonus
    if bonus is None or options.beta is None:
        return _widened(q, k, v, options, initial_state, scale)
    # What a token adds to its own output is v, not what the delta rule writes, which is all that the kernels have.
    products = (q.float() * k.float()).repeat_interleave(v.shape[2] // q.shape[2], dim=2)
    own = scale * (products * bonus.float()).sum(-1, keepdim=True) * v.float()
    options = options._replace(bonus=torch.zeros_like(bonus))
    output, state = _widened(q, k, v, options, initial_state, scale)
    return (output.float() + own).to(v.dtype), state


def _widened(
    q: Tensor, k: Tensor, v: Tensor, options: Options, initial_state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """With decay, heads and bonus in the shapes that the kernels of this setting take."""
    log_decay, beta, a, b, bonus = options
    if log_decay is not None and log_decay.ndim == 1:
        log_decay = log_decay.expand(v.shape[:3])
    if bonus is not None or a is not None:
        if log_decay is None:
            log_decay = v.new_zeros(1, dtype=torch.float32).expand(v.shape[:3])
        if log_decay.ndim == 3:
            log_decay = log_decay[..., None].expand(*v.shape[:3], q.shape[3])
    if a is not None and v.shape[2] != q.shape[2]:
        q, k = (x.repeat_interleave(v.shape[2] // q.shape[2], dim=2) for x in (q, k))
    bonus = None if bonus is None else bonus.float()
    return _forward(q, k, v, log_decay, beta, a, b, bonus, initial_state, scale)


def _inputs(*arguments: Tensor | float | None) -> launch.Inputs:
    return launch.Inputs(*(x.contiguous() if isinstance(x, Tensor) else x for x in arguments))  # pyright: ignore


@torch.library.custom_op("hybrid_nas::matrix_recurrence", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    bonus: Tensor | None,
    initial: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(q):
        return launch.forward(_inputs(q, k, v, log_decay, beta, a, b, bonus, initial, scale))


@_forward.register_fake
def _(q, k, v, log_decay, beta, a, b, bonus, initial, scale):
    state = v.new_empty(v.shape[0], v.shape[2], q.shape[3], v.shape[3], dtype=torch.float32)
    return v.new_empty(v.shape), state


@torch.library.custom_op("hybrid_nas::matrix_recurrence_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    d_state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    bonus: Tensor | None,
    initial: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the tensor arguments in their dtypes; empty for one that is absent."""
    with torch.cuda.device_of(q):
        x = _inputs(q, k, v, log_decay, beta, a, b, bonus, initial, scale)
        grads = launch_backward.backward(x, d_out.contiguous(), d_state.contiguous())

    def of(given: Tensor | None, grad: Tensor | None) -> Tensor:
        return q.new_empty(0) if given is None or grad is None else grad.to(given.dtype)

    return (
        _sum_group(grads.q, q),
        _sum_group(grads.k, k),
        grads.v,
        of(log_decay, grads.log_decay),
        of(beta, grads.beta),
        of(a, grads.a),
        of(b, grads.b),
        of(bonus, grads.bonus),
        of(initial, grads.initial_state),
    )


@_backward.register_fake
def _(d_out, d_state, q, k, v, log_decay, beta, a, b, bonus, initial, scale):
    given = (q, k, v, log_decay, beta, a, b, bonus, initial)
    return tuple(q.new_empty(0) if x is None else x.new_empty(x.shape) for x in given)


def _sum_group(grad: Tensor, like: Tensor) -> Tensor:
    """[B, T, Hv, K] -> [B, T, Hqk, K], the heads of v that read one head of q and k summed."""
    if grad.shape == like.shape:
        return grad.to(like.dtype)
    return grad.unflatten(2, (like.shape[2], -1)).sum(3).to(like.dtype)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, d_out: Tensor, d_state: Tensor):
    grads = _backward(d_out, d_state, *ctx.saved_tensors, ctx.scale)
    return (*(None if x is None else grad for x, grad in zip(ctx.saved_tensors, grads, strict=True)), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def recurrence_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, options: Options, scale: float
) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.recurrence_step`, but not differentiable."""
    log_decay, *others = options
    if log_decay is not None and log_decay.ndim == 1:
        log_decay = log_decay.expand(v.shape[:2])
    return _step(q, k, v, state, log_decay, *others, scale)


@torch.library.custom_op("hybrid_nas::matrix_recurrence_step", mutates_args=())
def _step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    bonus: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(q):
        x = _inputs(q, k, v, log_decay, beta, a, b, bonus, state, scale)
        out, new_state = torch.empty_like(x.v), torch.empty_like(state, memory_format=torch.contiguous_format)
        options = (x.or_unused(one) for one in (x.log_decay, x.beta, x.a, x.b, x.bonus))
        # Batch times heads may pass 65535, which only the first axis of a grid may.
        grid = (x.v.shape[0] * x.v.shape[1], x.plan.v_blocks(step_kernel))
        x.plan.launch(step_kernel, grid, x.q, x.k, x.v, *options, x.initial_state, out, new_state, scale)
    return out, new_state


@_step.register_fake
def _(q, k, v, state, log_decay, beta, a, b, bonus, scale):
    return v.new_empty(v.shape), state.new_empty(state.shape)
