"""The selective scan in PyTorch, for processors: a loop over time on memory that stays in the cache.

The decay exp(delta A) differs in every channel and every state, so no form made of matrix products exists, and a scan
by doubling would move log2(T) times the memory. Instead the scan runs in short chunks whose [L, B, N, Dm] buffers fit
in the cache: everything but the recurrence is done for a whole chunk at once, and the recurrence is one in-place
operation per token. Only the state before each chunk is kept for the backward pass, which recomputes a chunk and walks
it in reverse. Channels lie last because inputs are broadcast along the states.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._selective_scan.reference import selective_scan_step as selective_scan_step

_CHUNK_ELEMENTS = 256 * 1024  # floats per buffer of one chunk: fastest of 32k to 512k on a cache of 2 MiB per core
_SHORTEST_CHUNK, _LONGEST_CHUNK = 8, 64  # the shortest bounds the memory: one state of so many is kept for backward


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, T, Dm] in the type of u, final state [B, Dm, N] in float32. Shapes as at the public door."""
    y, state = _Scan.apply(u, delta, A, B, C, initial_state)
    if D is not None:
        y = torch.addcmul(y, u.float(), D.float())
    if z is not None:
        y = y * F.silu(z.float())
    return y.to(u.dtype), state


class _Scan(torch.autograd.Function):
    """y = C h in float32 and the final state, without the skip and the gate."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, initial_state):
        inputs = _TimeMajor(u, delta, A, B, C)
        state = initial_state.float().transpose(1, 2).contiguous()  # [B, N, Dm]
        y = torch.empty_like(inputs.u)
        starts = [state]
        for begin, end in inputs.chunks:
            _, states = inputs.decay_and_states(begin, end, starts[-1])
            torch.matmul(inputs.C[begin:end, :, None, :], states, out=y[begin:end, :, None, :])
            starts.append(states[-1].clone())
        ctx.save_for_backward(u, delta, A, B, C, *starts[:-1])
        ctx.state_dtype = initial_state.dtype
        return y.transpose(0, 1).contiguous(), starts[-1].transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):
        u, delta, A, B, C, *starts = ctx.saved_tensors
        inputs = _TimeMajor(u, delta, A, B, C)
        grad_y = grad_y.float().transpose(0, 1).contiguous()
        grad_input = torch.empty_like(inputs.u)  # of delta u
        grad_delta = torch.empty_like(inputs.u)
        grad_A = torch.zeros_like(inputs.A)
        grad_B, grad_C = torch.empty_like(inputs.B), torch.empty_like(inputs.C)
        carry = grad_state.float().transpose(1, 2).contiguous()  # what later tokens ask of the last state of the chunk
        for (begin, end), start in zip(reversed(inputs.chunks), reversed(starts), strict=True):
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
        return (
            grad_u.transpose(0, 1).to(u.dtype),
            grad_delta.transpose(0, 1).to(delta.dtype),
            grad_A.T.to(A.dtype),
            grad_B.transpose(0, 1).to(B.dtype),
            grad_C.transpose(0, 1).to(C.dtype),
            carry.transpose(1, 2).to(ctx.state_dtype),
        )


class _TimeMajor:
    """The inputs in float32 with time first ([T, B, ...], A as [N, Dm]), and the chunks that time is cut into."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.u, self.delta, self.B, self.C = (x.float().transpose(0, 1).contiguous() for x in (u, delta, B, C))
        self.A = A.float().T.contiguous()
        self.input = self.delta * self.u
        length = _CHUNK_ELEMENTS // max(1, u.shape[0] * A.numel())
        length = min(_LONGEST_CHUNK, max(_SHORTEST_CHUNK, length))
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
