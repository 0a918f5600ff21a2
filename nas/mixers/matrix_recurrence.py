"""A matrix state per head, each of whose parts is an option: decay, erasing, writing, features, norm, gate.

    S ← α S - b (aᵀ S) + k vᵀ;  o = Sᵀ q,  divided by its normaliser where there is one;  y = W_o norm(o) gate(z)

* α: none, fixed per head, or set by the token (`nas.layers.decay_gate`).
* erase: `delta` a = k after the decay, b = β k (Yang et al., DeltaNet, arXiv 2406.06484); `scaled` a = σ(s) k before
  the decay, b = β k, and with `correction` q less a share of k (Hu et al., Comba, arXiv 2506.02475, section 3);
  `channel` a = β ⊙ k after the decay with a strength β per channel, b = k (GDN-2 of flash-linear-attention);
  `separate` a = κ and b = β κ before the decay, with a key κ of its own (Peng et al., RWKV-7, arXiv 2503.14456).
* write: keys times a strength β, values times a gate σ(W x) per channel (GDN-2), keys 1 - α (HGRN2, arXiv 2404.07904),
  or keys times exp(i), kept in range (Beck et al., xLSTM, arXiv 2405.04517, section 2.3; `kernels.mlstm`).
* normaliser: the recurrence of a further value that is always 1: qᵀ(sum of weighted keys), or the larger of its size
  and 1.
* inner_steps: so many keys, values and strengths a token, written one after the other (DeltaProduct, arXiv 2502.10297).
* bonus: the own token is read as (q·(u ⊙ k)) v, whatever was written before it decays by (RWKV-6, arXiv 2404.05892).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import matrix_recurrence, matrix_recurrence_step, mlstm, mlstm_step
from nas.architecture.matrix_recurrence import MatrixRecurrence
from nas.architecture.mixers import GatedDeltaNet
from nas.context import Context
from nas.layers.decay import retention_decay, slope_decay
from nas.layers.decay_gate import DecayGate, soft_capped
from nas.layers.feature_map import Features
from nas.layers.linear import Linear
from nas.layers.norm import l2_normalise
from nas.layers.readout import Readout
from nas.layers.rope import Rope, rotate
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import matrix_state, recurrence_flops

SMALLEST_SUM = 1e-10
INPUT_GATE_BIAS = -10.0
"""Of exponential gates at the start, as published: little is written until that is learned."""


class Inputs(NamedTuple):
    """What the recurrence takes; k, v, beta and erase have an axis of inner steps before the heads if several.

    log_gate: of the exponential gate [..., H].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    erase: tuple[Tensor, Tensor] | None
    log_gate: Tensor | None


