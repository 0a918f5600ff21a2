"""The vector recurrence in PyTorch, for processors: a scan of two levels, about 2 sqrt(T) operations long.

Time is cut into about sqrt(T) chunks of about sqrt(T) tokens. One operation a token of a chunk advances all chunks at
once, each from a state of zero; then the state is carried over the chunks; then each token receives what is left of the
state before its chunk. A loop over all tokens would take T operations too small to be worth their calls, a scan by
doubling would move log2(T) times the memory. Decays are multiplied, never divided, so nothing can overflow.

The backward pass is the same scan against time, with the decay of the token behind: it keeps log_decay and h alone.
Both are operators of their own, because torch.compile does not follow writes into parts of a tensor.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from kernels._vector_recurrence.reference import vector_recurrence_step as vector_recurrence_step


def vector_recurrence(x: Tensor, log_decay: Tensor, initial_state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in the type of x, state [B, D] in float32. Shapes as at the public door."""
    return _forward(x, log_decay, initial_state, reverse)


@torch.library.custom_op("hybrid_nas::vector_recurrence_portable", mutates_args=())
def _forward(x: Tensor, log_decay: Tensor, initial_state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    h, state = scan(x, log_decay.float().exp(), initial_state, reverse)
    return h.to(x.dtype), state


@_forward.register_fake
def _(x, log_decay, initial_state, reverse):
    return x.new_empty(x.shape), initial_state.new_empty(initial_state.shape)


@torch.library.custom_op("hybrid_nas::vector_recurrence_portable_backward", mutates_args=())
def _backward(
    grad: Tensor, grad_state: Tensor, log_decay: Tensor, h: Tensor, initial_state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, log_decay and the initial state."""
    decay = log_decay.float().exp()
    # The gradient of a state is that of its own output, and that of the state behind it times the decay there.
    behind, before = torch.empty_like(decay), torch.empty_like(decay)
    if reverse:
        behind[:, 1:], behind[:, 0] = decay[:, :-1], 1.0
        before[:, :-1], before[:, -1] = h[:, 1:], initial_state
    else:
        behind[:, :-1], behind[:, -1] = decay[:, 1:], 1.0
        before[:, 1:], before[:, 0] = h[:, :-1], initial_state
    grad_x, _ = scan(grad, behind, grad_state, not reverse)
    first = -1 if reverse else 0
    grad_initial = grad_x[:, first] * decay[:, first]
    grad_log_decay = before.mul_(decay).mul_(grad_x)
    return grad_x.to(h.dtype), grad_log_decay.to(log_decay.dtype), grad_initial


@_backward.register_fake
def _(grad, grad_state, log_decay, h, initial_state, reverse):
    return tuple(x.new_empty(x.shape) for x in (h, log_decay, initial_state))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, log_decay, initial_state, ctx.reverse = inputs
    ctx.save_for_backward(log_decay, output[0], initial_state)


def _differentiate(ctx: Any, grad: Tensor, grad_state: Tensor) -> tuple:
    return (*_backward(grad, grad_state, *ctx.saved_tensors, ctx.reverse), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def scan(x: Tensor, decay: Tensor, start: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """h_t = decay_t ⊙ h_{t-1} + x_t from `start` [B, D], all [B, T, D] in float32; and the state after the scan."""
    batch, length, channels = x.shape
    chunk = max(1, math.isqrt(length))
    chunks = -(-length // chunk)
    # Chunks of equal length: tokens in excess come last in the scan, keep the state and add nothing to it.
    place = slice(chunks * chunk - length, None) if reverse else slice(length)
    h = x.new_zeros(batch, chunks * chunk, channels, dtype=torch.float32)
    kept = torch.ones_like(h)
    h[:, place], kept[:, place] = x, decay

    h, kept = h.view(batch, chunks, chunk, channels), kept.view(batch, chunks, chunk, channels)
    order = range(chunk - 1, -1, -1) if reverse else range(chunk)
    for before, now in itertools.pairwise(order):
        torch.addcmul(h[:, :, now], kept[:, :, now], h[:, :, before], out=h[:, :, now])
        kept[:, :, now] *= kept[:, :, before]
    starts = h.new_empty(batch, chunks, 1, channels)
    for c in range(chunks - 1, -1, -1) if reverse else range(chunks):
        starts[:, c, 0] = start
        start = torch.addcmul(h[:, c, order[-1]], kept[:, c, order[-1]], start)
    h.addcmul_(kept, starts)
    return h.view(batch, -1, channels)[:, place].contiguous(), start
