"""One small call of every public operation, for what must hold of all of them alike."""

from collections.abc import Callable
from typing import Any

import torch

import kernels


def calls(dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], Any]]:
    """By name; tokens and weights in this type, gates and states in float32 where an operation has them so."""
    heads, wide = torch.ones(1, 3, 2, 16, dtype=dtype), torch.ones(1, 3, 4, dtype=dtype)
    blocks, experts = torch.zeros(1, 3, 1, 1, dtype=torch.int64), torch.tensor([[0], [1], [1]])
    token, head, rates = wide[0], heads[:, 0], -torch.ones(4, 2)

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype)

    return {
        "attention": lambda: kernels.attention(heads, heads, heads),
        "attention_step": lambda: kernels.attention_step(head, heads, heads, 2),
        "block_sparse_attention": lambda: kernels.block_sparse_attention(heads, heads, heads, blocks, block_size=2),
        "grouped_matmul": lambda: kernels.grouped_matmul(token, ones(1, 4, 5), torch.tensor([3])),
        "matrix_recurrence": lambda: kernels.matrix_recurrence(heads, heads, heads),
        "matrix_recurrence_step": lambda: kernels.matrix_recurrence_step(head, head, head, torch.zeros(1, 2, 16, 16)),
        "moe_ffn": lambda: kernels.moe_ffn(token, ones(2, 4, 6), ones(2, 3, 4), experts, ones(3, 1)),
        "route_top_k": lambda: kernels.route_top_k(torch.tensor([[0.0, 2.0, 1.0]], dtype=dtype), 2),
        "glu": lambda: kernels.glu(wide, wide),
        "rope": lambda: kernels.rope(heads, torch.ones(3, 8), torch.ones(3, 8)),
        "linear_cross_entropy": lambda: kernels.linear_cross_entropy(token, ones(5, 4), torch.ones(3).long()),
        "rms_norm": lambda: kernels.rms_norm(wide),
        "l2_norm": lambda: kernels.l2_norm(wide),
        "selective_scan": lambda: kernels.selective_scan(wide, wide, rates, wide[..., :2], wide[..., :2]),
        "selective_scan_step": lambda: kernels.selective_scan_step(
            token, token, rates, token[:, :2], token[:, :2], torch.zeros(3, 4, 2)
        ),
        "short_convolution": lambda: kernels.short_convolution(wide, ones(4, 2)),
        "short_convolution_step": lambda: kernels.short_convolution_step(token, 0 * ones(3, 1, 4), ones(4, 2)),
        "vector_recurrence": lambda: kernels.vector_recurrence(wide, -wide),
        "vector_recurrence_step": lambda: kernels.vector_recurrence_step(token, -token, torch.ones(3, 4)),
        "wkv": lambda: kernels.wkv(wide, wide, -torch.ones(4), torch.ones(4)),
        "wkv_step": lambda: kernels.wkv_step(token, token, -torch.ones(4), torch.ones(4), torch.ones(3, 3, 4)),
    }
