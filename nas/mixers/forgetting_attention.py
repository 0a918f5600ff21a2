"""Softmax attention with scores that fade with the distance: by forget gates, or at one fixed rate a head.

    s_ij = q_i k_j / sqrt(D) + sum over l = j + 1 .. i of log f_l;  gates: f_l = σ(w x_l + b); ALiBi: log f = -slope

Sources: forgetting attention: Lin et al. (arXiv 2503.02130), section 3; ALiBi: Press et al. (arXiv 2108.12409),
section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import attention, attention_step
from nas.architecture.forgetting_attention import ForgettingAttention
from nas.context import Context
from nas.layers.kv_cache import append, empty_cache, extend, pairs_in_window, slot_and_length
from nas.layers.linear import Linear
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops


class ForgettingAttentionMixer(Mixer):
    """The state holds keys, values and, for gates, the sum of log f up to each token, in float32."""

    def __init__(self, options: ForgettingAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads = options.num_heads
        self.qkv = QkvProjection(options, d_model)
        self.gate_proj = Linear(d_model, options.num_heads, bias=True) if options.fading == "gates" else None
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, k, v = self.qkv(x, context)
        log_forget = self._log_forget(x)
        if state is not None:
            k, v = extend(state["k"], k, context.position), extend(state["v"], v, context.position)
            log_forget = self._since_the_start(state, log_forget, context.position)
        return self.out_proj(attention(q, k, v, log_forget=log_forget).flatten(2)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v = (tensor[:, 0] for tensor in self.qkv(x.unsqueeze(1), context))
        slots = state["k"].shape[1]
        slot, length = slot_and_length(context, slots, 0, x.device)
        k_seen, v_seen = append(state["k"], k, slot), append(state["v"], v, slot)
        if self.gate_proj is None:
            distance = context.clock_on(x.device) - torch.arange(slots, device=x.device)
            bias = (self._slopes(x.device).unsqueeze(1) * -distance).expand(x.shape[0], -1, -1).contiguous()
        else:
            # The slot before the first one is the last one, which holds zero until it is filled.
            before = state["forgotten"].index_select(1, (slot - 1) % slots)[:, 0]
            sums = append(state["forgotten"], before + self._log_forget(x), slot)
            bias = (sums.index_select(1, slot) - sums).transpose(1, 2).contiguous()
        o = attention_step(q, k_seen, v_seen, length, bias=bias)
        return self.out_proj(o.flatten(1)), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        state = empty_cache(batch, max_len, self.qkv.kv_heads, self.qkv.head_dim, dtype, device)
        if self.gate_proj is not None:
            state["forgotten"] = torch.zeros(batch, max_len, self.num_heads, device=device)
        return state

    def flops(self, tokens: int, context_len: int) -> int:
        products = 4 * pairs_in_window(tokens, context_len, None) * self.num_heads * self.qkv.head_dim
        gates = 0 if self.gate_proj is None else linear_flops(tokens, self.gate_proj)
        return self.qkv.flops(tokens) + products + gates + linear_flops(tokens, self.out_proj)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # Everything is read; only what belongs to the new tokens is written.
        return self.state_bytes(context_len + tokens, dtype) + self.state_bytes(tokens, dtype)

    def _log_forget(self, x: Tensor) -> Tensor:
        """x [..., d] -> log f [..., H] in float32."""
        if self.gate_proj is None:
            return (-self._slopes(x.device)).expand(*x.shape[:-1], -1).contiguous()
        return F.logsigmoid(self.gate_proj(x).float())

    def _since_the_start(self, state: State, log_forget: Tensor, position: int) -> Tensor:
        """log f of all tokens read, those of the state before log_forget [B, T, H]; the state is brought up to date."""
        if self.gate_proj is None:
            return log_forget[:, :1].expand(-1, position + log_forget.shape[1], -1).contiguous()
        before = state["forgotten"][:, position - 1 : position] if position else 0
        sums = extend(state["forgotten"], before + log_forget.cumsum(1), position)
        return torch.cat((sums[:, :1], sums.diff(dim=1)), dim=1)

    def _slopes(self, device: torch.device) -> Tensor:
        """Of ALiBi, [H]: from 2^(-8 / H) to 2^-8."""
        heads = torch.arange(1, self.num_heads + 1, dtype=torch.float32, device=device)
        return 2.0 ** (-8.0 * heads / self.num_heads)
