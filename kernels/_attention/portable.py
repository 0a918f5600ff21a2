"""Attention in PyTorch alone, on any device; on CPU the fastest there is.

`scaled_dot_product_attention` does the arithmetic. What is decided here is how little of the T x T square it is shown:

* causal over equal lengths: its own fast path, which skips the upper triangle;
* a window much shorter than the sequence: queries in blocks of a window, each beside its own strip of keys, so that the
  cost follows T x window;
* a mask: a chunk of queries at a time, each beside only the keys that its chunk may see.

What it does not compute (sinks, caps, forget gates, global keys, the log-sum-exp) is written out in
`portable_chunks.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels._attention.options import Options, StepOptions
from kernels._attention.portable_chunks import QUERIES_PER_CHUNK, attention_in_chunks

# Measured on a CPU core in float32, heads of 64, T 256 to 4096, windows 32 to 512. Strips cost a copy of keys and
# values and pay only from eight windows on, where chunks lose to one whole gradient of k and v for each chunk.
SMALLEST_STRIP = 64
WINDOWS_FOR_STRIPS = 8


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    log_forget: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.attention`; without the log-sum-exp where it is not asked for."""
    window = options.window
    if window is not None and window >= k.shape[1]:
        window = None
    extras = sink is not None or log_forget is not None or options.softcap is not None or options.return_lse
    reach_back = options.prefix > 0 or (options.num_global > 0 and window is not None)
    if extras or reach_back:
        forgotten = None if log_forget is None else log_forget.float().cumsum(1).transpose(1, 2)
        o, lse = attention_in_chunks(
            q, k, v, sink, forgotten, options.scale, options.causal, window, options.num_global, options.prefix,
            options.softcap,
        )  # fmt: skip
        return o, lse.transpose(1, 2)
    size = v.shape[3]
    if q.shape[3] != size:
        # One head size for both, filled up with zeros: PyTorch has its fast path for that alone.
        q, k, v = (F.pad(x, (0, max(q.shape[3], size) - x.shape[3])) for x in (q, k, v))
    return _plain(q, k, v, options.scale, options.causal, window)[..., :size], None


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int | None) -> Tensor:
    """What `scaled_dot_product_attention` computes, with one head size."""
    queries, keys = q.shape[1], k.shape[1]
    if not causal or (queries == 1 and window is None):
        return sdpa(q, k, v, scale)
    if queries == keys and window is None:
        return sdpa(q, k, v, scale, is_causal=True)
    if window is not None and queries > WINDOWS_FOR_STRIPS * max(window, SMALLEST_STRIP):
        return _banded(q, k, v, scale, window)
    return _masked(q, k, v, scale, window)


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    length: int | Tensor,
    keep: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    listed: Tensor | None,
    options: StepOptions,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.attention_step`; without the log-sum-exp where it is not asked for."""
    v_cache = k_cache[..., : options.value_size] if v_cache is None else v_cache
    if listed is not None:
        k_cache, v_cache, keep, bias = _of_listed(k_cache, v_cache, length, keep, bias, listed)
        length = listed.shape[2]
    kv_heads, slots = k_cache.shape[2], k_cache.shape[1]
    length = _at_hand(length, slots)
    if isinstance(length, Tensor):
        filled = torch.arange(slots, device=q.device) < length.reshape(-1, 1, 1)  # [1 or B, 1, S]
        keep = filled.expand(q.shape[0], kv_heads, slots) if keep is None else keep & filled
    else:
        k_cache, v_cache = k_cache[:, :length], v_cache[:, :length]
        keep, bias = (None if x is None else x[..., :length] for x in (keep, bias))
    k, v = k_cache.transpose(1, 2), v_cache.transpose(1, 2)  # [B, Hkv, S, D]
    # The heads of a group are the queries of one key head: no key is copied.
    rows = q.unflatten(1, (kv_heads, -1))  # [B, Hkv, G, D]
    extras = sink is not None or bias is not None or options.softcap is not None or options.return_lse
    if extras:
        o, lse = _step_in_full(rows, k, v, keep, sink, bias, options)
        return o.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)
    if keep is not None:
        # A length on a device is not known here, and nor is how many slots are kept there, or where code is traced.
        if not isinstance(length, Tensor) and keep.device.type == "cpu" and not torch.compiler.is_compiling():
            k, v, keep = _only_kept(k, v, keep)
        keep = keep.unsqueeze(2)
    return _masked_sdpa(rows, k, v, options.scale, keep).flatten(1, 2), None


def _at_hand(length: int | Tensor, slots: int) -> int | Tensor:
    """As a number where it is one, at least 1, that can be read without waiting; not so where code is traced."""
    if not isinstance(length, Tensor) or length.dim() > 0 or length.device.type != "cpu":
        return length
    if torch.compiler.is_compiling():
        return length
    return min(max(int(length), 0), slots) or length


def _of_listed(
    k: Tensor, v: Tensor, length: int | Tensor, keep: Tensor | None, bias: Tensor | None, listed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """k, v [B, n, Hkv, D], keep [B, Hkv, n] and bias [B, Hq, n] of the listed slots, without those that are none."""
    heads = k.shape[2]
    listed = listed.long()
    seen = (listed >= 0) & (listed < (length.reshape(-1, 1, 1) if isinstance(length, Tensor) else length))
    slots = torch.where(seen, listed, 0)
    k, v = _gathered(k, slots), _gathered(v, slots)
    seen, slots = (x.expand(k.shape[0], heads, -1) for x in (seen, slots))
    if bias is not None:
        bias = bias.gather(2, slots.repeat_interleave(bias.shape[1] // heads, dim=1))
    return k, v, seen if keep is None else seen & keep.gather(2, slots), bias


def _gathered(cache: Tensor, slots: Tensor) -> Tensor:
    """cache [B, S, Hkv, D] at slots [B or 1, Hkv or 1, n]: [B, n, Hkv, D], rows copied whole."""
    if slots.shape[:2] == (1, 1):
        return cache.index_select(1, slots.flatten())
    batch, room, heads, _ = cache.shape
    sequence, head = (torch.arange(n, device=cache.device) for n in (batch, heads))
    row = (sequence.view(-1, 1, 1) * room + slots.transpose(1, 2)) * heads + head  # [B, n, Hkv]
    return cache.flatten(0, 2).index_select(0, row.flatten()).unflatten(0, row.shape)


def _only_kept(k: Tensor, v: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k, v [B, Hkv, S, D] and keep [B, Hkv, S] without the slots that nobody keeps, where that pays."""
    most = int(keep.sum(-1).max())
    # Gathering copies each kept slot once; reading all slots costs about as much as copying half of them.
    if most > keep.shape[-1] // 2:
        return k, v, keep
    slots = keep.byte().topk(max(most, 1), dim=-1).indices  # [B, Hkv, most]
    k, v = (x.gather(2, slots.unsqueeze(-1).expand(-1, -1, -1, x.shape[3])) for x in (k, v))
    return k, v, keep.gather(-1, slots)


def _step_in_full(
    rows: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    options: StepOptions,
) -> tuple[Tensor, Tensor]:
    """Any option, written out in float32: rows [B, Hkv, G, D] -> (o [B, Hkv, G, Dv], lse [B, Hkv, G])."""
    kv_heads = k.shape[1]
    scores = options.scale * torch.matmul(rows.float(), k.float().transpose(-1, -2))
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if bias is not None:
        scores = scores + bias.float().unflatten(1, (kv_heads, -1))
    if keep is not None:
        scores = scores.masked_fill(~keep.unsqueeze(2), float("-inf"))
    lse = scores.logsumexp(-1)
    if sink is not None:
        lse = torch.logaddexp(lse, sink.float().unflatten(0, (kv_heads, -1)))
    weights = torch.exp(scores - lse.masked_fill(lse == float("-inf"), 0.0).unsqueeze(-1))
    return torch.matmul(weights, v.float()), lse


def sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool = False) -> Tensor:
    """[B, T, H, D] in and out, without a mask."""
    if is_causal and scale <= 0:
        # PyTorch hides keys by scores of -inf before it scales them: what is hidden would become +inf or NaN.
        q, scale = q * scale, 1.0
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    o = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale, enable_gqa=grouped)
    return o.transpose(1, 2)


def _masked_sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """[B, H, T, D] in and out; mask bool, broadcastable to [B, H, Tq, Tk]. A query that sees no key gets zeros."""
    grouped = q.shape[1] != k.shape[1]
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    sees_any = mask.any(dim=-1, keepdim=True)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~sees_any, scale=scale, enable_gqa=grouped)
    # A row without a key would be 0 / 0: it is shown every key, and its output is dropped, with the gradient.
    return torch.where(sees_any, o, 0.0)


def _banded(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """Window attention at the cost of the window: block i of C queries beside the C + window - 1 keys it can reach."""
    batch, queries, heads, size = q.shape
    block = max(window, SMALLEST_STRIP)
    blocks = -(-queries // block)
    strip = block + window - 1
    tail = blocks * block - queries
    # Keys before the first query's window are seen by nobody; where there are fewer than that, zeros stand in.
    reach = window - 1
    spare = k.shape[1] - queries - reach
    head = max(-spare, 0)

    def strips(x: Tensor) -> Tensor:  # [B, Tk, H, D] -> [B * blocks, H, strip, D]
        x = F.pad(x[:, max(spare, 0) :], (0, 0, 0, 0, head, tail))
        return x.unfold(1, strip, block).flatten(0, 1).transpose(-1, -2)

    query = torch.arange(block, device=q.device).unsqueeze(1)
    key = torch.arange(strip, device=q.device)
    band = (key >= query) & (key <= query + reach)  # [block, strip]
    first = torch.arange(blocks, device=q.device) * block
    exists = key + first.unsqueeze(1) >= head  # [blocks, strip]
    mask = (band & exists.unsqueeze(1)).unsqueeze(1).repeat(batch, 1, 1, 1)  # [B * blocks, 1, block, strip]

    rows = F.pad(q, (0, 0, 0, 0, 0, tail)).reshape(batch * blocks, block, heads, size).transpose(1, 2)
    o = F.scaled_dot_product_attention(
        rows, strips(k), strips(v), attn_mask=mask, scale=scale, enable_gqa=heads != k.shape[2]
    )
    return o.transpose(1, 2).reshape(batch, blocks * block, heads, size)[:, :queries]


def _masked(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal, a chunk of queries at a time: the mask never has more than chunk x Tk entries."""
    queries, keys = q.shape[1], k.shape[1]
    outputs = []
    for start in range(0, queries, QUERIES_PER_CHUNK):
        stop = min(start + QUERIES_PER_CHUNK, queries)
        before = keys - queries
        last = before + stop
        first = 0 if window is None else max(before + start - window + 1, 0)
        position = torch.arange(before + start, before + stop, device=q.device).unsqueeze(1)
        key = torch.arange(first, last, device=q.device)
        mask = key <= position
        if window is not None:
            mask = mask & (key > position - window)
        chunk = (q[:, start:stop], k[:, first:last], v[:, first:last])
        outputs.append(_masked_sdpa(*(x.transpose(1, 2) for x in chunk), scale, mask).transpose(1, 2))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
