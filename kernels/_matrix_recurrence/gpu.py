"""The Triton matrix recurrence as operators of torch: what autograd and torch.compile must know.

Every combination runs on the kernels, the delta rule with a decay per channel included: it is the WY form of the delta
rule on the products of the decay per channel. Sums are float32; operands of matrix products keep the dtype of q, but
for the triangular inverse, which is float32 throughout. Chunks have 64 tokens.
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence import launch
from kernels._matrix_recurrence.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._matrix_recurrence.cases import launch_case as launch_case
from kernels._matrix_recurrence.gpu_step import step_kernel
from kernels._matrix_recurrence.launches import launch_candidates as launch_candidates
from kernels._matrix_recurrence.options import Options
from kernels._matrix_recurrence.plan import Plan


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    initial_state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.recurrence`, without erase and bonus."""
    log_decay = options.log_decay
    if log_decay is not None and log_decay.ndim == 1:
        log_decay = log_decay.expand(v.shape[:3])
    return _forward(q, k, v, log_decay, options.beta, initial_state, scale)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _inputs(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, initial: Tensor | None, scale: float
) -> launch.Inputs:
    return launch.Inputs(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        _contiguous(log_decay),
        _contiguous(beta),
        _contiguous(initial),
        scale,
    )


@torch.library.custom_op("hybrid_nas::matrix_recurrence", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, initial: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(q):
        return launch.forward(_inputs(q, k, v, log_decay, beta, initial, scale))


@_forward.register_fake
def _(q, k, v, log_decay, beta, initial, scale):
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
    initial: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the tensor arguments in their dtypes; empty for one that is absent."""
    with torch.cuda.device_of(q):
        x = _inputs(q, k, v, log_decay, beta, initial, scale)
        d_q, d_k, d_v, d_log_decay, d_beta, d_initial = launch.backward(x, d_out.contiguous(), d_state.contiguous())
    absent = q.new_empty(0)
    return (
        _sum_group(d_q, q),
        _sum_group(d_k, k),
        d_v,
        absent if log_decay is None or d_log_decay is None else d_log_decay.to(log_decay.dtype),
        q.new_empty(0) if beta is None or d_beta is None else d_beta.to(beta.dtype),
        d_initial if initial is not None else q.new_empty(0),
    )


@_backward.register_fake
def _(d_out, d_state, q, k, v, log_decay, beta, initial, scale):
    given = (q, k, v, log_decay, beta, initial)
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
    """Same contract as `reference.recurrence_step`, without erase and bonus, and not differentiable."""
    log_decay = options.log_decay
    if log_decay is not None and log_decay.ndim == 1:
        log_decay = log_decay.expand(v.shape[:2])
    return _step(q, k, v, state, log_decay, options.beta, scale)


@torch.library.custom_op("hybrid_nas::matrix_recurrence_step", mutates_args=())
def _step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, log_decay: Tensor | None, beta: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(q):
        x = _inputs(q, k, v, log_decay, beta, state, scale)
        plan = Plan.of(x.q, x.v, x.log_decay, x.beta)
        out, new_state = torch.empty_like(x.v), torch.empty_like(state, memory_format=torch.contiguous_format)
        gates = (x.q if gate is None else gate for gate in (x.log_decay, x.beta))
        # Batch times heads may pass 65535, which only the first axis of a grid may.
        grid = (x.v.shape[0] * x.v.shape[1], plan.v_blocks(step_kernel))
        plan.launch(step_kernel, grid, x.q, x.k, x.v, *gates, x.initial_state, out, new_state, scale)
    return out, new_state


@_step.register_fake
def _(q, k, v, state, log_decay, beta, scale):
    return v.new_empty(v.shape), state.new_empty(state.shape)
