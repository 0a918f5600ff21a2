"""Attention with any option in PyTorch alone: a chunk of queries at a time beside the keys that the chunk may see.

What is kept for the backward pass is what came in, the output and one number a row; the weights are computed again, so
that no more than one chunk of them exists at any time. Everything is float32.

Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 3.1, with the loop over keys left to one matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels._attention.options import Options

QUERIES_PER_CHUNK = 128


@dataclass(frozen=True)
class Chunk:
    """Queries start .. stop, the runs of keys that they may see, and where they see them: all see the first `open` of
    these keys, and of the rest what the mask says, bool, [n, m - open]; None: all."""

    start: int
    stop: int
    runs: tuple[tuple[int, int], ...]
    open: int
    mask: Tensor | None

    def take(self, x: Tensor) -> Tensor:
        """x [B, H, T, D] at the keys of the runs."""
        parts = [x[:, :, first:last] for first, last in self.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """The inverse of `take`: x is added where it was taken from."""
        done = 0
        for first, last in self.runs:
            total[:, :, first:last] += x[:, :, done : done + last - first]
            done += last - first


def chunks(queries: int, keys: int, options: Options, device: torch.device) -> Iterator[Chunk]:
    """All queries in order. Chunks of a short window are no longer than they must be to look at few keys in vain."""
    for start in range(0, queries, QUERIES_PER_CHUNK):
        stop = min(start + QUERIES_PER_CHUNK, queries)
        shift = keys - queries if options.causal else 0
        last = max(shift + stop, min(options.prefix, keys)) if options.causal else keys
        first = 0 if options.window is None else max(shift + start - options.window + 1, 0)
        seen_by_all = min(max(options.num_global, options.prefix), keys)
        runs = ((0, last),) if first <= seen_by_all else ((0, seen_by_all), (first, last))
        if seen_by_all == 0 and first > 0:
            runs = ((first, last),)
        mask, seen = None, shift + start if options.window is None else 0
        if options.causal:
            position = torch.arange(shift + start, shift + stop, device=device).unsqueeze(1)
            key = torch.cat([torch.arange(*run, device=device) for run in runs])[seen:]
            mask = visible(position, key, options)
        yield Chunk(start, stop, runs, seen, mask)


def visible(position: Tensor, key: Tensor, options: Options) -> Tensor:
    """Which query (by its position) sees which key, where attention is causal; shapes broadcast."""
    sees = key <= position
    if options.window is not None:
        sees = sees & ((key > position - options.window) | (key < options.num_global))
    return sees | (key < options.prefix)


@torch.library.custom_op("hybrid_nas::attention_in_chunks", mutates_args=())
def attention_in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    forgotten: Tensor | None,
    scale: float,
    causal: bool,
    window: int | None,
    num_global: int,
    prefix: int,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, Dv], lse [B, Hq, Tq]); forgotten [B, Hq, Tk]: running sums of the logarithms of forget gates."""
    options = Options(scale, causal, window, num_global, prefix, softcap, True)
    with torch.autocast(q.device.type, enabled=False):
        return _forward(q, k, v, sink, forgotten, options)


@attention_in_chunks.register_fake
def _(q, k, v, sink, forgotten, *options):
    o = q.new_empty(*q.shape[:3], v.shape[3])
    return o, q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


def _save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5], *output)
    ctx.options = Options(*inputs[5:], return_lse=True)
    ctx.set_materialize_grads(False)


def _gradients(ctx, do, dlse):
    q, k, v, sink, forgotten, o, lse = ctx.saved_tensors
    with torch.autocast(q.device.type, enabled=False):
        gradients = _backward(do, dlse, q, k, v, sink, forgotten, o, lse, ctx.options)
    return *gradients, *(None,) * 6


attention_in_chunks.register_autograd(_gradients, setup_context=_save_for_backward)


def _by_heads(x: Tensor) -> Tensor:
    """[B, T, H, D] -> [B, H, T, D] in float32, contiguous."""
    return x.transpose(1, 2).to(torch.float32).contiguous()


def _rows(x: Tensor, chunk: Chunk, kv_heads: int) -> Tensor:
    """The chunk's queries of x [B, T, Hq, D]: [B, Hkv, G * n, D], the heads of a group one below the other."""
    part = x[:, chunk.start : chunk.stop].unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
    # A copy always, which the caller may scale.
    return part.to(torch.float32, memory_format=torch.contiguous_format, copy=True).flatten(2, 3)


