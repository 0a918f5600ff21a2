"""Decays that the token sets, one per head or one per key channel: the three forms that published mixers have.

    softplus:    log α = -exp(A_log) softplus(g)     (Mamba-2, arXiv 2405.21060; KDA, arXiv 2510.26692, section 4)
    sigmoid:     α = floor + (1 - floor) σ(g)        (GLA, arXiv 2312.06635, section 4.4; HGRN2, arXiv 2404.07904)
    exponential: log α = -exp(g)                     (RWKV-6, arXiv 2404.05892, section 4.2)

g = W x + bias, W in two parts where a rank is given (with tanh between them in the exponential form), soft-capped
where a cap is given. The logarithm is multiplied by `scale`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.matrix_recurrence import DecayForm
from nas.layers.decay import initial_log_rate, initial_step_bias
from nas.layers.linear import Linear


class DecayGate(nn.Module):
    """From what the first projection gives, `inputs` channels, to logarithms of decays.

    channels: per head; 1 for a decay of the whole head.
    """

    def __init__(
        self,
        form: DecayForm,
        *,
        heads: int,
        channels: int,
        rank: int | None,
        scale: float = 1.0,
        floor: float = 0.0,
        cap: float | None = None,
        slow: bool = True,
    ) -> None:
        """slow: start with decays near one; otherwise at the middle of the sigmoid."""
        super().__init__()
        self.form, self.scale, self.floor, self.cap = form, scale, floor, cap
        self.heads, self.channels = heads, channels
        self.inputs = heads * channels if rank is None else rank
        self.proj = None if rank is None else Linear(rank, heads * channels)
        self.A_log = nn.Parameter(initial_log_rate(heads, low=0.01)) if form == "softplus" else None
        self.bias = nn.Parameter(_initial_bias(form, heads, channels, slow))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] -> log α [..., H], or [..., H, channels] where there are several; in float32."""
        if self.proj is not None:
            x = self.proj(x.tanh() if self.form == "exponential" else x)
        gate = soft_capped(x.float() + self.bias.float(), self.cap).unflatten(-1, (self.heads, self.channels))
        log_decay = self.scale * self._of(gate)
        return log_decay.squeeze(-1) if self.channels == 1 else log_decay

    def _of(self, gate: Tensor) -> Tensor:
        if self.form == "exponential":
            return -gate.exp()
        if self.form == "softplus":
            assert self.A_log is not None, "the form has rates"
            return -self.A_log.float().exp().unsqueeze(-1) * F.softplus(gate)
        if self.floor == 0:
            return F.logsigmoid(gate)
        return (self.floor + (1 - self.floor) * gate.sigmoid()).log()


def soft_capped(x: Tensor, cap: float | None) -> Tensor:
    """cap tanh(x / cap), or x without a cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def _initial_bias(form: DecayForm, heads: int, channels: int, slow: bool) -> Tensor:
    """As published: steps of Mamba; forget gates from 3 to 6 over heads (xLSTM, arXiv 2405.04517); RWKV's -6 to -1."""
    if form == "softplus":
        return initial_step_bias(heads * channels)
    if form == "exponential":
        return torch.linspace(-6.0, -1.0, heads * channels)
    if slow:
        return torch.linspace(3.0, 6.0, heads).repeat_interleave(channels)
    return torch.zeros(heads * channels)