class MatrixRecurrenceMixer(Mixer):
    """`in_proj` gives q, k (unless it is one minus the decay) and v, the gate z or its low rank, the strength b, the
    decay or its low rank, the write gate, and the separate key (or strengths of the channels of k), in this order; each
    inner step has its k, v and b.
    """

    def __init__(self, options: MatrixRecurrence, d_model: int) -> None:
        super().__init__()
        # Its own rates are not measured; those of the nearest kinds stand in.
        self.family = options.family if options.erase == "none" else GatedDeltaNet.family
        self.options = o = options
        heads, steps = o.num_heads, o.inner_steps
        queries, values, features = heads * o.key_size, heads * o.head_dim, o.feature_size
        self.keys = 0 if o.write == "complement" else steps * queries
        gate_rank = o.rank(o.gate_rank)
        self.decay = _decay_gate(o) if o.decay in ("scalar", "vector") else None
        has_strength = o.erase in ("delta", "scaled", "separate") or o.write == "scalar"
        write_gate = {"vector": steps * values, "exponential": heads}.get(o.write, 0)
        # With a separate key, what is erased and what is written have strengths of their own.
        strengths = steps * heads * (has_strength + (o.erase == "separate" and o.write == "scalar"))
        self.sizes = {
            "qkv": queries + self.keys + steps * values,
            "gate": 0 if o.gate == "none" else gate_rank or values,
            "beta": strengths,
            "decay": 0 if self.decay is None else self.decay.inputs,
            "write": write_gate,
            "other_key": steps * heads * features if o.erase in ("separate", "channel") else 0,
        }
        self.in_proj = Linear(d_model, sum(self.sizes.values()))
        self.conv = None
        if o.conv_size:
            activation = "silu" if o.qkv_activation == "silu" else None
            self.conv = ShortConv(self.sizes["qkv"], o.conv_size, bias=False, activation=activation)
        self.q_features = Features(o.feature_map, heads, o.key_size)
        self.k_features = Features(o.feature_map, heads, o.key_size) if self.keys else None
        self.rope = Rope(size=o.key_size, base=o.rope_base) if o.position == "rope" else None
        self.write_bias = nn.Parameter(torch.full((heads,), INPUT_GATE_BIAS)) if o.write == "exponential" else None
        self.feedback = nn.Parameter(torch.ones(heads)) if o.erase == "scaled" else None
        self.correction = nn.Parameter(torch.ones(heads)) if o.correction else None
        self.bonus = nn.Parameter(torch.zeros(heads, features)) if o.bonus else None
        self.gate_proj = None if o.gate == "none" or gate_rank is None else Linear(gate_rank, values)
        self.readout = Readout(
            heads=heads, size=o.head_dim, norm=o.output_norm, gate=o.gate, gate_first=o.gate_first, eps=o.norm_eps
        )
        self.scale = o.key_size**-0.5 if o.scaled and o.feature_map != "taylor" else 1.0
        self.out_proj = Linear(values, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        parts, new = self._parts(x), {}
        if self.conv is not None:
            parts["qkv"], last = self.conv(parts["qkv"], None if state is None else state["conv"])
            new = {} if last is None else {"conv": last}
        given = self._in_sequence(self._inputs(parts, context or Context()))
        o, states = self._recur(given, state)
        steps = self.options.inner_steps
        o = o if steps == 1 else o[:, steps - 1 :: steps]
        return self._finish(o, parts["gate"]), None if state is None else {**new, **states}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        parts, new = self._parts(x), {}
        if self.conv is not None:
            parts["qkv"], new["conv"] = self.conv.step(parts["qkv"], state["conv"])
        given = self._inputs(parts, context)
        memory, log_decay = state["memory"], given.log_decay
        if given.log_gate is not None:
            assert log_decay is not None, "exponential gates stand beside decays"
            read = (given.q, given.k, given.v, given.log_gate, log_decay)
            o, (memory, peak) = mlstm_step(*read, (memory, state["peak"]), scale=self.scale)
            return self._finish(o, parts["gate"]), {**new, "memory": memory, "peak": peak}
        for i in range(self.options.inner_steps):
            k, v, beta, erase = self._of_inner_step(given, i)
            options = {"log_decay": log_decay, "beta": beta, "erase": erase, "bonus": self._bonus()}
            o, memory = matrix_recurrence_step(given.q, k, v, memory, **options, scale=self.scale)
            log_decay = None
        return self._finish(o, parts["gate"]), {**new, "memory": memory}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        o = self.options
        state = matrix_state(self.conv, o.num_heads, o.feature_size, o.value_size, batch, dtype, device)
        if self.write_bias is not None:
            state["peak"] = torch.zeros(batch, o.num_heads, device=device)
        return state

    def flops(self, tokens: int, context_len: int) -> int:
        o = self.options
        layers = [self.in_proj, self.out_proj, self.gate_proj, None if self.decay is None else self.decay.proj]
        features = self.q_features.flops(tokens)
        features += 0 if self.k_features is None else o.inner_steps * self.k_features.flops(tokens)
        # A token is read once; each inner step writes, and recalls what it erases; another key writes once more.
        products = 1 + o.inner_steps * (1 + {"none": 0, "delta": 1, "scaled": 2, "channel": 2, "separate": 2}[o.erase])
        return (
            linear_flops(tokens, *(layer for layer in layers if layer is not None))
            + (0 if self.conv is None else self.conv.flops(tokens))
            + features
            + recurrence_flops(tokens, o.num_heads, o.feature_size, o.value_size, products=products)
        )

    def _parts(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.sizes, self.in_proj(x).split(list(self.sizes.values()), dim=-1), strict=True))

    def _recur(self, given: Inputs, state: State | None) -> tuple[Tensor, State]:
        """What all tokens read, and the state of the recurrence after the last one; empty where none is given."""
        q, k, v, log_decay, beta, erase, log_gate = given
        if log_gate is not None:
            assert log_decay is not None, "exponential gates stand beside decays"
            if state is None:
                o = mlstm(q, k, v, log_gate, log_decay, scale=self.scale)
                assert isinstance(o, Tensor), "without return_state there is no state"
                return o, {}
            before = (state["memory"], state["peak"])
            o, (memory, peak) = mlstm(
                q, k, v, log_gate, log_decay, initial_state=before, return_state=True, scale=self.scale
            )
            return o, {"memory": memory, "peak": peak}
        options = {"log_decay": log_decay, "beta": beta, "erase": erase, "bonus": self._bonus(), "scale": self.scale}
        if state is None:
            o = matrix_recurrence(q, k, v, **options)
            assert isinstance(o, Tensor), "without return_state there is no state"
            return o, {}
        o, memory = matrix_recurrence(q, k, v, **options, initial_state=state["memory"], return_state=True)
        return o, {"memory": memory}

    def _inputs(self, parts: dict[str, Tensor], context: Context) -> Inputs:
        """What the recurrence takes; leading axes as given."""
        o = self.options
        log_decay = self._log_decay(parts["decay"])
        q, k, v = self._heads(parts["qkv"], log_decay, context)
        beta, erase, log_gate = None, None, None
        if self.sizes["beta"]:
            beta = self._by_head(parts["beta"].float().sigmoid() * o.beta_max, 1).squeeze(-1)
        if o.write == "vector":
            v = v * self._by_head(parts["write"].sigmoid(), o.head_dim)
        if o.erase == "scaled":
            assert beta is not None and self.feedback is not None, "erasing has a strength"
            k, recalled = k * beta.unsqueeze(-1).to(k.dtype), k * self.feedback.sigmoid().unsqueeze(-1).to(k.dtype)
            erase, beta = (recalled, -k), None
        elif o.erase == "separate":
            assert beta is not None, "erasing has a strength"
            beta, *write = beta.chunk(2, -1) if o.write == "scalar" else (beta,)
            other = l2_normalise(self._by_head(parts["other_key"], o.feature_size))
            erase, beta = (other, other * -beta.unsqueeze(-1).to(k.dtype)), None
            k = k * write[0].unsqueeze(-1).to(k.dtype) if write else k
        elif o.erase == "channel":
            strength = self._by_head(parts["other_key"].sigmoid() * o.beta_max, o.feature_size)
            erase = (k * strength.to(k.dtype) * self._decayed(log_decay, k), -k)
        if o.erase in ("none", "channel") and beta is not None:
            k, beta = k * beta.unsqueeze(-1).to(k.dtype), None
        if self.write_bias is not None:
            log_gate = soft_capped(parts["write"].float() + self.write_bias.float(), o.gate_cap)
        elif o.normaliser != "none":
            v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        return Inputs(q, k, v, log_decay, beta, erase, log_gate)

    def _heads(self, qkv: Tensor, log_decay: Tensor | None, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """q [..., H, F], k [..., H, F] and v [..., H, V], of several inner steps [..., n, H, ...]."""
        o = self.options
        queries = o.num_heads * o.key_size
        if self.conv is None and o.qkv_activation == "silu":
            qkv = F.silu(qkv)
        q, k, v = qkv.split((queries, self.keys, qkv.shape[-1] - queries - self.keys), dim=-1)
        v = self._by_head(v, o.head_dim)
        q = self.q_features(self._rotated(q.unflatten(-1, (-1, o.key_size)), context))
        if self.k_features is None:
            assert log_decay is not None, "keys are what the decay leaves"
            k = -torch.expm1(log_decay).to(q.dtype)
        else:
            k = self.k_features(self._by_head(self._rotated(k.unflatten(-1, (-1, o.key_size)), context), None))
        if o.qk_norm == "l2":
            q, k = l2_normalise(q), l2_normalise(k)
        if self.correction is not None:
            assert self.feedback is not None, "a correction stands beside its feedback"
            share = self.correction * self.feedback.sigmoid()
            q = q - share.unsqueeze(-1).to(q.dtype) * (k if o.inner_steps == 1 else k[..., -1, :, :])
        return q, k, v

    def _rotated(self, x: Tensor, context: Context) -> Tensor:
        """x [B, T, H, K], or [B, H, K] of one token."""
        if self.rope is None:
            return x
        return rotate(x, self.rope, context) if x.ndim == 4 else rotate(x.unsqueeze(1), self.rope, context).squeeze(1)

    def _by_head(self, x: Tensor, size: int | None) -> Tensor:
        """x [..., n H size], or [..., n H, size] with None -> [..., H, size], or [..., n, H, size] of n inner steps."""
        x = x if size is None else x.unflatten(-1, (-1, size))
        return x if self.options.inner_steps == 1 else x.unflatten(-2, (self.options.inner_steps, -1))

    def _log_decay(self, x: Tensor) -> Tensor | None:
        """[..., H] or [..., H, F], of fixed decays [H]; None without one."""
        o = self.options
        if self.decay is not None:
            return self.decay(x)
        if o.decay == "none":
            return None
        fixed = retention_decay if o.form_of_decay == "retention" else slope_decay
        return o.decay_scale * fixed(o.num_heads, x.device)

    def _decayed(self, log_decay: Tensor | None, k: Tensor) -> Tensor | float:
        """What is left of the channels of a state at each write to it, for keys k: a token decays at its first one."""
        if log_decay is None:
            return 1.0
        kept = log_decay.exp().to(k.dtype)
        kept = kept if self.options.decay == "vector" else kept.unsqueeze(-1)
        if self.options.inner_steps == 1:
            return kept
        kept = kept.expand(*k.shape[:-3], k.shape[-2], -1).unsqueeze(-3)
        return torch.cat((kept, torch.ones_like(kept).expand(*k.shape[:-3], self.options.inner_steps - 1, -1, -1)), -3)

    def _in_sequence(self, given: Inputs) -> Inputs:
        """Inner steps as tokens: each token decays at its first and is read at its last."""
        steps = self.options.inner_steps
        if steps == 1:
            return given
        q, k, v, log_decay, beta, erase, log_gate = given
        q = F.pad(q.unsqueeze(2), (0, 0, 0, 0, steps - 1, 0)).flatten(1, 2)
        if log_decay is not None:
            whole = log_decay.expand(*v.shape[:2], -1) if log_decay.ndim == 1 else log_decay
            log_decay = F.pad(whole.unsqueeze(2), (0, 0) * (whole.ndim - 2) + (0, steps - 1)).flatten(1, 2)
        k, v = k.flatten(1, 2), v.flatten(1, 2)
        beta = None if beta is None else beta.flatten(1, 2)
        erase = None if erase is None else (erase[0].flatten(1, 2), erase[1].flatten(1, 2))
        return Inputs(q, k, v, log_decay, beta, erase, log_gate)

    def _of_inner_step(
        self, given: Inputs, i: int
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
        """(k, v, beta, erase) of one inner step of one token."""
        if self.options.inner_steps == 1:
            return given.k, given.v, given.beta, given.erase
        erase = None if given.erase is None else (given.erase[0][:, i], given.erase[1][:, i])
        return given.k[:, i], given.v[:, i], None if given.beta is None else given.beta[:, i], erase

    def _bonus(self) -> Tensor | None:
        return None if self.bonus is None else self.bonus.float()

    def _finish(self, o: Tensor, z: Tensor) -> Tensor:
        kind = self.options.normaliser
        if kind != "none" and self.write_bias is None:
            total = o[..., -1:].float()
            total = total.abs().clamp_min(1) if kind == "max" else total + SMALLEST_SUM
            o = (o[..., :-1].float() / total).to(o.dtype)
        if self.options.gate == "none":
            return self.out_proj(self.readout(o, None))
        return self.out_proj(self.readout(o, z if self.gate_proj is None else self.gate_proj(z)))


def _decay_gate(options: MatrixRecurrence) -> DecayGate:
    form = options.form_of_decay
    assert form is not None, "a decay of the token has a form"
    return DecayGate(
        form,
        heads=options.num_heads,
        channels=options.feature_size if options.decay == "vector" else 1,
        rank=options.rank(options.decay_rank),
        scale=options.decay_scale,
        floor=options.decay_floor,
        cap=options.gate_cap,
        slow=options.decay_scale == 1 and options.write != "complement",
    )
