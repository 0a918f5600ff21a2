"""The definition of attention, query by query in float32, for tests. Slow."""

import torch
from torch import Tensor

from kernels._attention.options import Options, StepOptions


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    log_forget: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """See `kernels.attention`."""
    queries, keys = q.shape[1], k.shape[1]
    outputs, lses = [], []
    for i in range(queries):
        position = keys - queries + i
        seen = torch.tensor([_sees(position, j, options) for j in range(keys)], device=k.device)
        sees = seen.expand(k.shape[0], k.shape[2], -1)  # [B, Hkv, Tk]
        bias = None
        if log_forget is not None:
            # What lies after j up to the query is forgotten; later keys are not seen, so their bias is left at 0.
            later = [log_forget[:, j + 1 : position + 1].float().sum(1) for j in range(keys)]
            bias = torch.stack(later, dim=2)  # [B, Hq, Tk]
        o, lse = _attend(q[:, i], k, v, sees, sink, bias, options.scale, options.softcap)
        outputs.append(o)
        lses.append(lse)
    return torch.stack(outputs, dim=1), torch.stack(lses, dim=1)


def _sees(position: int, key: int, options: Options) -> bool:
    """Whether a query at a position sees a key."""
    if key < options.prefix:
        return True
    if options.causal and key > position:
        return False
    return options.window is None or key > position - options.window or key < options.num_global


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
) -> tuple[Tensor, Tensor]:
    """See `kernels.attention_step`."""
    batch, slots, heads, _ = k_cache.shape
    v_cache = k_cache[..., : options.value_size] if v_cache is None else v_cache
    sees = torch.ones(batch, heads, slots, dtype=torch.bool, device=q.device) if keep is None else keep.clone()
    for b in range(batch):
        filled = int(length if not isinstance(length, Tensor) or length.dim() == 0 else length[b])
        sees[b, :, max(filled, 0) :] = False
    if listed is not None:
        sees &= (listed.unsqueeze(-1) == torch.arange(slots, device=q.device)).any(-2)
    return _attend(q, k_cache, v_cache, sees, sink, bias, options.scale, options.softcap)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sees: Tensor,
    sink: Tensor | None,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """One query per head: q [B, Hq, D], k [B, T, Hkv, D], v [B, T, Hkv, Dv], sees [B, Hkv, T], bias [B, Hq, T]
    -> (o [B, Hq, Dv], lse [B, Hq])."""
    group = q.shape[1] // k.shape[2]
    k, v = (x.float().repeat_interleave(group, dim=2) for x in (k, v))  # [B, T, Hq, D]
    sees = sees.repeat_interleave(group, dim=1)  # [B, Hq, T]
    scores = scale * torch.einsum("bhd,bthd->bht", q.float(), k)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.float()
    # The lowest finite number, not -inf, and the product with `sees`: a query that sees no key gets zeros, not NaN.
    scores = scores.masked_fill(~sees, torch.finfo(torch.float32).min)
    if sink is not None:
        scores = torch.cat((scores, sink.float().expand(q.shape[0], -1).unsqueeze(2)), dim=2)
    weights = scores.softmax(dim=-1)[..., : k.shape[1]] * sees
    sees_any = sees.any(-1) if sink is None else torch.ones_like(sees[..., 0])
    lse = torch.where(sees_any, scores.logsumexp(-1), float("-inf"))
    return torch.einsum("bht,bthd->bhd", weights, v).to(q.dtype), lse
