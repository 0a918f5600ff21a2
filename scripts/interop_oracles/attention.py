"""Tiny models with attention in every layer, each with options that are not the default."""

from typing import Any

from scripts.interop_oracles.models import Oracle

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16}
WIDE = {name: value for name, value in SMALL.items() if name != "head_dim"} | {"hidden_size": 64}
LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def rope(kind: str = "default", theta: float | None = 500.0, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


ATTENTION: dict[str, Oracle] = {
    "llama": Oracle("Llama", {**SMALL, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "llama odd": Oracle(
        "Llama",
        {
            **SMALL,
            "hidden_size": 36,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 20,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
            "rope_parameters": rope(
                "llama3",
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            ),
        },
    ),
    "llama stretched": Oracle("Llama", {**SMALL, "rope_parameters": rope("linear", factor=3.0)}),
    "mistral": Oracle("Mistral", {**SMALL, "num_key_value_heads": 1, "sliding_window": 5}),
    "mistral whole": Oracle(
        "Mistral", {**SMALL, "num_key_value_heads": 4, "sliding_window": None, "tie_word_embeddings": True}
    ),
    "mixtral": Oracle(
        "Mixtral",
        {**SMALL, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 6},
    ),
    "qwen2": Oracle("Qwen2", {**WIDE, "num_key_value_heads": 2}),
    "gemma2": Oracle(
        "Gemma2",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "layer_types": LAYERS,
            "sliding_window": 5,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "rope_parameters": rope(),
        },
    ),
    "qwen3": Oracle(
        "Qwen3",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": LAYERS,
            "rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=16),
        },
    ),
    "qwen3 experts": Oracle(
        "Qwen3Moe",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
    "olmo2": Oracle("Olmo2", {**WIDE, "num_key_value_heads": 2}),
    "olmoe": Oracle("Olmoe", {**WIDE, "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2}),
    "cohere": Oracle("Cohere", {**WIDE, "num_key_value_heads": 2, "logit_scale": 0.25, "layer_norm_eps": 1e-3}),
    "granite": Oracle(
        "Granite",
        {
            **WIDE,
            "num_key_value_heads": 2,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
    ),
    "gpt_oss": Oracle(
        "GptOss",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "layer_types": LAYERS,
            "sliding_window": 5,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "swiglu_limit": 0.7,
            "rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=16, truncate=False),
        },
    ),
    "gemma3": Oracle(
        "Gemma3Text",
        {
            **SMALL,
            "num_key_value_heads": 1,
            "layer_types": LAYERS,
            "sliding_window": 5,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {"full_attention": rope("linear", factor=2.0), "sliding_attention": rope(theta=50.0)},
        },
    ),
    "gemma": Oracle("Gemma", {**SMALL, "num_key_value_heads": 1, "rope_parameters": rope()}),
    "glm": Oracle("Glm", {**SMALL, "num_key_value_heads": 2, "rope_parameters": rope(partial_rotary_factor=0.5)}),
    "glm4": Oracle(
        "Glm4",
        {
            **{**SMALL, "hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20},
            **{"attention_bias": True, "rope_parameters": rope(partial_rotary_factor=0.6)},
        },
    ),
    "helium": Oracle("Helium", {**SMALL, "hidden_size": 64, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "ernie4_5": Oracle("Ernie4_5", {**SMALL, "num_key_value_heads": 2, "use_bias": True}),
    "cohere2": Oracle(
        "Cohere2", {**WIDE, "num_key_value_heads": 2, "layer_types": LAYERS, "sliding_window": 5, "logit_scale": 0.5}
    ),
    "exaone4": Oracle("Exaone4", {**WIDE, "num_key_value_heads": 2, "layer_types": LAYERS, "sliding_window": 5}),
    "exaone4 without windows": Oracle(
        "Exaone4", {**WIDE, "num_key_value_heads": 4, "layer_types": ["full_attention"] * 4, "sliding_window": None}
    ),
    "nemotron": Oracle(
        "Nemotron", {**SMALL, "num_key_value_heads": 2, "rope_parameters": rope(partial_rotary_factor=0.5)}
    ),
    "olmo3": Oracle("Olmo3", {**WIDE, "num_key_value_heads": 2, "layer_types": LAYERS, "sliding_window": 5}),
    "smollm3": Oracle(
        "SmolLM3",
        {
            **{**WIDE, "num_key_value_heads": 2, "no_rope_layers": [1, 0, 0, 1], "use_sliding_window": True},
            **{"sliding_window": 5, "layer_types": LAYERS},
        },
    ),
    "deepseek_v3": Oracle(
        "DeepseekV3",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3},
            **{"num_key_value_heads": 3, "q_lora_rank": 12, "kv_lora_rank": 20, "qk_nope_head_dim": 12},
            **{"qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 16, "n_routed_experts": 6},
            **{"num_experts_per_tok": 2, "n_group": 3, "topk_group": 2, "n_shared_experts": 2},
            **{"first_k_dense_replace": 1, "attention_bias": True, "rope_parameters": rope()},
        },
    ),
    "deepseek_v32": Oracle(
        "DeepseekV32",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2},
            **{"num_key_value_heads": 2, "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 16},
            **{"qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 16, "n_routed_experts": 6},
            **{"num_experts_per_tok": 2, "n_group": 3, "topk_group": 2, "index_topk": 6, "index_n_heads": 16},
            **{"index_head_dim": 12, "mlp_layer_types": ["sparse", "dense", "sparse"], "rope_parameters": rope()},
        },
    ),
    "diffllama": Oracle("DiffLlama", {**SMALL, "num_key_value_heads": 2, "rope_parameters": rope()}),
    "qwen2 experts": Oracle(
        "Qwen2Moe",
        {
            **{**WIDE, "num_key_value_heads": 2, "num_experts": 5, "num_experts_per_tok": 2, "mlp_only_layers": [1]},
            **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32, "norm_topk_prob": True},
        },
    ),
    "deepseek_v3 stretched": Oracle(
        "DeepseekV3",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"num_key_value_heads": 2, "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8},
            **{"qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 16, "n_routed_experts": 4},
            **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "norm_topk_prob": False},
            **{"first_k_dense_replace": 1, "rope_interleave": False},
            "rope_parameters": rope(
                "yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.8
            ),
        },
    ),
}
