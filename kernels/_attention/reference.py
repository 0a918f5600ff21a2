"""The definition of attention, query by query in float32, for tests. Slow."""

import torch
from torch import Tensor


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
    outputs = []
    for i in range(queries):
        sees = torch.ones(k.shape[0], k.shape[2], keys, dtype=torch.bool, device=k.device)  # [B, Hkv, Tk]
        for j in range(keys):
            position = keys - queries + i
            if causal and j > position:
                sees[:, :, j] = False
            if window is not None and j <= position - window:
                sees[:, :, j] = False
            if block_mask is not None and block_size is not None:
                sees[:, :, j] &= block_mask[:, i, :, j // block_size]
        outputs.append(_attend(q[:, i], k, v, scale, sees))
    return torch.stack(outputs, dim=1)


def attention_step(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, length: int, scale: float, keep: Tensor | None
) -> Tensor:
    """See `kernels.attention_step`."""
    batch, slots, heads, _ = k_cache.shape
    sees = torch.ones(batch, heads, slots, dtype=torch.bool, device=q.device) if keep is None else keep.clone()
    sees[:, :, length:] = False
    return _attend(q, k_cache, v_cache, scale, sees)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, sees: Tensor) -> Tensor:
    """One query per head: q [B, Hq, D], k and v [B, T, Hkv, D], sees [B, Hkv, T] -> [B, Hq, D]."""
    group = q.shape[1] // k.shape[2]
    k, v = (x.float().repeat_interleave(group, dim=2) for x in (k, v))  # [B, T, Hq, D]
    sees = sees.repeat_interleave(group, dim=1)  # [B, Hq, T]
    scores = scale * torch.einsum("bhd,bthd->bht", q.float(), k)
    # The lowest finite number, not -inf, and the product with `sees`: a query that sees no key gets zeros, not NaN.
    weights = scores.masked_fill(~sees, torch.finfo(torch.float32).min).softmax(dim=-1) * sees
    return torch.einsum("bht,bthd->bhd", weights, v).to(q.dtype)
