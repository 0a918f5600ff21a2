"""Softmax attention over the last tokens and linear attention over all before them, in one sum with one normaliser.

    o_i = (sum_{i-w<j<=i} g exp(s_ij) v_j + sum_{j<=i-w} φ(q_i)ᵀφ(k_j) v_j) / (the same sums of weights alone)

with s_ij = q_iᵀk_j / √D, a learned weight g per head, and features φ of queries and keys as they meet in the window.
The second sum is a matrix recurrence of the tokens that have left the window; a further value that is always 1 gives
its weights. Keys and values of fewer KV heads are repeated before that, so that each head has a state.
Source: Zhang et al., LoLCATs (arXiv 2410.10254), section 3.3, where exp(s_ij) is divided by the largest in the window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import attention, attention_step, matrix_recurrence, matrix_recurrence_step
from nas.architecture.window_linear_attention import WindowLinearAttention
from nas.context import Context
from nas.layers.feature_map import Features
from nas.layers.kv_cache import append, empty_cache, extend, last_in_ring, pairs_in_window, slot_and_length
from nas.layers.linear import Linear
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import matrix_state, recurrence_flops

SMALLEST_SUM = 1e-30


class WindowLinearAttentionMixer(Mixer):
    """The state: keys and values of the last min(max_len, window) tokens, and a matrix per head for those before."""

    def __init__(self, options: WindowLinearAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.options, self.window = options, options.window
        self.qkv = QkvProjection(options, d_model)
        self.q_features, self.k_features = (
            Features(options.feature_map, options.num_heads, options.head_dim) for _ in range(2)
        )
        self.log_weight = nn.Parameter(torch.zeros(options.num_heads))
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, k, v = self.qkv(x, context)
        tokens, before = x.shape[1], 0
        left_k, left_v = k, v
        if state is not None:
            before = min(context.position, self.window)
            left_k, left_v = (
                torch.cat((last_in_ring(state[name], context.position, before).to(new.dtype), new), dim=1)
                for name, new in (("k", k), ("v", v))
            )
            k, v = (extend(state[name], new, context.position) for name, new in (("k", k), ("v", v)))
        near, lse = attention(q, k, v, window=self.window, return_lse=True)
        # Token i of these is written to the state while the one `window` places behind it is read.
        absent = max(0, min(self.window - before, tokens))
        written = self._written(left_k[:, : tokens - absent], left_v[:, : tokens - absent])
        written_k, written_v = (F.pad(part, (0, 0, 0, 0, absent, 0)) for part in written)
        memory = None if state is None else state["memory"]
        far = matrix_recurrence(
            self.q_features(q), written_k, written_v, scale=1.0, initial_state=memory, return_state=state is not None
        )
        if state is None:
            assert isinstance(far, Tensor), "without return_state there is no state"
            return self._finish(near, lse, far), None
        far, memory = far
        return self._finish(near, lse, far), {"k": state["k"], "v": state["v"], "memory": memory}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v = (part[:, 0] for part in self.qkv(x.unsqueeze(1), context))
        slots = state["k"].shape[1]
        slot, length = slot_and_length(context, slots, 0, x.device)
        left = [state[name].index_select(1, slot).to(k.dtype) for name in ("k", "v")]
        written_k, written_v = (part[:, 0] for part in self._written(*left))
        has_left = context.clock_on(x.device) >= self.window
        k_seen, v_seen = append(state["k"], k, slot), append(state["v"], v, slot)
        near, lse = attention_step(q, k_seen, v_seen, length, return_lse=True)
        written_k = written_k * has_left.to(written_k.dtype)
        far, memory = matrix_recurrence_step(self.q_features(q), written_k, written_v, state["memory"], scale=1.0)
        return self._finish(near, lse, far), {"k": state["k"], "v": state["v"], "memory": memory}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        o = self.options
        cache = empty_cache(batch, min(max_len, self.window), o.kv_heads, o.head_dim, dtype, device)
        return {**cache, **matrix_state(None, o.num_heads, o.feature_size, o.value_size, batch, dtype, device)}

    def flops(self, tokens: int, context_len: int) -> int:
        o = self.options
        pairs = pairs_in_window(tokens, context_len, self.window)
        products = 4 * pairs * o.num_heads * o.head_dim
        features = self.q_features.flops(tokens) + self.k_features.flops(tokens)
        state = recurrence_flops(tokens, o.num_heads, o.feature_size, o.value_size, products=2)
        return self.qkv.flops(tokens) + products + features + state + linear_flops(tokens, self.out_proj)

    def _written(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Features of keys [B, T, H, F] and values with a one behind them [B, T, H, D + 1], for every head."""
        k, v = (part.repeat_interleave(self.options.num_heads // self.options.kv_heads, dim=2) for part in (k, v))
        return self.k_features(k), torch.cat((v, torch.ones_like(v[..., :1])), -1)

    def _finish(self, near: Tensor, lse: Tensor, far: Tensor) -> Tensor:
        """Of the attention in the window [..., H, D] with its log-sum-exp [..., H], and the sums before it."""
        sums, weights = far[..., :-1].float(), far[..., -1].float()
        log_near, total = lse + self.log_weight.float(), weights.clamp_min(SMALLEST_SUM)
        log_far = torch.where(weights > 0, total.log(), -torch.inf)
        largest = torch.maximum(log_near, log_far).detach()  # both are divided by it, so that neither overflows
        of_near, of_far = ((part - largest).exp().unsqueeze(-1) for part in (log_near, log_far))
        o = (of_near * near.float() + of_far * sums / total.unsqueeze(-1)) / (of_near + of_far)
        return self.out_proj(o.to(near.dtype).flatten(-2))
