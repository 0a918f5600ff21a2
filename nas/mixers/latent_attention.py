"""Multi-head latent attention: keys and values of all heads are linear in one short vector, and that is what is cached.

    c = RMSNorm(W_c x);  r = rotated(W_r x);  k_h = [K_h c, r];  v_h = V_h c;  q_h = [q_h', rotated(q_h'')]
    scores q_h k_h / sqrt(head_dim + rope_dim);  y = W_o [o_1 .. o_H]

Sequences are read with keys and values written out. A decode step reads the cache [c, r] as the keys and c as the
values of every head instead: K_h moves to the query, q_h' K_h, and V_h behind the softmax.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1 and appendix C; without rotation: Kimi Linear (arXiv 2510.26692),
section 4.
"""

import torch
from torch import Tensor, nn

from kernels import attention, attention_step
from nas.architecture.latent_attention import LatentAttention
from nas.context import Context
from nas.layers.kv_cache import append, extend, pairs_in_window, slot_and_length
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm
from nas.layers.rope import Rope, rotate
from nas.mixers.base import Mixer, State, linear_flops


class LatentAttentionMixer(Mixer):
    """The state holds `latent_dim + rope_dim` numbers a token.

    Rows of `q_proj` (behind a vector of `query_rank`: `q_up`) are, for each head, those of its own channels, then of
    the rotated ones; those of `kv_down` are c, then r; those of `kv_up` are, for each head, K_h, then V_h.
    """

    def __init__(self, options: LatentAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.causal = options.causal
        self.num_heads, self.latent_dim = options.num_heads, options.latent_dim
        self.own, self.shared, self.value = options.head_dim, options.rope_dim, options.value_size
        self.scale = options.score_scale * (self.own + self.shared) ** -0.5
        self.rope = _rope_of(options)
        queries, bias = self.num_heads * (self.own + self.shared), options.down_bias
        if options.query_rank is None:
            self.q_proj = Linear(d_model, queries)
        else:
            self.q_down = Linear(d_model, options.query_rank, bias=bias)
            self.q_norm = RMSNorm(options.query_rank, eps=options.norm_eps)
            self.q_up = Linear(options.query_rank, queries)
        self.query_rank = options.query_rank
        self.kv_down = Linear(d_model, self.latent_dim + self.shared, bias=bias)
        self.kv_norm = RMSNorm(self.latent_dim, eps=options.norm_eps)
        self.kv_up = Linear(self.latent_dim, self.num_heads * (self.own + self.value))
        self.out_proj = Linear(self.num_heads * self.value, d_model, bias=options.out_bias)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, latent = self._queries(self._short_queries(x), context), self._latent(x, context)
        if state is not None and self.causal:
            latent = extend(state["latent"], latent, context.position)
        k, v = self._written_out(latent)
        return self.out_proj(attention(q, k, v, causal=self.causal, scale=self.scale).flatten(2)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        self.check_causal()
        x = x.unsqueeze(1)
        q, latent = self._queries(self._short_queries(x), context), self._latent(x, context)
        slot, length = slot_and_length(context, state["latent"].shape[1], 0, x.device)
        return self._absorbed(q[:, 0], append(state["latent"], latent[:, 0], slot), length), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        if not self.causal:
            return {}
        shape = (batch, max_len, 1, self.latent_dim + self.shared)
        return {"latent": torch.zeros(shape, dtype=dtype, device=device)}

    def flops(self, tokens: int, context_len: int) -> int:
        pairs = pairs_in_window(tokens, context_len, None) if self.causal else tokens**2
        return linear_flops(tokens, *self._linears()) + pairs * self._flops_of_a_pair(tokens)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # All of the cache is read; only what belongs to the new tokens is written.
        return self.state_bytes(context_len + tokens, dtype) + self.state_bytes(tokens, dtype)

    def _linears(self) -> list[nn.Linear]:
        queries = [self.q_proj] if self.query_rank is None else [self.q_down, self.q_up]
        return [*queries, self.kv_down, self.kv_up, self.out_proj]

    def _flops_of_a_pair(self, tokens: int) -> int:
        """Of a query and a key of all heads. A single token is counted as it is decoded, on the cache itself."""
        written_out = self.own + self.shared + self.value
        absorbed = 2 * self.latent_dim + self.shared
        return 2 * self.num_heads * (absorbed if tokens == 1 else written_out)

    def _short_queries(self, x: Tensor) -> Tensor:
        """x [B, T, d] -> what the queries are projected from: x itself, or the normalised vector of `query_rank`."""
        return x if self.query_rank is None else self.q_norm(self.q_down(x))

    def _queries(self, short: Tensor, context: Context) -> Tensor:
        """-> [B, T, H, own + shared], the shared channels rotated."""
        q = (self.q_proj if self.query_rank is None else self.q_up)(short).unflatten(-1, (self.num_heads, -1))
        own, shared = q.split((self.own, self.shared), dim=-1)
        return q if self.rope is None else torch.cat((own, rotate(shared, self.rope, context)), dim=-1)

    def _latent(self, x: Tensor, context: Context) -> Tensor:
        """x [B, T, d] -> what is cached: [B, T, 1, latent + shared], normalised and rotated."""
        latent, shared = self.kv_down(x).unsqueeze(2).split((self.latent_dim, self.shared), dim=-1)
        shared = shared if self.rope is None else rotate(shared, self.rope, context)
        return torch.cat((self.kv_norm(latent), shared), dim=-1)

    def _written_out(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """latent [B, T, 1, latent + shared] -> keys [B, T, H, own + shared] and values [B, T, H, value]."""
        compressed, shared = latent.split((self.latent_dim, self.shared), dim=-1)
        own, v = self.kv_up(compressed.squeeze(2)).unflatten(-1, (self.num_heads, -1)).split((self.own, self.value), -1)
        return torch.cat((own, shared.expand(-1, -1, self.num_heads, -1)), dim=-1), v

    def _absorbed(self, q: Tensor, cache: Tensor, length: Tensor, listed: Tensor | None = None) -> Tensor:
        """One query of every head, q [B, H, own + shared], over the first slots of the cache [B, S, 1, latent +
        shared], or those of them that are listed, [B, 1, n]: y [B, d]."""
        to_keys, to_values = self.kv_up.weight.unflatten(0, (self.num_heads, -1)).split((self.own, self.value), dim=1)
        own, shared = q.split((self.own, self.shared), dim=-1)
        on_cache = torch.cat((torch.einsum("bhn,hnr->bhr", own, to_keys), shared), dim=-1)
        o = attention_step(on_cache, cache, None, length, scale=self.scale, listed=listed, value_size=self.latent_dim)
        return self.out_proj(torch.einsum("bhr,hvr->bhv", o, to_values).flatten(1))


def _rope_of(options: LatentAttention) -> Rope | None:
    if options.position != "rope":
        return None
    return Rope(
        size=options.rope_dim,
        base=options.rope_base,
        interleaved=options.rope_interleaved,
        scaling=options.rope_scaling,
    )
