"""Attention in PyTorch alone, on any device; on CPU the fastest there is.

`scaled_dot_product_attention` does the arithmetic. What is decided here is how little of the T x T square it is shown:

* causal over equal lengths: its own fast path, which skips the upper triangle;
* a window much shorter than the sequence: queries in blocks of a window, each beside its own strip of keys, so that the
  cost follows T x window;
* everything else: a mask, a chunk of queries at a time, each beside only the keys that its chunk may see.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured on a CPU core in float32, heads of 64, T 256 to 4096, windows 32 to 512. Strips cost a copy of keys and
# values and pay only from eight windows on, where chunks lose to one whole gradient of k and v for each chunk.
SMALLEST_STRIP = 64
WINDOWS_FOR_STRIPS = 8
QUERIES_PER_CHUNK = 128


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool,
    window: int | None,
    block_mask: Tensor | None,
    block_size: int | None,
) -> Tensor:
    """See `kernels.attention`."""
    queries, keys = q.shape[1], k.shape[1]
    if window is not None and window >= keys:
        window = None
    if block_mask is None:
        if not causal or (queries == 1 and window is None):
            return _sdpa(q, k, v, scale)
        if queries == keys and window is None:
            return _sdpa(q, k, v, scale, is_causal=True)
        if window is not None and queries > WINDOWS_FOR_STRIPS * max(window, SMALLEST_STRIP):
            return _banded(q, k, v, scale, window)
    return _masked(q, k, v, scale, causal, window, block_mask, block_size)


def attention_step(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, length: int, scale: float, keep: Tensor | None
) -> Tensor:
    """See `kernels.attention_step`."""
    batch, heads, size = q.shape
    kv_heads = k_cache.shape[2]
    k, v = (cache[:, :length].transpose(1, 2) for cache in (k_cache, v_cache))  # [B, Hkv, S, D]
    if keep is not None:
        keep = keep[:, :, :length]
        most = int(keep.sum(-1).max())
        # Gathering copies each kept slot once; reading all slots costs about as much as copying half of them.
        if most <= length // 2:
            slots = keep.byte().topk(max(most, 1), dim=-1).indices  # [B, Hkv, most]
            keep = keep.gather(-1, slots)
            k, v = (x.gather(2, slots.unsqueeze(-1).expand(-1, -1, -1, size)) for x in (k, v))
        keep = keep.unsqueeze(2)
    # The heads of a group are the queries of one key head: no key is copied.
    o = _masked_sdpa(q.reshape(batch, kv_heads, heads // kv_heads, size), k, v, scale, keep)
    return o.reshape(batch, heads, size)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool = False) -> Tensor:
    """[B, T, H, D] in and out, without a mask."""
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


def _masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool,
    window: int | None,
    block_mask: Tensor | None,
    block_size: int | None,
) -> Tensor:
    """Any visibility, a chunk of queries at a time: the mask never has more than chunk x Tk entries per head."""
    queries, keys, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    outputs = []
    for start in range(0, queries, QUERIES_PER_CHUNK):
        stop = min(start + QUERIES_PER_CHUNK, queries)
        before = keys - queries if causal else 0
        last = before + stop if causal else keys
        first = 0 if window is None else max(before + start - window + 1, 0)
        position = torch.arange(before + start, before + stop, device=q.device).unsqueeze(1)
        key = torch.arange(first, last, device=q.device)
        mask = key <= position if causal else torch.ones_like(key, dtype=torch.bool).expand(stop - start, -1)
        if window is not None:
            mask = mask & (key > position - window)
        if block_mask is not None and block_size is not None:
            selected = block_mask[:, start:stop, :, key // block_size].transpose(1, 2)  # [B, Hkv, chunk, keys]
            mask = (mask & selected).repeat_interleave(group, dim=1)
        chunk = (q[:, start:stop], k[:, first:last], v[:, first:last])
        outputs.append(_masked_sdpa(*(x.transpose(1, 2) for x in chunk), scale, mask).transpose(1, 2))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
