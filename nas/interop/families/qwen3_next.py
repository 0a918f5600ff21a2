"""Qwen3-Next: gated DeltaNet beside gated attention, experts with a shared one; the experts are those of Qwen2-MoE."""

import torch

from nas.architecture import Attention, GatedDeltaNet
from nas.interop.families.readers import layer_type, shared_experts
from nas.interop.families.transformer import ATTENTION, GLU, LLAMA, QWEN2_ATTENTION, QWEN3_MOE, WINDOWED, qwen3_moe_ffn
from nas.interop.family import Part
from nas.interop.fields import always, field
from nas.interop.tensors import Source, filters, plus_one, rows


def _delta_rows(options: GatedDeltaNet) -> Source:
    """Theirs lie by key head: q, k, and v and z of its value heads; and b and a of these. Ours are whole."""
    heads, values = options.key_heads, options.num_heads // options.key_heads
    sizes = (options.key_size, options.key_size, values * options.head_dim, values * options.head_dim)

    def join(tensors: list[torch.Tensor]) -> torch.Tensor:
        qkvz = tensors[0].unflatten(0, (heads, -1)).split(sizes, dim=1)
        gates = tensors[1].unflatten(0, (heads, -1)).split((values, values), dim=1)
        return torch.cat([part.flatten(0, 1) for part in (*qkvz, *gates)])

    return Source(("in_proj_qkvz.weight", "in_proj_ba.weight"), join)


def _queries(options: Attention) -> Source:
    """Of the rows of q_proj, each head's own, without those of its gate."""

    def join(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat((_halves(options, tensors[0])[0], *tensors[1:]))

    return Source(("q_proj", "k_proj", "v_proj"), join)


def _gates(options: Attention) -> Source:
    """Of the rows of q_proj, those of the gates."""
    return Source(("q_proj",), lambda tensors: _halves(options, tensors[0])[1])


def _halves(options: Attention, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    by_head = rows.unflatten(0, (options.num_heads, 2, options.head_dim))
    return by_head[:, 0].flatten(0, 1), by_head[:, 1].flatten(0, 1)


DELTA_NET = Part(
    kind=GatedDeltaNet,
    prefix="linear_attn.",
    norm="input_layernorm",
    options={
        "num_heads": field("linear_num_value_heads"),
        "num_key_heads": field("linear_num_key_heads"),
        "head_dim": field("linear_value_head_dim"),
        "key_dim": field("linear_key_head_dim"),
        "conv_size": field("linear_conv_kernel_dim"),
        "norm_eps": field("rms_norm_eps"),
    },
    tensors={
        "in_proj.weight": _delta_rows,
        "conv.filter": filters("conv1d.weight"),
        "A_log": rows("A_log"),
        "dt_bias": rows("dt_bias"),
        "norm": rows("norm"),
        "out_proj": rows("out_proj"),
    },
)
GATED_ATTENTION = ATTENTION.but(
    options={"window": always(None), "qk_norm": always("head"), "output_gate": always("sigmoid")},
    tensors={
        "qkv.linear": _queries,
        "gate_proj": _gates,
        "qkv.q_norm": plus_one("q_norm"),
        "qkv.k_norm": plus_one("k_norm"),
    },
)
QWEN3_NEXT_MOE = QWEN3_MOE.but(
    options={
        "num_shared": shared_experts("shared_expert_intermediate_size", "moe_intermediate_size"),
        "shared_gate": always(True),
    },
    tensors={
        "shared.in_proj": rows("shared_expert.gate_proj", "shared_expert.up_proj"),
        "shared.out_proj": rows("shared_expert.down_proj"),
        "shared_gate": rows("shared_expert_gate"),
    },
)
QWEN3_NEXT = LLAMA.but(
    mixers={"full_attention": GATED_ATTENTION, "linear_attention": DELTA_NET},
    mixer_of=layer_type,
    ffns={"moe": QWEN3_NEXT_MOE, "glu": GLU},
    ffn_of=qwen3_moe_ffn,
    norms=plus_one,
    expected={"hidden_act": ("silu",)},
    inert=("attention_bias", "intermediate_size", "full_attention_interval"),
)
QWEN2_MOE = WINDOWED.but(
    mixers={"full_attention": QWEN2_ATTENTION, "sliding_attention": QWEN2_ATTENTION},
    ffns={"moe": QWEN3_NEXT_MOE, "glu": GLU},
    ffn_of=qwen3_moe_ffn,
    inert=(
        "qkv_bias",
        "intermediate_size",
    ),  # the tensors say it; the width may be of dense layers that there are none of
)
