"""What the cells of gated linear RNNs hand to the vector recurrence h ← α ⊙ h + x: what they keep and what they add.

A cell takes `inputs` times its width of channels (those of the candidate first) and gives (x, log α) by channel.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.vector_recurrence import Cell

RATE = 8.0
"""c of RG-LRU (arXiv 2402.19427, equation 4)."""
SMALLEST_SQUARE = 1e-12


class GatedCell(nn.Module, ABC):
    """inputs: how many projections of its width a cell takes."""

    inputs: int

    @abstractmethod
    def forward(self, given: Tensor, *, starts: bool | Tensor) -> tuple[Tensor, Tensor]:
        """given [B, T, inputs W], or [B, inputs W] of one token -> (x [..., W] in its type, log α [..., W] float32).

        starts: whether the first token of these is that of the sequence; of one token as [] bool on its device, so that
            a CUDA graph of a step serves every position.
        """

    def flops(self, tokens: int) -> int:
        """Two per multiply-accumulate of the products within a cell."""
        return 0


class RgLru(GatedCell):
    """log α = -8 r ⊙ softplus(Λ), x = sqrt(1 - α²) ⊙ i ⊙ u; r and i are sigmoids of u, mixed within each head.

    The first token of a sequence is added whole. Source: De et al., Griffin (arXiv 2402.19427), section 2.4. Λ starts
    such that α² is uniform in [0.81, 0.998] at r = 1/8, as in its code.
    """

    inputs = 1

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.input_gate, self.recurrent_gate = (nn.Parameter(torch.empty(heads, size, size)) for _ in range(2))
        self.input_bias, self.recurrent_bias = (nn.Parameter(torch.zeros(heads, size)) for _ in range(2))
        for weight in (self.input_gate, self.recurrent_gate):
            nn.init.normal_(weight, std=(0.01 / size) ** 0.5)
        kept = torch.empty(heads * size).uniform_(0.9**2, 0.999**2)
        self.rate = nn.Parameter((kept**-0.5 - 1).log())

    def forward(self, given: Tensor, *, starts: bool | Tensor) -> tuple[Tensor, Tensor]:
        r = _by_block(given, self.recurrent_gate, self.recurrent_bias)
        i = _by_block(given, self.input_gate, self.input_bias)
        log_decay = -RATE * r * F.softplus(self.rate.float())
        share = (-torch.expm1(2 * log_decay)).clamp_min(SMALLEST_SQUARE).sqrt()
        if isinstance(starts, Tensor):
            share = share.masked_fill(starts, 1.0)
        elif starts:
            share = torch.cat((torch.ones_like(share[:, :1]), share[:, 1:]), 1)
        return (share * i * given.float()).to(given.dtype), log_decay

    def flops(self, tokens: int) -> int:
        return 2 * tokens * (self.input_gate.numel() + self.recurrent_gate.numel())


class BiasedCell(GatedCell):
    """Cells whose gates have a bias, at the start such that channels keep from σ(1) to σ(6) of their state a token."""

    keeps = 1

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(self.keeps * torch.linspace(1.0, 6.0, heads * size))


class Hgrn(BiasedCell):
    """α = floor + (1 - floor) σ(f), x = (1 - α) ⊙ silu(u) (Qin et al., HGRN, arXiv 2311.04823, section 3.2)."""

    inputs = 2

    def __init__(self, heads: int, size: int, floor: float) -> None:
        super().__init__(heads, size)
        self.floor = floor

    def forward(self, given: Tensor, *, starts: bool | Tensor) -> tuple[Tensor, Tensor]:
        u, f = given.chunk(2, -1)
        f = f.float() + self.bias.float()
        log_decay = (self.floor + (1 - self.floor) * f.sigmoid()).log() if self.floor else F.logsigmoid(f)
        return (-torch.expm1(log_decay) * F.silu(u.float())).to(u.dtype), log_decay


class MinGru(BiasedCell):
    """α = 1 - z, x = z ⊙ u, z = σ(k) (Feng et al., arXiv 2410.01201, section 3.1)."""

    inputs, keeps = 2, -1

    def forward(self, given: Tensor, *, starts: bool | Tensor) -> tuple[Tensor, Tensor]:
        u, k = given.chunk(2, -1)
        k = k.float() + self.bias.float()
        return (k.sigmoid() * u.float()).to(u.dtype), F.logsigmoid(-k)


class MinLstm(BiasedCell):
    """α = f / (f + i), x = i / (f + i) ⊙ u, both sigmoids (Feng et al., arXiv 2410.01201, section 3.2)."""

    inputs = 3

    def forward(self, given: Tensor, *, starts: bool | Tensor) -> tuple[Tensor, Tensor]:
        u, f, i = given.chunk(3, -1)
        more = F.softplus(-(f.float() + self.bias.float())) - F.softplus(-i.float())  # log i - log f
        return (more.sigmoid() * u.float()).to(u.dtype), -F.softplus(more)


def build_cell(name: Cell, heads: int, size: int, floor: float) -> GatedCell:
    """The cell of a name, of `heads` times `size` channels."""
    if name == "rg_lru":
        return RgLru(heads, size)
    if name == "hgrn":
        return Hgrn(heads, size, floor)
    return MinGru(heads, size) if name == "min_gru" else MinLstm(heads, size)


def _by_block(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The sigmoid of a map that mixes the channels within each head, in float32: weight [H, i, o], bias [H, o]."""
    heads = torch.einsum("...hi,hio->...ho", x.unflatten(-1, bias.shape), weight.to(x.dtype))
    return (heads + bias.to(x.dtype)).flatten(-2).float().sigmoid()
