"""Mamba, Falcon-Mamba and Mamba-2: one mixer per layer and no FFN; and what their hybrids with attention share."""

from nas.architecture import Mamba1, Mamba2
from nas.interop.families.readers import counted_heads, has
from nas.interop.families.transformer import GLU
from nas.interop.family import NO_FFN, Family, Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import filters, rows

STEP_LIMITS = {"time_step_limit": ([0.0, float("inf")], (0.0, float("inf")), None)}
INITIALISATION = (
    *("time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale"),
    *("rescale_prenorm_residual", "residual_in_fp32", "chunk_size", "mamba_chunk_size", "z_loss_coefficient"),
    *("use_associative_scan", "use_mamba_kernels", "use_mambapy", "expand", "mamba_expand"),
    *("use_bias", "use_conv_bias", "mamba_conv_bias", "mamba_proj_bias", "attention_bias", "mlp_bias"),
)
"""Fields of initialisation and implementation, and those that tensors and shapes say again."""


def inner_heads(fields: Fields, layer: int) -> dict[str, int]:
    """Mamba-1 has no heads."""
    inner = fields("intermediate_size", None) if "time_step_rank" in fields else None
    if inner is None:
        inner = int(fields("expand" if "expand" in fields else "mamba_expand") * fields("hidden_size"))
    return counted_heads(inner)


MAMBA1 = Part(
    kind=Mamba1,
    prefix="mixer.",
    norm="norm",
    options={
        "state_dim": field("state_size"),
        "dt_rank": field("time_step_rank"),
        "conv_size": field("conv_kernel"),
        "conv_bias": has("mixer.conv1d.bias"),
        "proj_bias": has("mixer.in_proj.bias"),
    },
    groups=(inner_heads,),
    tensors={
        "in_proj": rows("in_proj"),
        "conv.filter": filters("conv1d.weight"),
        "conv.bias": rows("conv1d.bias"),
        "x_proj": rows("x_proj"),
        "dt_proj.weight": rows("dt_proj.weight"),
        "dt_bias": rows("dt_proj.bias"),
        "dt_norm": rows("dt_layernorm"),
        "B_norm": rows("b_layernorm"),
        "C_norm": rows("c_layernorm"),
        "A_log": rows("A_log"),
        "D": rows("D"),
        "out_proj": rows("out_proj"),
    },
)
MAMBA2 = Part(
    kind=Mamba2,
    prefix="mixer.",
    norm="norm",
    options={
        "num_heads": field("num_heads"),
        "head_dim": field("head_dim"),
        "state_dim": field("state_size"),
        "num_groups": field("n_groups"),
        "conv_size": field("conv_kernel"),
        "norm_eps": field("layer_norm_epsilon"),
        "conv_bias": has("mixer.conv1d.bias"),
        "in_bias": has("mixer.in_proj.bias"),
        "out_bias": has("mixer.out_proj.bias"),
    },
    tensors={
        "in_proj": rows("in_proj"),
        "conv.filter": filters("conv1d.weight"),
        "conv.bias": rows("conv1d.bias"),
        "A_log": rows("A_log"),
        "dt_bias": rows("dt_bias"),
        "D": rows("D"),
        "norm": rows("norm"),
        "out_proj": rows("out_proj"),
    },
)
MAMBA = Family(
    mixers={"": MAMBA1},
    ffns={"": NO_FFN},
    num_layers=field("num_hidden_layers"),
    network={
        "d_model": field("hidden_size"),
        "vocab_size": field("vocab_size"),
        "tie_embeddings": field("tie_word_embeddings", True),
        "norm_eps": field("layer_norm_epsilon"),
    },
    embedding="backbone.embeddings.weight",
    layers="backbone.layers.{}.",
    last_norm="backbone.norm_f",
    expected={"hidden_act": ("silu",), **STEP_LIMITS},
    inert=INITIALISATION,
)
PLAIN_NORMED = MAMBA1.but(options={"inner_norm": always("plain"), "norm_eps": field("mixer_rms_eps", 1e-6)})
HYBRID = Family(
    mixers={},
    ffns={},
    num_layers=field("num_hidden_layers"),
    network={
        "d_model": field("hidden_size"),
        "vocab_size": field("vocab_size"),
        "tie_embeddings": field("tie_word_embeddings", False),
        "norm_eps": field("rms_norm_eps"),
    },
    last_norm="model.final_layernorm",
    expected={"attention_dropout": (0.0,), "hidden_act": ("silu",), **STEP_LIMITS},
    inert=INITIALISATION,
)
FEED_FORWARD = GLU.but(
    prefix="feed_forward.", norm="pre_ff_layernorm", options={"bias": has("feed_forward.down_proj.bias")}
)

MAMBAS: dict[str, Family] = {
    "mamba": MAMBA,
    "falcon_mamba": MAMBA.but(mixers={"": PLAIN_NORMED}, inert=(*INITIALISATION, "mixer_rms_eps")),
    "mamba2": MAMBA.but(
        mixers={"": MAMBA2},
        network={"tie_embeddings": field("tie_word_embeddings", False)},
        inert=(*INITIALISATION, "time_step_rank"),
    ),
}