def _scores(rows: Tensor, k: Tensor, chunk: Chunk, forgotten: Tensor | None, options: Options, shift: int):
    """Scores [B, Hkv, G, n, m] of scaled rows beside the chunk's keys k, -inf where unseen; the tanh of a cap."""
    n = chunk.stop - chunk.start
    scores = torch.matmul(rows, k.transpose(-1, -2)).unflatten(2, (-1, n))
    capped = None
    if options.softcap is not None:
        capped = torch.tanh(scores / options.softcap)
        scores = capped * options.softcap
    if forgotten is not None:
        sums = forgotten.unflatten(1, (k.shape[1], -1))  # [B, Hkv, G, Tk]
        own = sums[..., shift + chunk.start : shift + chunk.stop].unsqueeze(-1)
        theirs = torch.cat([sums[..., first:last] for first, last in chunk.runs], dim=-1).unsqueeze(-2)
        scores = scores + (own - theirs)
    if chunk.mask is not None:
        scores[..., chunk.open :].masked_fill_(~chunk.mask, float("-inf"))
    return scores, capped


def _forward(q, k, v, sink, forgotten, options):
    queries, keys, kv_heads = q.shape[1], k.shape[1], k.shape[2]
    shift = keys - queries
    k32, v32 = _by_heads(k), _by_heads(v)
    o = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[0], q.shape[2], queries, dtype=torch.float32, device=q.device)
    logit = None if sink is None else sink.float().unflatten(0, (kv_heads, -1))[..., None, None]  # [Hkv, G, 1, 1]
    for chunk in chunks(queries, keys, options, q.device):
        rows = _rows(q, chunk, kv_heads).mul_(options.scale)
        scores, _ = _scores(rows, chunk.take(k32), chunk, forgotten, options, shift)
        peak = scores.amax(-1, keepdim=True)
        if logit is not None:
            peak = torch.maximum(peak, logit)
        weights = scores.sub_(peak).exp_()
        total = weights.sum(-1, keepdim=True)
        if logit is not None:
            total = total + torch.exp(logit - peak)
        out = torch.matmul(weights.flatten(2, 3), chunk.take(v32)).unflatten(2, weights.shape[2:4])
        out = out / total
        o[:, chunk.start : chunk.stop] = out.flatten(1, 2).transpose(1, 2).to(q.dtype)
        lse[:, :, chunk.start : chunk.stop] = (peak + total.log()).flatten(1, 2).squeeze(-1)
    return o, lse


def _backward(do, dlse, q, k, v, sink, forgotten, o, lse, options):
    queries, keys, kv_heads = q.shape[1], k.shape[1], k.shape[2]
    shift = keys - queries
    k32, v32 = _by_heads(k), _by_heads(v)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = torch.zeros_like(k32), torch.zeros_like(v32)
    dforgotten = None if forgotten is None else torch.zeros_like(forgotten)
    do = torch.zeros_like(o) if do is None else do
    delta = (o.float() * do.float()).sum(-1).transpose(1, 2)  # [B, Hq, Tq]
    if dlse is not None:
        delta = delta - dlse
    dsink = None
    if sink is not None:
        dsink = -(torch.exp(sink.float()[:, None] - lse) * delta).sum((0, 2)).to(sink.dtype)
    for chunk in chunks(queries, keys, options, q.device):
        rows, do_rows = _rows(q, chunk, kv_heads).mul_(options.scale), _rows(do, chunk, kv_heads)
        k_part, v_part = chunk.take(k32), chunk.take(v32)
        scores, capped = _scores(rows, k_part, chunk, forgotten, options, shift)
        level, slope = (
            x[:, :, chunk.start : chunk.stop].unflatten(1, (kv_heads, -1)).unsqueeze(-1) for x in (lse, delta)
        )
        weights = scores.sub_(level).exp_()
        chunk.add_to(dv, torch.matmul(weights.flatten(2, 3).transpose(-1, -2), do_rows))
        ds = torch.matmul(do_rows, v_part.transpose(-1, -2)).unflatten(2, weights.shape[2:4])
        ds = ds.sub_(slope).mul_(weights)
        if dforgotten is not None:
            dforgotten[:, :, shift + chunk.start : shift + chunk.stop] += ds.sum(-1).flatten(1, 2)
            chunk.add_to(dforgotten.unsqueeze(-1), -ds.sum(-2).flatten(1, 2).unsqueeze(-1))
        if capped is not None:
            ds = ds.mul_(1 - capped.square())
        ds = ds.flatten(2, 3)
        chunk.add_to(dk, torch.matmul(ds.transpose(-1, -2), rows))
        dq_rows = torch.matmul(ds, k_part).mul_(options.scale).unflatten(2, weights.shape[2:4])
        dq[:, chunk.start : chunk.stop] = dq_rows.flatten(1, 2).transpose(1, 2).to(q.dtype)
    dk, dv = (x.transpose(1, 2).to(like.dtype) for x, like in ((dk, k), (dv, v)))
    return dq, dk, dv, dsink, dforgotten
