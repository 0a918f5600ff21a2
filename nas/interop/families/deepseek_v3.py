"""DeepSeek-V3: latent attention, experts chosen by a biased sigmoid after some dense layers."""

import math
from typing import Any

from nas.architecture import LatentAttention, Moe
from nas.interop.families.readers import activation, has, rope
from nas.interop.families.transformer import GLU, LLAMA
from nas.interop.family import Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import rows, transposed_rows

PLAIN_EPS = 1e-6  # of the norms of the two short vectors, whatever the field says


def score_scale(fields: Fields, layer: int) -> float:
    """YaRN with `mscale_all_dim` multiplies scores by the square of what it multiplies sine and cosine by."""
    given = fields("rope_parameters", None) or fields("rope_scaling", None) or {}
    factor, mscale = given.get("factor", 1.0), given.get("mscale_all_dim", 0)
    if given.get("rope_type", given.get("type", "default")) == "default" or not mscale or factor <= 1:
        return 1.0
    return (0.1 * mscale * math.log(factor) + 1) ** 2


def rotated(fields: Fields, layer: int) -> dict[str, Any]:
    options = rope(fields, layer)
    return {name: options[name] for name in ("rope_base", "rope_scaling")}


LATENT_ATTENTION = Part(
    kind=LatentAttention,
    prefix="self_attn.",
    norm="input_layernorm",
    options={
        "num_heads": field("num_attention_heads"),
        "head_dim": field("qk_nope_head_dim"),
        "rope_dim": field("qk_rope_head_dim"),
        "value_dim": field("v_head_dim"),
        "latent_dim": field("kv_lora_rank"),
        "query_rank": field("q_lora_rank", None),
        "down_bias": has("self_attn.kv_a_proj_with_mqa.bias"),
        "out_bias": has("self_attn.o_proj.bias"),
        "norm_eps": always(PLAIN_EPS),
    },
    tensors={
        "q_proj": rows("q_proj"),
        "q_down": rows("q_a_proj"),
        "q_norm": rows("q_a_layernorm"),
        "q_up": rows("q_b_proj"),
        "kv_down": rows("kv_a_proj_with_mqa"),
        "kv_norm": rows("kv_a_layernorm"),
        "kv_up": rows("kv_b_proj"),
        "out_proj": rows("o_proj"),
    },
)
BIASED_SIGMOID_MOE = Part(
    kind=Moe,
    prefix="mlp.",
    norm="post_attention_layernorm",
    options={
        "num_experts": field("n_routed_experts"),
        "top_k": field("num_experts_per_tok"),
        "d_ff": field("moe_intermediate_size"),
        "num_shared": field("n_shared_experts"),
        "activation": activation("hidden_act"),
        "router": always("sigmoid"),
        "normalise": field("norm_topk_prob"),
        "weight_scale": field("routed_scaling_factor", 1.0, float),
        "num_groups": field("n_group"),
        "top_groups": field("topk_group"),
        "selection_bias": always(True),
        "balance_weight": always(0.0),
    },
    tensors={
        "router": rows("gate"),
        "selection_bias": rows("gate.e_score_correction_bias"),
        "experts_in": transposed_rows("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight"),
        "experts_out": transposed_rows("experts.{}.down_proj.weight"),
        "shared.in_proj": rows("shared_experts.gate_proj", "shared_experts.up_proj"),
        "shared.out_proj": rows("shared_experts.down_proj"),
    },
)


def _ffn(fields: Fields, layer: int) -> str:
    return "glu" if layer < fields("first_k_dense_replace") else "moe"


DEEPSEEK_V3 = LLAMA.but(
    mixers={
        "": LATENT_ATTENTION.but(
            options={"rope_interleaved": field("rope_interleave", True), "score_scale": score_scale},
            groups=(rotated,),
        )
    },
    ffns={"moe": BIASED_SIGMOID_MOE, "glu": GLU},
    ffn_of=_ffn,
    expected={"moe_layer_freq": (1,), "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
    # Sizes of heads are told by those of their parts; heads for further tokens are no part of the model.
    inert=(
        *("attention_bias", "num_key_value_heads", "head_dim", "qk_head_dim", "ep_size"),
        "num_nextn_predict_layers",
    ),
)
