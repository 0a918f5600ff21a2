"""Attention in every layer: Llama and those that differ from it in norms, windows, scales, biases or experts."""

from nas.architecture import Attention, Glu, Moe
from nas.interop.families.readers import activation, has, head_dim, layer_type, qwen_window, rope, window
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import evens_then_odds, plus_one, rows, transposed_rows

ATTENTION = Part(
    kind=Attention,
    prefix="self_attn.",
    norm="input_layernorm",
    options={
        "num_heads": field("num_attention_heads"),
        "num_kv_heads": field("num_key_value_heads", None),
        "head_dim": head_dim,
        "qkv_bias": has("self_attn.q_proj.bias"),
        "out_bias": has("self_attn.o_proj.bias"),
        "norm_eps": field("rms_norm_eps"),
        "window": window,
    },
    groups=(rope,),
    tensors={"qkv.linear": rows("q_proj", "k_proj", "v_proj"), "out_proj": rows("o_proj")},
)
GLU = Part(
    kind=Glu,
    prefix="mlp.",
    norm="post_attention_layernorm",
    options={
        "d_ff": field("intermediate_size"),
        "activation": activation("hidden_act"),
        "bias": has("mlp.down_proj.bias"),
    },
    tensors={"in_proj": rows("gate_proj", "up_proj"), "out_proj": rows("down_proj")},
)
LLAMA = Family(
    mixers={"": ATTENTION.but(options={"window": always(None)})},
    ffns={"": GLU},
    num_layers=field("num_hidden_layers"),
    network={
        "d_model": field("hidden_size"),
        "vocab_size": field("vocab_size"),
        "tie_embeddings": field("tie_word_embeddings", False),
        "norm_eps": field("rms_norm_eps"),
    },
    expected={"attention_dropout": (0.0,), "pretraining_tp": (1,)},
    inert=("attention_bias", "mlp_bias"),  # the tensors say it
)

WINDOWED = LLAMA.but(mixer_of=layer_type, mixers={"full_attention": ATTENTION, "sliding_attention": ATTENTION})

MOE = Part(
    kind=Moe,
    prefix="block_sparse_moe.",
    norm="post_attention_layernorm",
    options={
        "num_experts": field("num_local_experts"),
        "top_k": field("num_experts_per_tok"),
        "d_ff": field("intermediate_size"),
        "activation": activation("hidden_act"),
        "balance_weight": always(0.0),
    },
    tensors={
        "router": rows("gate"),
        "experts_in": transposed_rows("experts.{}.w1.weight", "experts.{}.w3.weight"),
        "experts_out": transposed_rows("experts.{}.w2.weight"),
    },
)
MIXTRAL = WINDOWED.but(ffns={"": MOE}, expected={"router_jitter_noise": (0.0,)})

QK_NORMED = ATTENTION.but(
    options={"qk_norm": always("head")}, tensors={"qkv.q_norm": rows("q_norm"), "qkv.k_norm": rows("k_norm")}
)


def _gemma_score_scale(fields: Fields, layer: int) -> float:
    return (head_dim(fields, layer) / fields("query_pre_attn_scalar")) ** 0.5


QWEN2_ATTENTION = ATTENTION.but(options={"window": qwen_window})
QWEN3_ATTENTION = QK_NORMED.but(options={"window": qwen_window})
GEMMA_ATTENTION = ATTENTION.but(post_norm="post_attention_layernorm", options={"score_scale": _gemma_score_scale})
GEMMA_QK_NORMED = GEMMA_ATTENTION.but(
    options={"qk_norm": always("head")}, tensors={"qkv.q_norm": plus_one("q_norm"), "qkv.k_norm": plus_one("k_norm")}
)
GEMMA_GLU = GLU.but(
    norm="pre_feedforward_layernorm",
    post_norm="post_feedforward_layernorm",
    options={"activation": activation("hidden_activation")},
)
GEMMA2_ATTENTION = GEMMA_ATTENTION.but(options={"soft_cap": field("attn_logit_softcapping", None)})
GEMMA2 = WINDOWED.but(
    mixers={"full_attention": GEMMA2_ATTENTION, "sliding_attention": GEMMA2_ATTENTION},
    ffns={"": GEMMA_GLU},
    network={
        "tie_embeddings": field("tie_word_embeddings", True),
        "embedding_scale": always("sqrt_d_model"),
        "logits_soft_cap": field("final_logit_softcapping", None),
    },
    norms=plus_one,
    expected={"use_bidirectional_attention": (False, None)},
    inert=("attention_bias",),
)
GEMMA3 = GEMMA2.but(
    mixers={"full_attention": GEMMA_QK_NORMED, "sliding_attention": GEMMA_QK_NORMED},
    # The pattern is what `layer_types` was made from; scores are not capped, whatever the field says.
    inert=("attention_bias", "_sliding_window_pattern", "attn_logit_softcapping"),
)


def _num_experts(fields: Fields, layer: int) -> int:
    """Saved under either name, whatever the version."""
    return fields("num_experts" if "num_experts" in fields else "num_local_experts")


