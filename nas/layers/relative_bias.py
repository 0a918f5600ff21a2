"""A learned number per head that is added to a score, by the distance between query and key, in buckets.

    s_ij = scale q_i k_j + b[bucket(i - j)]

From the first distance R of the last bucket on it is the same for all keys. So the kernel attends to those, and what
it gives stands as one more key, its log-sum-exp plus that number as the score, beside the R near keys, whose scores
are formed in PyTorch: of ROWS queries at a time beside R + ROWS - 1 keys. These T (R + ROWS - 1) numbers a head, in
float32, are what such a layer holds beyond one without a bias; nothing grows as T².
Source: Raffel et al., T5 (arXiv 1910.10683), section 2.1, with the buckets of its code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import attention
from nas.architecture.positions import first_distances

ROWS = 64


class RelativeBias(nn.Module):
    """The bias of every bucket [H, N]."""

    def __init__(self, heads: int, buckets: int, distance: int, d_model: int) -> None:
        super().__init__()
        first = first_distances(buckets, distance)
        self.sizes = [after - before for before, after in zip(first, [*first[1:], first[-1] + 1], strict=True)]
        self.table = nn.Parameter(torch.empty(heads, buckets))
        nn.init.normal_(self.table, std=d_model**-0.5)

    def by_distance(self) -> Tensor:
        """[H, R + 1] in float32: of the distances 0 to R, the last of which stands for all beyond."""
        table = self.table.float()
        return torch.cat([table[:, i : i + 1].expand(-1, size) for i, size in enumerate(self.sizes)], dim=1)

    def of_slots(self, position: Tensor, slots: int) -> Tensor:
        """[H, S] in float32, for a query at the position [] and a ring of so many slots that ends with it."""
        distance = (position - torch.arange(slots, device=position.device)) % slots
        bias = self.by_distance()
        return bias.index_select(1, distance.clamp(max=bias.shape[1] - 1))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
        sink: Tensor | None,
    ) -> Tensor:
        """As `kernels.attention`, causal: q [B, Tq, Hq, D], k [B, Tk, Hkv, D], v [B, Tk, Hkv, Dv] -> [B, Tq, Hq, Dv].

        A cap holds for scores before the bias.
        """
        queries, keys = q.shape[1], k.shape[1]
        bias = self.by_distance()
        near = min(bias.shape[1] - 1, keys, keys if window is None else window)
        with torch.autocast(q.device.type, enabled=False):
            far = None
            if near < keys and (window is None or window > near):
                # Each query beside the keys that end `near` places before it.
                late = min(queries, keys - near)
                options: dict[str, Any] = {"scale": scale, "softcap": softcap, "return_lse": True}
                options["window"] = None if window is None else window - near
                o, lse = attention(q[:, queries - late :], k[:, : keys - near], v[:, : keys - near], **options)
                early = (queries - late, 0)
                far = (
                    F.pad(o.float(), (0, 0, 0, 0, *early)),
                    F.pad(lse + bias[:, near], (0, 0, *early), value=-torch.inf),
                )
            return _beside_near_keys(q, k, v, bias[:, :near], far, scale, softcap, sink).to(q.dtype)


def _beside_near_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    far: tuple[Tensor, Tensor] | None,
    scale: float,
    softcap: float | None,
    sink: Tensor | None,
) -> Tensor:
    """Attention to the keys at the distances of bias [H, n], and to one further key of each query where there is a
    far (values [B, Tq, Hq, Dv], scores [B, Tq, Hq])."""
    queries, before, near, kv_heads = q.shape[1], k.shape[1] - q.shape[1], bias.shape[1], k.shape[2]
    rows = min(ROWS, queries)
    blocks = -(-queries // rows)
    tail, length, start = blocks * rows - queries, rows + near - 1, before - (near - 1)

    def strips(x: Tensor) -> Tensor:
        """[B, Tk, Hkv, D] -> [B, blocks, Hkv, D, length]: the keys that a block of queries may see."""
        padded = F.pad(x[:, max(start, 0) :].float(), (0, 0, 0, 0, max(-start, 0), tail))
        return padded.unfold(1, length, rows)

    def in_blocks(x: Tensor) -> Tensor:
        """[B, Tq, Hq, D] -> [B, blocks, Hkv, G, rows, D]."""
        padded = F.pad(x.float(), (0, 0, 0, 0, 0, tail))
        return padded.unflatten(1, (blocks, rows)).unflatten(3, (kv_heads, -1)).permute(0, 1, 3, 4, 2, 5)

    asked = in_blocks(q) * scale
    scores = torch.matmul(asked.flatten(3, 4), strips(k)).unflatten(3, asked.shape[3:5])
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + _of_strips(bias, rows).unflatten(0, (kv_heads, -1))
    if start < 0:
        key = torch.arange(start, start + blocks * rows, rows, device=q.device).unsqueeze(1)
        key = key + torch.arange(length, device=q.device)
        scores = scores.masked_fill((key < 0)[:, None, None, None], -torch.inf)
    columns = [scores]
    if far is not None:
        columns.append(in_blocks(far[1].unsqueeze(-1)))
    if sink is not None:
        logit = sink.float().unflatten(0, (kv_heads, -1))
        columns.append(logit[..., None, None].expand(*scores.shape[:-1], 1))
    weights = torch.cat(columns, -1).softmax(-1)
    o = torch.matmul(weights[..., :length].flatten(3, 4), strips(v).mT).unflatten(3, asked.shape[3:5])
    if far is not None:
        o = o + weights[..., length : length + 1] * in_blocks(far[0])
    return o.permute(0, 1, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2)[:, :queries]


def _of_strips(bias: Tensor, rows: int) -> Tensor:
    """bias [H, n] -> [H, rows, rows + n - 1], by query and key of a strip; -inf where a key is later or not near."""
    near = bias.shape[1]
    distance = torch.arange(near - 1, near - 1 + rows, device=bias.device).unsqueeze(1)
    distance = distance - torch.arange(rows + near - 1, device=bias.device)
    unseen = (distance < 0) | (distance >= near)
    return bias[:, distance.clamp(0, near - 1)].masked_fill(unseen, -torch.inf)
