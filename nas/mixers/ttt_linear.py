"""TTT-Linear: the state of a head is a linear model, which descends on how badly it gives values from keys.

    loss of a token: |LN(k W + b) + k - v|² / 2;  W ← W - η Σ ∇ over a mini-batch, the gradients taken where it began
    o = u + LN(u),  u = q (W - η Σ ∇ of the tokens so far) / √D, and likewise with b

η = base_rate σ(w x) / D is that of the token that reads, and of the last one for the step. q and k have length one; the
norm's weights are those of a head. y = W_o (RMSNorm(o) * silu(z)), over all heads.
Plain PyTorch on every device: mini-batches one after the other, and matrix products within.
Source: Sun et al. (arXiv 2407.04620), sections 2.3 to 2.7; the gradient in closed form: appendix A there.
"""

import torch
from torch import Tensor, nn

from nas.architecture.ttt_linear import TttLinear
from nas.context import Context
from nas.layers.linear import INIT_STD, Linear
from nas.layers.norm import RMSNorm, l2_normalise
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import recurrence_flops

EPS = 1e-6
Model = tuple[Tensor, Tensor, Tensor, Tensor]
"""W [B, H, D, D] and b [B, H, 1, D] where the mini-batch began, and the sums of their gradients since."""


class TttLinearMixer(Mixer):
    """`in_proj` gives q, k, v, z and the rates, in this order."""

    def __init__(self, options: TttLinear, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads, self.head_dim = options.num_heads, options.head_dim
        self.mini_batch, self.base_rate = options.mini_batch, options.base_rate
        inner = options.num_heads * options.head_dim
        self.sizes = (3 * inner, inner, options.num_heads)
        self.in_proj = Linear(d_model, sum(self.sizes))
        self.start = nn.Parameter(INIT_STD * torch.randn(options.num_heads, options.head_dim, options.head_dim))
        self.start_bias = nn.Parameter(torch.zeros(options.num_heads, 1, options.head_dim))
        self.inner_weight = nn.Parameter(torch.ones(inner))
        self.inner_bias = nn.Parameter(torch.zeros(inner))
        self.norm = RMSNorm(inner)
        self.out_proj = Linear(inner, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        position = 0 if context is None else context.position
        qkv, z, rate = self.in_proj(x).split(self.sizes, dim=-1)
        q, k, v, eta = self._heads(qkv, rate)
        model = self._begun(x.shape[0]) if state is None else _of_state(state)
        outputs, first = [], 0
        while first < x.shape[1]:
            last = min(x.shape[1], first + self.mini_batch - (position + first) % self.mini_batch)
            part = slice(first, last)
            ends = torch.full((), (position + last) % self.mini_batch == 0, device=x.device)
            o, model = self._learn(q[:, :, part], k[:, :, part], v[:, :, part], eta[:, :, part], model, ends=ends)
            outputs.append(o)
            first = last
        o = torch.cat(outputs, 2).transpose(1, 2)
        return self._finish(o, z), None if state is None else _to_state(model)

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        qkv, z, rate = self.in_proj(x.unsqueeze(1)).split(self.sizes, dim=-1)
        # Where the token stands is read on the device, so that one captured graph serves every position.
        ends = (context.clock_on(x.device) + 1) % self.mini_batch == 0
        o, model = self._learn(*self._heads(qkv, rate), _of_state(state), ends=ends)
        return self._finish(o.transpose(1, 2), z).squeeze(1), _to_state(model)

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        return _to_state(tuple(part.detach().clone().to(device) for part in self._begun(batch)))  # type: ignore[arg-type]

    def flops(self, tokens: int, context_len: int) -> int:
        # The model and the sum of gradients are read by queries, the model by keys, and the sum grows.
        recurrence = recurrence_flops(tokens, self.num_heads, self.head_dim, self.head_dim, products=4)
        return linear_flops(tokens, self.in_proj, self.out_proj) + recurrence

    def _begun(self, batch: int) -> Model:
        """The model before the first token."""
        weight = self.start.float().expand(batch, -1, -1, -1)
        bias = self.start_bias.float().expand(batch, -1, -1, -1)
        return weight, bias, torch.zeros_like(weight), torch.zeros_like(bias)

    def _heads(self, qkv: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [B, H, T, D] and η [B, H, T, 1] in float32."""
        q, k, v = qkv.unflatten(-1, (3 * self.num_heads, -1)).transpose(1, 2).float().chunk(3, dim=1)
        eta = self.base_rate / self.head_dim * rate.float().sigmoid().mT.unsqueeze(-1)
        return l2_normalise(q) * self.head_dim**-0.5, l2_normalise(k), v, eta

    def _learn(
        self, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, model: Model, *, ends: Tensor
    ) -> tuple[Tensor, Model]:
        """What tokens of one mini-batch [B, H, n, D] read, the model after them; `ends` []: with the last of them."""
        weight, bias, of_weight, of_bias = model
        gradient = self._gradient(k, v, k @ weight + bias)
        # A token sees the gradients of its mini-batch up to its own.
        seen = (q @ k.mT).tril() @ gradient + gradient.cumsum(-2)
        o = q @ weight + bias - eta * (q @ of_weight + of_bias + seen)
        of_weight, of_bias = of_weight + k.mT @ gradient, of_bias + gradient.sum(-2, keepdim=True)
        step = eta[:, :, -1:] * ends
        weight, bias = weight - step * of_weight, bias - step * of_bias
        of_weight, of_bias = of_weight * ~ends, of_bias * ~ends
        scale, shift = self._inner_norm()
        return o + _normed(o)[0] * scale + shift, (weight, bias, of_weight, of_bias)

    def _gradient(self, k: Tensor, v: Tensor, given: Tensor) -> Tensor:
        """Of |LN(given) + k - v|² / 2 with respect to `given`."""
        scale, shift = self._inner_norm()
        normed, deviation = _normed(given)
        error = scale * (normed * scale + shift + k - v)
        centred = error - error.mean(-1, keepdim=True) - normed * (error * normed).mean(-1, keepdim=True)
        return centred / deviation

    def _inner_norm(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the norm, [H, 1, D]."""
        shape = (self.num_heads, 1, self.head_dim)
        return self.inner_weight.float().view(shape), self.inner_bias.float().view(shape)

    def _finish(self, o: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(self.norm(o.flatten(-2).to(z.dtype), gate=z))


def _normed(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x less its mean by its deviation, the deviation), over the last axis."""
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    deviation = (variance + EPS).sqrt()
    return (x - mean) / deviation, deviation


def _of_state(state: State) -> Model:
    return state["weight"], state["bias"], state["of_weight"], state["of_bias"]


def _to_state(model: Model) -> State:
    return dict(zip(("weight", "bias", "of_weight", "of_bias"), model, strict=True))
