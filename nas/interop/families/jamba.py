"""Jamba: Mamba-1 with norms inside, every so often attention without positions, every so often experts."""

from nas.interop.families.mamba import FEED_FORWARD, HYBRID, MAMBA1
from nas.interop.families.readers import has
from nas.interop.families.transformer import ATTENTION, MOE
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import rows, transposed_rows

UNPLACED = ATTENTION.but(options={"position": always("none"), "window": always(None)}, groups=())


def _jamba_mixer(fields: Fields, layer: int) -> str:
    every, first = fields("attn_layer_period"), fields("attn_layer_offset")
    return "full_attention" if layer % every == first else "linear_attention"


def _jamba_ffn(fields: Fields, layer: int) -> str:
    every, first = fields("expert_layer_period"), fields("expert_layer_offset")
    return "moe" if fields("num_experts") > 1 and layer % every == first else "glu"


JAMBA_MAMBA = MAMBA1.but(
    prefix="mamba.",
    norm="input_layernorm",
    options={
        "state_dim": field("mamba_d_state"),
        "dt_rank": field("mamba_dt_rank"),
        "conv_size": field("mamba_d_conv"),
        "conv_bias": has("mamba.conv1d.bias"),
        "proj_bias": has("mamba.in_proj.bias"),
        "inner_norm": always("learned"),
        "norm_eps": field("rms_norm_eps"),
    },
)
JAMBA_MOE = MOE.but(
    prefix="feed_forward.",
    norm="pre_ff_layernorm",
    options={"num_experts": field("num_experts"), "normalise": always(False)},
    tensors={
        "router": rows("router"),
        "experts_in": transposed_rows("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight"),
        "experts_out": transposed_rows("experts.{}.down_proj.weight"),
    },
)
JAMBA = HYBRID.but(
    mixers={"full_attention": UNPLACED, "linear_attention": JAMBA_MAMBA},
    mixer_of=_jamba_mixer,
    ffns={"moe": JAMBA_MOE, "glu": FEED_FORWARD},
    ffn_of=_jamba_ffn,
)