QWEN3_MOE = Part(
    kind=Moe,
    prefix="mlp.",
    norm="post_attention_layernorm",
    options={
        "num_experts": _num_experts,
        "top_k": field("num_experts_per_tok"),
        "d_ff": field("moe_intermediate_size"),
        "activation": activation("hidden_act"),
        "normalise": field("norm_topk_prob"),
        "balance_weight": always(0.0),
    },
    tensors={
        "router": rows("gate"),
        "experts_in": transposed_rows("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight"),
        "experts_out": transposed_rows("experts.{}.down_proj.weight"),
    },
)
FULL_QK_NORMED = QK_NORMED.but(options={"qk_norm": always("full")})
OLMO2_ATTENTION = FULL_QK_NORMED.but(norm=None, post_norm="post_attention_layernorm")
COHERE_ATTENTION = ATTENTION.but(
    options={
        "window": always(None),
        "norm_eps": field("layer_norm_eps"),
        "rope_interleaved": always(True),
    }
)
GPT_OSS_ATTENTION = ATTENTION.but(options={"sinks": always(True)}, tensors={"sinks": rows("sinks")})
GPT_OSS_MOE = Part(
    kind=Moe,
    prefix="mlp.",
    norm="post_attention_layernorm",
    options={
        "num_experts": field("num_local_experts"),
        "top_k": field("num_experts_per_tok"),
        "d_ff": field("intermediate_size"),
        "activation": always("quick_gelu"),
        "clamp": field("swiglu_limit", 7.0),
        "up_offset": always(1.0),
        "router_bias": always(True),
        "expert_bias": always(True),
        "balance_weight": always(0.0),
    },
    tensors={
        "router": rows("router"),
        "experts_in": evens_then_odds("experts.gate_up_proj"),
        "experts_in_bias": evens_then_odds("experts.gate_up_proj_bias"),
        "experts_out": rows("experts.down_proj"),
        "experts_out_bias": rows("experts.down_proj_bias"),
    },
)


def qwen3_moe_ffn(fields: Fields, layer: int) -> str:
    """Experts in every `decoder_sparse_step`-th layer but for those listed."""
    step, dense = fields("decoder_sparse_step", 1), fields("mlp_only_layers", None) or []
    return "moe" if _num_experts(fields, layer) > 0 and layer not in dense and (layer + 1) % step == 0 else "glu"


def _granite_scale(fields: Fields, layer: int) -> float:
    return fields("attention_multiplier") * head_dim(fields, layer) ** 0.5


RESIDUAL_SCALE = field("residual_multiplier", 1.0)
GRANITE_SCALARS = {
    "embedding_scale": field("embedding_multiplier", 1.0),
    "logits_scale": field("logits_scaling", 1.0, lambda divisor: 1 / divisor),
}

COHERE = LLAMA.but(
    mixers={"": COHERE_ATTENTION},
    ffns={"": GLU.but(norm=None)},
    parallel=True,
    network={
        "tie_embeddings": field("tie_word_embeddings", True),
        "norm": always("layernorm"),
        "norm_eps": field("layer_norm_eps"),
        "logits_scale": field("logit_scale"),
    },
    expected={"use_qk_norm": (False,)},
)
OLMO2 = LLAMA.but(
    mixers={"": OLMO2_ATTENTION.but(options={"window": always(None)})},
    ffns={"": GLU.but(norm=None, post_norm="post_feedforward_layernorm")},
)

TRANSFORMERS: dict[str, Family] = {
    "cohere": COHERE,
    "gpt_oss": WINDOWED.but(
        mixers={"full_attention": GPT_OSS_ATTENTION, "sliding_attention": GPT_OSS_ATTENTION},
        ffns={"": GPT_OSS_MOE},
        expected={"swiglu_alpha": (1.702,)},
        inert=("attention_bias", "hidden_act"),
    ),
    "granite": LLAMA.but(
        mixers={
            "": ATTENTION.but(options={"window": always(None), "score_scale": _granite_scale}, scale=RESIDUAL_SCALE)
        },
        ffns={"": GLU.but(scale=RESIDUAL_SCALE)},
        network=GRANITE_SCALARS,
    ),
    "olmo2": OLMO2,
    "olmoe": LLAMA.but(
        mixers={"": FULL_QK_NORMED.but(options={"window": always(None)})},
        ffns={"": QWEN3_MOE.but(options={"d_ff": field("intermediate_size")})},
        expected={"clip_qkv": (None,)},
    ),
    "qwen3_moe": WINDOWED.but(
        mixers={"full_attention": QWEN3_ATTENTION, "sliding_attention": QWEN3_ATTENTION},
        ffns={"moe": QWEN3_MOE, "glu": GLU},
        ffn_of=qwen3_moe_ffn,
    ),
    "llama": LLAMA,
    "mistral": WINDOWED,
    "mixtral": MIXTRAL,
    "qwen2": WINDOWED.but(mixers={"full_attention": QWEN2_ATTENTION, "sliding_attention": QWEN2_ATTENTION}),
    "qwen3": WINDOWED.but(mixers={"full_attention": QWEN3_ATTENTION, "sliding_attention": QWEN3_ATTENTION}),
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
}
