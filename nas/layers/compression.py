"""Runs of keys or values, each brought to one vector: the mean, or a small network over the run.

Source: NSA (arXiv 2502.11089), section 3.3.1, equation 7; the network is shared by the heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.native_sparse_attention import Compression
from nas.layers.linear import Linear


class RunCompression(nn.Module):
    """One vector for the `size` tokens at every multiple of `stride` that are all there."""

    def __init__(self, head_dim: int, *, size: int, stride: int, kind: Compression) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.learned = kind == "mlp"
        if self.learned:
            self.positions = nn.Parameter(torch.zeros(size, head_dim))
            self.in_proj = Linear(size * head_dim, head_dim)
            self.out_proj = Linear(head_dim, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H, D] -> [B, self.count(T), H, D]."""
        if x.shape[1] < self.size:
            return x[:, :0]
        runs = x.unfold(1, self.size, self.stride).transpose(-1, -2)  # [B, N, H, size, D]
        if not self.learned:
            return runs.float().mean(-2).to(x.dtype)
        return self.out_proj(F.silu(self.in_proj((runs + self.positions.to(x.dtype)).flatten(-2))))

    def count(self, tokens: int) -> int:
        """Runs that are complete within so many tokens."""
        return 0 if tokens < self.size else (tokens - self.size) // self.stride + 1

    def flops(self, runs: int) -> int:
        """Of so many runs of one head."""
        return 2 * runs * (self.in_proj.weight.numel() + self.out_proj.weight.numel()) if self.learned else 0
