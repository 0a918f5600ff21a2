"""The selective scan in PyTorch, for processors: a loop over time on memory that stays in the cache.

The decay exp(delta A) differs in every channel and every state, so no form made of matrix products exists, and a scan
by doubling would move log2(T) times the memory. Instead the scan runs in short chunks whose [L, B, N, Dm] buffers fit
in the cache: everything but the recurrence is done for a whole chunk at once, and the recurrence is one in-place
operation per token. Only the state before each chunk is kept for the backward pass, which recomputes a chunk and walks
it in reverse. Channels lie last because inputs are broadcast along the states.

Both passes are operators of their own, because torch.compile does not follow writes into parts of a tensor.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels._selective_scan.reference import selective_scan_step as selective_scan_step

_CHUNK_ELEMENTS = 256 * 1024  # floats per buffer of one chunk: fastest of 32k to 512k on a cache of 2 MiB per core
_SHORTEST_CHUNK, _LONGEST_CHUNK = 8, 64  # the shortest bounds the memory: one state of so many is kept for backward


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, T, Dm] in the type of u, final state [B, Dm, N] in float32. Shapes as at the public door."""
    y, state, _ = _forward(u, delta, A, B, C, initial_state)
    if D is not None:
        y = torch.addcmul(y, u.float(), D.float())
    if z is not None:
        y = y * F.silu(z.float())
    return y.to(u.dtype), state


@torch.library.custom_op("hybrid_nas::selective_scan_portable", mutates_args=())
def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y = C h in float32, without the skip and the gate; the final state; that before each chunk [chunks, B, N, Dm]."""
    inputs = _TimeMajor(u, delta, A, B, C)
    state = initial_state.float().transpose(1, 2).contiguous()  # [B, N, Dm]
    y = torch.empty_like(inputs.u)
    starts = state.new_empty(len(inputs.chunks), *state.shape)
    for number, (begin, end) in enumerate(inputs.chunks):
        starts[number] = state
        _, states = inputs.decay_and_states(begin, end, state)
        torch.matmul(inputs.C[begin:end, :, None, :], states, out=y[begin:end, :, None, :])
        state = states[-1]
    return y.transpose(0, 1).contiguous(), state.transpose(1, 2).contiguous(), starts


@_forward.register_fake
def _(u, delta, A, B, C, initial_state):
    chunks, (channels, states) = -(-u.shape[1] // _chunk_length(u, A)), A.shape
    state = u.new_empty(u.shape[0], channels, states, dtype=torch.float32)
    starts = u.new_empty(chunks, u.shape[0], states, channels, dtype=torch.float32)
    return u.new_empty(u.shape, dtype=torch.float32), state, starts


@torch.library.custom_op("hybrid_nas::selective_scan_portable_backward", mutates_args=())
def _backward(
    grad_y: Tensor, grad_state: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C and of the initial state."""
    inputs = _TimeMajor(u, delta, A, B, C)
    grad_y = grad_y.float().transpose(0, 1).contiguous()
    grad_input = torch.empty_like(inputs.u)  # of delta u
    grad_delta = torch.empty_like(inputs.u)
    grad_A = torch.zeros_like(inputs.A)
    grad_B, grad_C = torch.empty_like(inputs.B), torch.empty_like(inputs.C)
    carry = grad_state.float().transpose(1, 2).contiguous()  # what later tokens ask of the last state of the chunk
    for (begin, end), start in zip(reversed(inputs.chunks), starts.flip(0), strict=True):
        now = slice(begin, end)
        decay, states = inputs.decay_and_states(begin, end, start)
        grads = grad_y[now, :, None, :] * inputs.C[now, :, :, None]
        grads[-1] += carry
        steps, decays = grads.unbind(0), decay.unbind(0)
        for t in range(len(steps) - 2, -1, -1):
            torch.addcmul(steps[t], decays[t + 1], steps[t + 1], out=steps[t])
        carry = decays[0] * steps[0]

        torch.matmul(states, grad_y[now, :, :, None], out=grad_C[now, :, :, None])
        torch.matmul(grads, inputs.input[now, :, :, None], out=grad_B[now, :, :, None])
        torch.matmul(inputs.B[now, :, None, :], grads, out=grad_input[now, :, None, :])
        # From here on `decay` holds the gradient of its exponent delta A: grads * previous state * decay.
        decay *= grads
        decay[1:] *= states[:-1]
        decay[0] *= start
        torch.sum(decay * inputs.A, dim=2, out=grad_delta[now])
        grad_A += decay.mul_(inputs.delta[now, :, None, :]).sum((0, 1))

    grad_delta.addcmul_(grad_input, inputs.u)
    grad_u = grad_input.mul_(inputs.delta)
    grads = (
        grad_u.transpose(0, 1),
        grad_delta.transpose(0, 1),
        grad_A.T,
        grad_B.transpose(0, 1),
        grad_C.transpose(0, 1),
    )
    typed = [grad.contiguous().to(x.dtype) for grad, x in zip(grads, (u, delta, A, B, C), strict=True)]
    return typed[0], typed[1], typed[2], typed[3], typed[4], carry.transpose(1, 2).contiguous()


@_backward.register_fake
def _(grad_y, grad_state, u, delta, A, B, C, starts):
    return tuple(x.new_empty(x.shape) for x in (u, delta, A, B, C, grad_state))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])


def _differentiate(ctx: Any, grad_y: Tensor, grad_state: Tensor, _: Tensor) -> tuple:
    return _backward(grad_y, grad_state, *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _chunk_length(u: Tensor, A: Tensor) -> int:
    length = _CHUNK_ELEMENTS // max(1, u.shape[0] * A.numel())
    return min(_LONGEST_CHUNK, max(_SHORTEST_CHUNK, length))


class _TimeMajor:
    """The inputs in float32 with time first ([T, B, ...], A as [N, Dm]), and the chunks that time is cut into."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.u, self.delta, self.B, self.C = (x.float().transpose(0, 1).contiguous() for x in (u, delta, B, C))
        self.A = A.float().T.contiguous()
        self.input = self.delta * self.u
        length = _chunk_length(u, A)
        self.chunks = [(begin, min(begin + length, u.shape[1])) for begin in range(0, u.shape[1], length)]

    def decay_and_states(self, begin: int, end: int, start: Tensor) -> tuple[Tensor, Tensor]:
        """exp(delta A) and the state after each token of the chunk, both [L, B, N, Dm], from the state before it."""
        now = slice(begin, end)
        decay = (self.delta[now, :, None, :] * self.A).exp_()
        states = self.input[now, :, None, :] * self.B[now, :, :, None]
        previous = start
        for step, step_decay in zip(states.unbind(0), decay.unbind(0), strict=True):
            previous = torch.addcmul(step, step_decay, previous, out=step)
        return decay, states
