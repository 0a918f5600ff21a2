"""Mamba and Mamba-2, alone and beside attention: Jamba, Bamba, Granite 4, Falcon-H1, Nemotron-H."""

from typing import Any

from nas.architecture import Attention, HeadMix, Mamba1, Mamba2, Mlp, Moe
from nas.interop.errors import InteropError
from nas.interop.families.readers import activation, has, head_dim, rope
from nas.interop.families.transformer import ATTENTION, GLU, GRANITE_SCALARS, MOE, RESIDUAL_SCALE
from nas.interop.family import NO_FFN, NO_MIXER, Family, Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import filters, rows, transposed, transposed_rows

STEP_LIMITS = {"time_step_limit": ([0.0, float("inf")], (0.0, float("inf")), None)}
INITIALISATION = (
    *("time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale"),
    *("rescale_prenorm_residual", "residual_in_fp32", "chunk_size", "mamba_chunk_size", "z_loss_coefficient"),
    *("use_associative_scan", "use_mamba_kernels", "use_mambapy", "expand", "mamba_expand"),
    *("use_bias", "use_conv_bias", "mamba_conv_bias", "mamba_proj_bias", "attention_bias", "mlp_bias"),
)
"""Fields of initialisation and implementation, and those that tensors and shapes say again."""


def inner_heads(fields: Fields, layer: int) -> dict[str, int]:
    """Mamba-1 has no heads; its channels are counted in heads of the largest usual size that divides them."""
    inner = fields("intermediate_size", None) if "time_step_rank" in fields else None
    if inner is None:
        inner = int(fields("expand" if "expand" in fields else "mamba_expand") * fields("hidden_size"))
    size = next((size for size in (64, 32, 16, 8, 4) if inner % size == 0), inner)
    return {"num_heads": inner // size, "head_dim": size}


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


# Jamba: Mamba-1 with norms inside, every so often attention without positions, every so often experts.

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
UNPLACED = ATTENTION.but(options={"position": always("none"), "window": always(None)}, groups=())
FEED_FORWARD = GLU.but(
    prefix="feed_forward.", norm="pre_ff_layernorm", options={"bias": has("feed_forward.down_proj.bias")}
)


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


# Bamba and Granite 4: Mamba-2 with GLUs, some layers of attention; Granite has scalars and experts, too.

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
OLD_WORDS = {"mamba": "linear_attention", "attention": "full_attention"}


def _word(name: str) -> Any:
    """The reader of a list of words for layers, in the old or the new vocabulary."""

    def read(fields: Fields, layer: int) -> str:
        word = str(fields(name)[layer])
        return OLD_WORDS.get(word, word)

    return read


def _granite_positions(fields: Fields, layer: int) -> dict[str, Any]:
    placed = rope(fields, layer)
    return {"position": "rope", **placed} if fields("position_embedding_type", None) == "rope" else {"position": "none"}


def _granite_ffn(fields: Fields, layer: int) -> str:
    if fields("num_local_experts", 0) > 0:
        return "moe"
    for name in ("num_experts_per_tok", "intermediate_size"):
        fields(name, None)  # of experts, of which there are none
    return "glu"


def shared_experts(width: str, of_one: str) -> Any:
    """The reader of how many experts a shared one of `width` channels is worth; it must be whole."""

    def read(fields: Fields, layer: int) -> int:
        shared, one = fields(width), fields(of_one)
        if shared % one:
            raise InteropError(f"config.json sets {width} to {shared}, which must be a multiple of {of_one}, {one}.")
        return shared // one

    return read


GRANITE_MAMBA = BAMBA_MAMBA.but(scale=RESIDUAL_SCALE)
GRANITE_ATTENTION = ATTENTION.but(
    scale=RESIDUAL_SCALE,
    options={
        "window": always(None),
        "score_scale": lambda fields, layer: fields("attention_multiplier") * head_dim(fields, layer) ** 0.5,
    },
    groups=(_granite_positions,),
)
GRANITE_GLU = GLU.but(
    prefix="shared_mlp.",
    scale=RESIDUAL_SCALE,
    options={"d_ff": field("shared_intermediate_size"), "bias": always(False)},
    tensors={"in_proj": rows("input_linear"), "out_proj": rows("output_linear")},
)
GRANITE_MOE = MOE.but(
    prefix="",
    scale=RESIDUAL_SCALE,
    options={"num_shared": shared_experts("shared_intermediate_size", "intermediate_size")},
    tensors={
        "router": rows("block_sparse_moe.router.layer"),
        "experts_in": transposed("block_sparse_moe.input_linear.weight"),
        "experts_out": transposed("block_sparse_moe.output_linear.weight"),
        "shared.in_proj": rows("shared_mlp.input_linear"),
        "shared.out_proj": rows("shared_mlp.output_linear"),
    },
)
GRANITE_HYBRID = HYBRID.but(
    mixers={"full_attention": GRANITE_ATTENTION, "linear_attention": GRANITE_MAMBA},
    mixer_of=_word("layer_types"),
    ffns={"moe": GRANITE_MOE, "glu": GRANITE_GLU},
    ffn_of=_granite_ffn,
    network=GRANITE_SCALARS,
    last_norm="model.norm",
    inert=(*INITIALISATION, "normalization_function"),
)


# Falcon-H1: Mamba-2 and attention side by side in every layer, with factors everywhere.


def _falcon_scales(fields: Fields, layer: int) -> tuple[float, float]:
    _refuse_scaled_bias(fields, layer, "attention_in_multiplier", "self_attn.q_proj.bias")
    into = fields("attention_in_multiplier", 1.0)  # of values; queries and keys: see the scale of scores
    return fields("ssm_out_multiplier", 1.0), fields("attention_out_multiplier", 1.0) * into


def _falcon_score_scale(fields: Fields, layer: int) -> float:
    return fields("key_multiplier", 1.0) * fields("attention_in_multiplier", 1.0) ** 2


def _falcon_mamba(fields: Fields, layer: int) -> dict[str, Any]:
    _refuse_scaled_bias(fields, layer, "ssm_in_multiplier", "mamba.in_proj.bias")
    factors = [fields("ssm_in_multiplier", 1.0) * factor for factor in fields("ssm_multipliers", None) or [1.0] * 5]
    names = ("gate_scale", "input_scale", "key_scale", "query_scale", "step_scale")
    where = "before_gate" if fields("mamba_norm_before_gate", True) else "after_gate"
    return {**dict(zip(names, factors, strict=True)), "output_norm": where if fields("mamba_rms_norm") else "none"}


def _refuse_scaled_bias(fields: Fields, layer: int, factor: str, bias: str) -> None:
    if fields(factor, 1.0) != 1 and fields.has(layer, bias):
        raise InteropError(f"config.json sets {factor} beside the bias {bias}, which has no counterpart here.")


FALCON_H1 = HYBRID.but(
    mixers={
        "": Part(
            kind=HeadMix,
            norm="input_layernorm",
            options={"fuse": always("concat"), "scales": _falcon_scales},
            parts=(
                BAMBA_MAMBA.but(groups=(_falcon_mamba,)),
                ATTENTION.but(options={"window": always(None), "score_scale": _falcon_score_scale}),
            ),
        )
    },
    ffns={
        "": FEED_FORWARD.but(
            options={"gate_scale": lambda fields, layer: (fields("mlp_multipliers", None) or (1.0, 1.0))[0]},
            scale=lambda fields, layer: (fields("mlp_multipliers", None) or (1.0, 1.0))[1],
        )
    },
    network={
        "embedding_scale": field("embedding_multiplier", 1.0),
        "logits_scale": field("lm_head_multiplier", 1.0),
    },
    inert=(*INITIALISATION, "projectors_bias", "mamba_d_ssm"),
)


# Nemotron-H: one part per layer.

NEMOTRON_MAMBA = MAMBA2.but(
    options={
        "num_heads": field("mamba_num_heads"),
        "head_dim": field("mamba_head_dim"),
        "state_dim": field("ssm_state_size"),
        "min_step": field("time_step_min"),
    }
)
NEMOTRON_ATTENTION = Part(
    kind=Attention,
    prefix="mixer.",
    norm="norm",
    options={
        "num_heads": field("num_attention_heads"),
        "num_kv_heads": field("num_key_value_heads"),
        "head_dim": head_dim,
        "position": always("none"),
    },
    tensors={"qkv.linear": rows("q_proj", "k_proj", "v_proj"), "out_proj": rows("o_proj")},
)
NEMOTRON_MLP = Part(
    kind=Mlp,
    prefix="mixer.",
    norm="norm",
    options={
        "d_ff": field("intermediate_size"),
        "activation": activation("mlp_hidden_act"),
        "bias": has("mixer.down_proj.bias"),
    },
    tensors={"in_proj": rows("up_proj"), "out_proj": rows("down_proj")},
)
NEMOTRON_MOE = Part(
    kind=Moe,
    prefix="mixer.",
    norm="norm",
    options={
        "num_experts": field("n_routed_experts"),
        "top_k": field("num_experts_per_tok"),
        "d_ff": field("moe_intermediate_size"),
        "num_shared": shared_experts("moe_shared_expert_intermediate_size", "moe_intermediate_size"),
        "activation": activation("mlp_hidden_act"),
        "router": always("sigmoid"),
        "normalise": field("norm_topk_prob"),
        "weight_scale": field("routed_scaling_factor"),
        "num_groups": field("n_group"),
        "top_groups": field("topk_group"),
        "selection_bias": always(True),
        "gated": always(False),
        "balance_weight": always(0.0),
    },
    tensors={
        "router": rows("gate"),
        "selection_bias": rows("gate.e_score_correction_bias"),
        "experts_in": transposed_rows("experts.{}.up_proj.weight"),
        "experts_out": transposed_rows("experts.{}.down_proj.weight"),
        "shared.in_proj": rows("shared_experts.up_proj"),
        "shared.out_proj": rows("shared_experts.down_proj"),
    },
)
OF_EXPERTS = (
    *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
    *("n_shared_experts", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group"),
)
NEMOTRON_H = MAMBA.but(
    mixers={
        "linear_attention": NEMOTRON_MAMBA,
        "full_attention": NEMOTRON_ATTENTION,
        "mlp": NO_MIXER,
        "moe": NO_MIXER,
    },
    ffns={"mlp": NEMOTRON_MLP, "moe": NEMOTRON_MOE, "linear_attention": NO_FFN, "full_attention": NO_FFN},
    mixer_of=_word("layers_block_type"),
    ffn_of=_word("layers_block_type"),
    num_layers=lambda fields, layer: len(fields("layers_block_type")),
    network={"tie_embeddings": field("tie_word_embeddings", False)},
    expected={
        "attention_dropout": (0.0,),
        "hidden_dropout": (0.0,),
        "sliding_window": (None,),
        "moe_latent_size": (None,),
        "mamba_hidden_act": ("silu",),
        "num_nextn_predict_layers": (0, None),
    },
    # The step size is bounded below by time_step_min; time_step_limit is not used. Fields of experts may stand where
    # there are none.
    inert=(
        *(*INITIALISATION, *OF_EXPERTS, "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "num_hidden_layers"),
        *("mtp_layers_block_type", "intermediate_size", "mlp_hidden_act", "hybrid_override_pattern"),
    ),
)

STATE_SPACES: dict[str, Family] = {
    "mamba": MAMBA,
    "falcon_mamba": MAMBA.but(mixers={"": PLAIN_NORMED}, inert=(*INITIALISATION, "mixer_rms_eps")),
    "mamba2": MAMBA.but(
        mixers={"": MAMBA2},
        network={"tie_embeddings": field("tie_word_embeddings", False)},
        inert=(*INITIALISATION, "time_step_rank"),
    ),
    "jamba": JAMBA,
    "bamba": BAMBA,
    "granitemoehybrid": GRANITE_HYBRID,
    "falcon_h1": FALCON_H1,
    "nemotron_h": NEMOTRON_H,
}
