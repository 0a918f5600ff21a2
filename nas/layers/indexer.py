"""The indexer of DeepSeek sparse attention: scores every earlier token cheaply, so that attention reads only the best.

    I_ts = sum_j w_tj relu(q_tj k_s / sqrt(index_dim)) / sqrt(index_heads)

It is trained by the divergence of softmax(I) from the attention, summed over heads, on the tokens that were picked;
no gradient leaves it. Source: DeepSeek-V3.2 (arXiv 2512.02556), section 2.1; its layers are those of the published
code, without the Hadamard transform, which changes no product, and without 8-bit scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels import indexed_tokens
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.norm import LayerNorm
from nas.layers.rope import Rope, rotate

QUERIES_PER_CHUNK = 256  # scores of so many queries with all keys are held at a time


class Indexer(nn.Module):
    """Queries are projected from `query_size` channels, keys and weights from those of the model."""

    def __init__(self, d_model: int, query_size: int, *, heads: int, size: int, rope: Rope | None) -> None:
        super().__init__()
        self.heads, self.size, self.rope = heads, size, rope
        self.q_proj = Linear(query_size, heads * size)
        self.k_proj = Linear(d_model, size)
        self.k_norm = LayerNorm(size, bias=True)
        self.weight_proj = Linear(d_model, heads)

    def queries(self, short: Tensor, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """(queries [B, T, heads, size], their weights [B, T, heads])."""
        q = self.q_proj(short.detach()).unflatten(-1, (self.heads, self.size))
        return self._rotated(q, context), self.weight_proj(x.detach()) * self.heads**-0.5

    def keys(self, x: Tensor, context: Context) -> Tensor:
        """x [B, T, d] -> [B, T, 1, size], in the type of the queries: autocast leaves norms in float32."""
        k = self.k_proj(x.detach())
        return self._rotated(self.k_norm(k).to(k.dtype).unsqueeze(2), context)

    def picks(self, q: Tensor, weight: Tensor, k: Tensor, top_k: int, position: Tensor | None = None) -> Tensor:
        """The tokens of k [B, Tk, 1, size] that the last Tq, or those at `position` [Tq], see: [B, Tq, 1, min(top_k,
        Tk)], -1 where fewer are."""
        return indexed_tokens(q, k.squeeze(2), weight, top_k, scale=self.size**-0.5, position=position)

    def flops(self, tokens: int, pairs: int) -> int:
        """Of projections of so many tokens and scores of so many pairs of a query and a key."""
        linears = self.q_proj.weight.numel() + self.k_proj.weight.numel() + self.weight_proj.weight.numel()
        return 2 * tokens * linears + 2 * pairs * self.heads * self.size

    def loss(
        self, scores_of: tuple[Tensor, Tensor, Tensor], q: Tensor, k: Tensor, picks: Tensor, scale: float
    ) -> Tensor:
        """Mean over queries of KL(attention over the picked tokens || softmax of their scores).

        scores_of: queries, weights and keys of the indexer. q, k [B, T, H, D]: those of the attention, of equal length.
        picks [B, T, S].
        """
        parts = []
        for start in range(0, q.shape[1], QUERIES_PER_CHUNK):
            rows = slice(start, min(start + QUERIES_PER_CHUNK, q.shape[1]))
            chosen = picks[:, rows]
            wanted = _attention_over(q[:, rows], k, chosen, scale)
            index_q, weight, index_k = scores_of
            parts.append(checkpoint(self._divergence, index_q[:, rows], weight[:, rows], index_k, chosen, wanted,
                                    use_reentrant=False))  # fmt: skip
        return torch.stack(parts).sum() / (q.shape[0] * q.shape[1])

    def _divergence(self, q: Tensor, weight: Tensor, k: Tensor, picks: Tensor, wanted: Tensor) -> Tensor:
        products = torch.relu(self.size**-0.5 * torch.einsum("bthd,bnd->bthn", q.float(), k.squeeze(2).float()))
        scores = torch.einsum("bthn,bth->btn", products.float(), weight.float()).float()
        picked = scores.gather(-1, picks.clamp(min=0))
        told = picked.masked_fill(picks < 0, torch.finfo(torch.float32).min).log_softmax(-1)
        return F.kl_div(told, wanted, reduction="sum")

    def _rotated(self, x: Tensor, context: Context) -> Tensor:
        return x if self.rope is None else rotate(x, self.rope, context)


@torch.no_grad()
def _attention_over(q: Tensor, k: Tensor, picks: Tensor, scale: float) -> Tensor:
    """Attention weights of queries to their picked tokens, averaged over heads: [B, Tq, S], each row with sum 1."""
    scores = scale * torch.einsum("bthd,bnhd->bhtn", q.float(), k.float()).float()
    chosen = picks.clamp(min=0).unsqueeze(1).expand(-1, scores.shape[1], -1, -1)
    picked = scores.gather(-1, chosen).masked_fill((picks < 0).unsqueeze(1), torch.finfo(torch.float32).min)
    return picked.softmax(-1).mean(1) * (picks >= 0)
