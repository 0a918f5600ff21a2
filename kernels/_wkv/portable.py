"""WKV in PyTorch, for processors: a scan of two levels, as that of `kernels/_vector_recurrence/portable.py`.

A sum (a, b) with its shift m advances to (e^w a + e^key x, e^w b + e^key y), and the larger of m + w and key becomes
the new shift. Time is cut into about sqrt(T) chunks of about sqrt(T) tokens, and what is left over is one more: all
chunks of a length advance together from nothing, the sums are carried over them, and all advance again from these.

Backward: y_t is a quotient with the denominator Z_t, so the sums before token t receive e^{-log Z_t} (g_t, -g_t y_t),
and what they receive decays against time: the same scan with the key -log Z_t. A sum and what it receives meet with
exponents that are not positive, because Z_s holds at least e^{k_t} decayed from t to s.

Both passes are operators of their own, because torch.compile does not follow writes into parts of a tensor.
"""

import math
from typing import Any

import torch
from torch import Tensor

from kernels._wkv.reference import EMPTY
from kernels._wkv.reference import wkv_step as wkv_step

Sums = tuple[Tensor, Tensor, Tensor]  # a, b and their shift


def wkv(k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """y [B, T, D] in the type of v, state [B, 3, D] in float32. Shapes as at the public door."""
    return _forward(k, v, w, u, initial_state)


@torch.library.custom_op("hybrid_nas::wkv_portable", mutates_args=())
def _forward(k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(v, dtype=torch.float32, memory_format=torch.contiguous_format)
    sums = _unpacked(initial_state)
    for part, chunks in _parts(k.shape[1]):
        key, value, out = (_chunked(x[:, part], chunks) for x in (k.float(), v.float(), y))
        before = _starts(key, value, torch.ones_like(w), w, sums)
        for j in range(key.shape[2]):
            out[:, :, j], _ = _read(before, key[:, :, j], value[:, :, j], u)
            before = _advance(before, w, key[:, :, j], value[:, :, j], torch.ones_like(w))
        sums = _last(before)
    return y.to(v.dtype), torch.stack(sums, dim=1)


@_forward.register_fake
def _(k, v, w, u, initial_state):
    return v.new_empty(v.shape), initial_state.new_empty(initial_state.shape)


@torch.library.custom_op("hybrid_nas::wkv_portable_backward", mutates_args=())
def _backward(
    grad: Tensor, grad_state: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of k, v, w, u and the initial state."""
    before, log_z, y, last_shift = _recomputed(k, v, w, u, initial_state)
    k, v, grad = k.float(), v.float(), grad.float()
    own = (u + k - log_z).exp_().mul_(grad)  # what a token's own weight takes of its output
    through_u = own * (v - y)
    grad_k, grad_v, grad_w = through_u.clone(), own, torch.zeros_like(w)
    later = (grad_state[:, 0], grad_state[:, 1], -last_shift)  # what the sums receive behind the part at hand
    a, b, m = before
    for part, chunks in reversed(_parts(k.shape[1])):
        sent, to_a, to_b = (_chunked(x[:, part], chunks).flip(1, 2) for x in (-log_z, grad, -grad * y))
        behind = _starts(sent, to_a, to_b, w, later)
        views = [_chunked(x[:, part], chunks) for x in (k, v, grad_k, grad_v, a, b, m)]
        length = views[0].shape[2]
        for j in range(length):
            # `behind` has the chunks in the order of this pass, the views in that of time.
            key, value, d_key, d_value, a_t, b_t, m_t = (x[:, :, length - 1 - j] for x in views)
            d_a, d_b, shift = (x.flip(1) for x in behind)
            written = (key + shift).exp_()
            d_value += written * d_a
            d_key += written * (d_a * value + d_b)
            grad_w += ((w + shift + m_t).exp_() * (d_a * a_t + d_b * b_t)).sum((0, 1))
            behind = _advance(behind, w, sent[:, :, j], to_a[:, :, j], to_b[:, :, j])
        later = _last(behind)
    d_a, d_b, shift = later
    start_a, start_b, start_m = _unpacked(initial_state)
    weight = (shift + start_m).exp()
    grad_initial = torch.stack((weight * d_a, weight * d_b, weight * (d_a * start_a + d_b * start_b)), dim=1)
    return grad_k, grad_v, grad_w, through_u.sum((0, 1)), grad_initial


@_backward.register_fake
def _(grad, grad_state, k, v, w, u, initial_state):
    wide = [x.new_empty(x.shape, dtype=torch.float32) for x in (k, v)]
    return (*wide, *(x.new_empty(x.shape) for x in (w, u, initial_state)))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor, grad_state: Tensor) -> tuple:
    k, v = ctx.saved_tensors[:2]
    grad_k, grad_v, *others = _backward(grad, grad_state, *ctx.saved_tensors)
    return (grad_k.to(k.dtype), grad_v.to(v.dtype), *others)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _recomputed(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor
) -> tuple[Sums, Tensor, Tensor, Tensor]:
    """The sums before every token, log Z and y, each [B, T, D] in float32, and the last shift [B, D]."""
    a, b, m, log_z, y = (k.new_empty(k.shape, dtype=torch.float32) for _ in range(5))
    sums, ones = _unpacked(initial_state), torch.ones_like(w)
    for part, chunks in _parts(k.shape[1]):
        key, value, *kept = (_chunked(x[:, part], chunks) for x in (k.float(), v.float(), a, b, m, log_z, y))
        before = _starts(key, value, ones, w, sums)
        for j in range(key.shape[2]):
            quotient, log_denominator = _read(before, key[:, :, j], value[:, :, j], u)
            for whole, now in zip(kept, (*before, log_denominator, quotient), strict=True):
                whole[:, :, j] = now
            before = _advance(before, w, key[:, :, j], value[:, :, j], ones)
        sums = _last(before)
    return (a, b, m), log_z, y, sums[2]


def _parts(length: int) -> list[tuple[slice, int]]:
    """Time as chunks of equal length, and what is left over as one more: the tokens of a part and its chunks."""
    chunk = math.isqrt(length)
    whole = length - length % chunk
    parts = [(slice(0, whole), whole // chunk)]
    return parts if whole == length else [*parts, (slice(whole, length), 1)]


def _chunked(x: Tensor, chunks: int) -> Tensor:
    """[B, T, D] as a view [B, chunks, T / chunks, D]."""
    return x.unflatten(1, (chunks, -1))


def _advance(sums: Sums, w: Tensor, key: Tensor, x: Tensor, y: Tensor) -> Sums:
    a, b, m = sums
    past = m + w
    shift = torch.maximum(past, key)
    past = past.sub_(shift).exp_()
    own = (key - shift).exp_()
    return (past * a).addcmul_(own, x), (past * b).addcmul_(own, y), shift


def _read(before: Sums, key: Tensor, value: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """y and log Z of a token."""
    a, b, m = before
    key = u + key
    shift = torch.maximum(m, key)
    past, own = (m - shift).exp_(), key.sub_(shift).exp_()
    denominator = (past * b).add_(own)
    return own.mul_(value).addcmul_(past, a).div_(denominator), denominator.log_().add_(shift)


def _starts(key: Tensor, x: Tensor, y: Tensor, w: Tensor, first: Sums) -> Sums:
    """The sums before every chunk [B, chunks, D], of keys and x [B, chunks, L, D] and y, which may be one for all."""
    batch, chunks, length, channels = key.shape
    if chunks == 1:
        a, b, m = (one.unsqueeze(1) for one in first)
        return a, b, m
    y = y.expand(key.shape)
    zero = key.new_zeros(batch, chunks, channels)
    added: Sums = (zero, zero, torch.full_like(zero, EMPTY))
    for j in range(length):
        added = _advance(added, w, key[:, :, j], x[:, :, j], y[:, :, j])
    starts = [first]
    for c in range(chunks - 1):
        a, b, m = (one[:, c] for one in added)
        starts.append(_advance(starts[-1], w * length, m, a, b))
    a, b, m = (torch.stack(one, dim=1) for one in zip(*starts, strict=True))
    return a, b, m


def _unpacked(state: Tensor) -> Sums:
    a, b, m = state.unbind(1)
    return a, b, m


def _last(sums: Sums) -> Sums:
    a, b, m = (one[:, -1] for one in sums)
    return a, b, m
