"""The definition of attention over listed blocks, query by query in float32, for tests. Slow."""

import torch
from torch import Tensor

from kernels._block_sparse_attention.options import Options
from kernels._block_sparse_attention.portable import check_range


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, options: Options, return_lse: bool
) -> tuple[Tensor, Tensor]:
    """See `kernels.block_sparse_attention`; the log-sum-exp is returned in any case."""
    check_range(blocks, -(-k.shape[1] // options.block_size))
    batch, queries, heads, _ = q.shape
    keys, kv_heads = k.shape[1:3]
    blocks = blocks.expand(batch, -1, kv_heads, -1)
    key = torch.arange(keys, device=q.device)
    outputs, sums = [], []
    for b in range(batch):
        for i in range(queries):
            for h in range(heads):
                kv_head = h // (heads // kv_heads)
                sees = torch.isin(key // options.block_size, blocks[b, i // options.query_block, kv_head])
                if options.causal:
                    sees = sees & (key <= keys - queries + i)
                scores = options.scale * (k[b, sees, kv_head].float() @ q[b, i, h].float())
                sums.append(scores.logsumexp(0) if len(scores) > 0 else scores.new_tensor(float("-inf")))
                outputs.append(scores.softmax(0) @ v[b, sees, kv_head].float())
    shape = (batch, queries, heads)
    return torch.stack(outputs).view(*shape, -1).to(q.dtype), torch.stack(sums).view(shape)
