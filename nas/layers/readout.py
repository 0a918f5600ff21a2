"""What becomes of the heads that a recurrence reads: a norm and a gate, in either order."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.matrix_recurrence import Gate, HeadNorm
from nas.layers.norm import RMSNorm


class Readout(nn.Module):
    """o [..., H, V] and the gate's channels z [..., H V] -> [..., H V].

    norm: `head` RMSNorm of each head with one weight for all, `full` of all heads together, `layer` LayerNorm of each
    head with its own weights (GroupNorm), with a bias where `bias`.
    """

    def __init__(
        self, *, heads: int, size: int, norm: HeadNorm, gate: Gate, gate_first: bool, eps: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.kind: HeadNorm = norm
        self.gate: Gate = gate
        self.gate_first, self.size, self.eps = gate_first, size, eps
        if norm in ("head", "full"):
            self.norm = RMSNorm(size if norm == "head" else heads * size, eps=eps)
        self.weight = nn.Parameter(torch.ones(heads * size)) if norm == "layer" else None
        self.bias = nn.Parameter(torch.zeros(heads * size)) if norm == "layer" and bias else None

    def forward(self, o: Tensor, z: Tensor | None) -> Tensor:
        if z is None:
            return self._normed(o)
        if self.kind in ("head", "full") and self.gate == "silu":  # one operation
            z = z.unflatten(-1, (-1, self.size))
            if self.kind == "full":
                o, z = o.flatten(-2), z.flatten(-2)
            y = self.norm(o, gate=z, gate_first=self.gate_first)
            return y.flatten(-2) if self.kind == "head" else y
        opened = F.silu(z) if self.gate == "silu" else z.sigmoid()
        if self.gate_first:
            return self._normed(o * opened.unflatten(-1, (-1, self.size)))
        return self._normed(o) * opened

    def _normed(self, o: Tensor) -> Tensor:
        if self.kind == "none":
            return o.flatten(-2)
        if self.kind == "head":
            return self.norm(o).flatten(-2)
        if self.kind == "full":
            return self.norm(o.flatten(-2))
        assert self.weight is not None, "the norm has weights"
        y = F.layer_norm(o, (self.size,), eps=self.eps).flatten(-2) * self.weight.to(o.dtype)
        return y if self.bias is None else y + self.bias.to(o.dtype)
