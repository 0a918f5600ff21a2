"""Bamba: Mamba-2 with GLUs, some layers of attention."""

from nas.interop.families.mamba import FEED_FORWARD, HYBRID, MAMBA2
from nas.interop.families.readers import has
from nas.interop.families.transformer import ATTENTION
from nas.interop.fields import Fields, always, field

BAMBA_MAMBA = MAMBA2.but(
    prefix="mamba.",
    norm="input_layernorm",
    options={
        "num_heads": field("mamba_n_heads"),
        "head_dim": field("mamba_d_head"),
        "state_dim": field("mamba_d_state"),
        "num_groups": field("mamba_n_groups"),
        "conv_size": field("mamba_d_conv"),
        "norm_eps": field("rms_norm_eps"),
        "conv_bias": has("mamba.conv1d.bias"),
        "in_bias": has("mamba.in_proj.bias"),
        "out_bias": has("mamba.out_proj.bias"),
    },
)


def _bamba_mixer(fields: Fields, layer: int) -> str:
    return "full_attention" if layer in (fields("attn_layer_indices") or ()) else "linear_attention"


BAMBA = HYBRID.but(
    mixers={"full_attention": ATTENTION.but(options={"window": always(None)}), "linear_attention": BAMBA_MAMBA},
    mixer_of=_bamba_mixer,
    ffns={"": FEED_FORWARD},
)
