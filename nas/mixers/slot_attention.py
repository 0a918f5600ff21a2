"""Gated slot attention: a softmax over slots into which all tokens so far were written, with a gate of forgetting.

    K ← K diag(α) + k sᵀ;  V ← diag(α) V + s vᵀ;  o = Vᵀ softmax(Kᵀ q / √D);  s = 1 - α, log α = logσ(f) / 8

q, k and v pass SiLU; y = W_o RMSNorm(silu(o)), the norm over all heads. The second state is a matrix recurrence; the
first one decays by columns, which is computed here in chunks of plain PyTorch on every device.
Source: Zhang et al. (arXiv 2409.07146), section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import matrix_recurrence, matrix_recurrence_step
from nas.architecture.slot_attention import GatedSlotAttention
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import recurrence_flops

GATE_TEMPERATURE = 8
CHUNK = 16
"""Tokens whose decays meet pair by pair: so much larger than the states is what is held of them."""


class GatedSlotAttentionMixer(Mixer):
    """`in_proj` gives q, k, v and the gates of the slots, in this order."""

    def __init__(self, options: GatedSlotAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads, self.head_dim, self.num_slots = options.num_heads, options.head_dim, options.num_slots
        inner = options.num_heads * options.head_dim
        self.sizes = (3 * inner, options.num_heads * options.num_slots)
        self.in_proj = Linear(d_model, sum(self.sizes))
        self.norm = RMSNorm(inner)
        self.out_proj = Linear(inner, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        q, k, v, log_decay = self._inputs(x)
        slots = -torch.expm1(log_decay)
        scores, keys = read_columns(q, k, slots, log_decay, None if state is None else state["keys"])
        weights, slots = scores.softmax(-1).to(v.dtype), slots.to(v.dtype)
        if state is None:
            o = matrix_recurrence(weights, slots, v, log_decay=log_decay, scale=1.0)
            assert isinstance(o, Tensor), "without return_state there is no state"
            return self._finish(o), None
        o, memory = matrix_recurrence(
            weights, slots, v, log_decay=log_decay, scale=1.0, initial_state=state["memory"], return_state=True
        )
        return self._finish(o), {"keys": keys, "memory": memory}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v, log_decay = self._inputs(x)
        slots = -torch.expm1(log_decay)
        keys = state["keys"] * log_decay.exp().unsqueeze(-2) + k.float().unsqueeze(-1) * slots.unsqueeze(-2)
        scores = torch.einsum("bhk,bhkm->bhm", q.float(), keys) * self.head_dim**-0.5
        weights, slots = scores.softmax(-1).to(v.dtype), slots.to(v.dtype)
        o, memory = matrix_recurrence_step(weights, slots, v, state["memory"], log_decay=log_decay, scale=1.0)
        return self._finish(o), {"keys": keys, "memory": memory}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        size = (self.head_dim, self.num_slots)
        shapes = {"keys": size, "memory": size[::-1]}
        return {name: torch.zeros(batch, self.num_heads, *shape, device=device) for name, shape in shapes.items()}

    def flops(self, tokens: int, context_len: int) -> int:
        recurrence = recurrence_flops(tokens, self.num_heads, self.head_dim, self.num_slots, products=4)
        return linear_flops(tokens, self.in_proj, self.out_proj) + recurrence

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [..., H, D] and log α [..., H, M] in float32."""
        qkv, f = self.in_proj(x).split(self.sizes, dim=-1)
        q, k, v = F.silu(qkv).unflatten(-1, (3 * self.num_heads, -1)).chunk(3, dim=-2)
        return q, k, v, (F.logsigmoid(f.float()) / GATE_TEMPERATURE).unflatten(-1, (self.num_heads, -1))

    def _finish(self, o: Tensor) -> Tensor:
        return self.out_proj(self.norm(F.silu(o).flatten(-2)))


def read_columns(q: Tensor, k: Tensor, s: Tensor, g: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """K ← K diag(exp g) + k sᵀ from `state` [B, H, D, M] or nothing; Kᵀ q / √D of every token, and the last K.

    q, k [B, T, H, D], s and g [B, T, H, M]; all sums in float32. No exponent is positive.
    """
    length, size = q.shape[1], q.shape[-1]
    chunks = -(-length // CHUNK)
    padded = (F.pad(x.float(), (0, 0, 0, 0, 0, chunks * CHUNK - length)) for x in (q * size**-0.5, k, s, g))
    q, k, s, g = (x.unflatten(1, (chunks, CHUNK)).permute(0, 3, 1, 2, 4) for x in padded)  # [B, H, N, C, ...]
    g = g.cumsum(-2)
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    between = (g.unsqueeze(-2) - g.unsqueeze(-3)).masked_fill(~causal.unsqueeze(-1), -torch.inf).exp()
    out = torch.einsum("bhnij,bhnijm,bhnjm->bhnim", q @ k.mT, between, s)
    whole = g[..., -1:, :]
    added = k.mT @ (s * (whole - g).exp())
    keys = q.new_zeros(*q.shape[:2], size, s.shape[-1]) if state is None else state
    before = []
    for n in range(chunks):
        before.append(keys)
        keys = keys * whole[:, :, n].exp() + added[:, :, n]
    out = out + (q @ torch.stack(before, 2)) * g.exp()
    return out.flatten(2, 3).transpose(1, 2)[:, :length], keys
