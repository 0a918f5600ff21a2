"""Tiny models with recurrences or convolutions, alone and beside attention."""

from scripts.interop_oracles.attention import SMALL, WIDE, rope
from scripts.interop_oracles.models import Oracle

GRANITE_HYBRID = {
    **{**WIDE, "num_key_value_heads": 2, "layer_types": ["mamba", "attention", "attention", "mamba"]},
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8},
    **{"num_local_experts": 5, "num_experts_per_tok": 2, "shared_intermediate_size": 96, "attention_multiplier": 0.3},
    **{"residual_multiplier": 0.4, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
}
FALCON = {
    **{**SMALL, "num_key_value_heads": 2, "mamba_n_heads": 4, "mamba_d_head": 12, "mamba_d_ssm": 48},
    **{"mamba_d_state": 8, "mamba_chunk_size": 8, "key_multiplier": 0.7, "attention_in_multiplier": 1.3},
    **{"attention_out_multiplier": 0.6, "ssm_in_multiplier": 0.8, "ssm_out_multiplier": 1.4},
    **{"ssm_multipliers": [0.5, 1.2, 0.9, 1.1, 0.7], "mlp_multipliers": [0.7, 1.2]},
    **{"embedding_multiplier": 2.0, "lm_head_multiplier": 0.5, "rope_parameters": rope()},
}

ZAMBA2 = {
    **{"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 3},
    **{"layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid"], "adapter_rank": 5},
    **{"n_mamba_heads": 4, "mamba_ngroups": 2, "mamba_d_state": 8, "chunk_size": 8, "time_step_min": 0.3},
    **{"num_mem_blocks": 2, "use_shared_attention_adapter": True, "use_mem_rope": True, "rope_parameters": rope()},
}

RECURRENT: dict[str, Oracle] = {
    "mamba": Oracle("Mamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 5, "time_step_rank": 3}),
    "mamba odd": Oracle(
        "Mamba",
        {
            **{"hidden_size": 36, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 3, "use_bias": True},
            **{"use_conv_bias": False, "expand": 1, "tie_word_embeddings": False},
        },
    ),
    "falcon_mamba": Oracle("FalconMamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4}),
    "mamba2": Oracle(
        "Mamba2",
        {
            **{"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "num_heads": 4, "head_dim": 16},
            **{"n_groups": 2, "chunk_size": 8},
        },
    ),
    "mamba2 odd": Oracle(
        "Mamba2",
        {
            **{"hidden_size": 36, "num_hidden_layers": 2, "state_size": 6, "num_heads": 6, "head_dim": 12},
            **{"n_groups": 1, "chunk_size": 16, "use_bias": True, "conv_kernel": 3, "tie_word_embeddings": True},
        },
    ),
    "jamba": Oracle(
        "Jamba",
        {
            **{**WIDE, "num_hidden_layers": 5, "num_key_value_heads": 2, "num_experts": 4},
            **{"attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 5},
            **{"expert_layer_period": 2, "expert_layer_offset": 1},
        },
    ),
    "bamba": Oracle(
        "Bamba",
        {
            **{**WIDE, "num_key_value_heads": 2, "attn_layer_indices": [1, 2], "mamba_n_heads": 8},
            **{"mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8},
        },
    ),
    "granite hybrid": Oracle("GraniteMoeHybrid", GRANITE_HYBRID),
    "granite hybrid dense": Oracle(
        "GraniteMoeHybrid", {**GRANITE_HYBRID, "num_local_experts": 0, "position_embedding_type": "rope"}
    ),
    "falcon_h1": Oracle("FalconH1", FALCON),
    "falcon_h1 normed": Oracle(
        "FalconH1", {**FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2}
    ),
    "falcon_h1 normed before": Oracle("FalconH1", {**FALCON, "mamba_rms_norm": True, "tie_word_embeddings": True}),
    "nemotron_h": Oracle(
        "NemotronH",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
            **{"layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba", "mlp"], "head_dim": 16},
            **{"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8},
            **{"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 3},
            **{"moe_shared_expert_intermediate_size": 32, "topk_group": 2, "routed_scaling_factor": 1.5},
            **{"time_step_min": 0.3},
        },
    ),
    "qwen3_next": Oracle(
        "Qwen3Next",
        {
            **{**SMALL, "num_key_value_heads": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 6},
            **{"layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"]},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 12, "num_experts": 5, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32, "mlp_only_layers": [2]},
            **{"rope_parameters": rope(partial_rotary_factor=0.5)},
        },
    ),
    "lfm2": Oracle(
        "Lfm2",
        {
            **{**WIDE, "num_key_value_heads": 2, "block_multiple_of": 8, "rope_parameters": rope()},
            **{"layer_types": ["conv", "full_attention", "conv", "conv"], "conv_bias": True, "conv_L_cache": 4},
        },
    ),
    "minimax": Oracle(
        "MiniMax",
        {
            **{**SMALL, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "block_size": 8},
            **{"layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"]},
            **{"linear_attn_alpha_factor": 1.5, "linear_attn_beta_factor": 0.7, "full_attn_alpha_factor": 1.2},
            **{"full_attn_beta_factor": 0.8, "mlp_alpha_factor": 1.3, "mlp_beta_factor": 0.6},
            **{"rope_parameters": rope()},
        },
    ),
    "olmo_hybrid": Oracle(
        "OlmoHybrid",
        {
            **{**WIDE, "num_key_value_heads": 2, "linear_num_key_heads": 3, "linear_num_value_heads": 3},
            **{"linear_key_head_dim": 12, "linear_value_head_dim": 20, "rope_parameters": rope()},
            **{"layer_types": ["linear_attention", "full_attention", "full_attention", "linear_attention"]},
        },
    ),
    "olmo_hybrid without positions": Oracle(
        "OlmoHybrid",
        {
            **{**WIDE, "num_hidden_layers": 2, "linear_allow_neg_eigval": False, "linear_conv_kernel_dim": 3},
            **{"layer_types": ["linear_attention", "full_attention"], "tie_word_embeddings": True},
            "rope_parameters": rope(theta=None),
        },
    ),
    "kimi_linear": Oracle(
        "KimiLinear",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3},
            **{"num_key_value_heads": 3, "linear_num_heads": 3, "linear_head_dim": 12, "kv_lora_rank": 20},
            **{"qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 16},
            **{"num_local_experts": 6, "num_experts_per_tok": 2, "n_group": 3, "topk_group": 2, "n_shared_experts": 2},
            **{"layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"]},
            **{"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]},
        },
    ),
    "recurrent_gemma": Oracle(
        "RecurrentGemma",
        {
            **{"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 3},
            **{"num_key_value_heads": 1, "attention_window_size": 5, "lru_width": 48, "logits_soft_cap": 3.0},
            **{
                "block_types": ["recurrent", "attention", "recurrent"],
                "rope_parameters": rope(partial_rotary_factor=0.5),
            },
        },
    ),
    "xlstm": Oracle(
        "xLSTM",
        {
            **{"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4, "autocast_kernel_dtype": "float32"},
            **{"ffn_round_up_to_multiple_of": 16, "output_logit_soft_cap": 3.0, "chunk_size": 16},
            "use_cache": False,  # it is written in place, which gradients do not survive
        },
    ),
    "xlstm odd": Oracle(
        "xLSTM",
        {
            **{"hidden_size": 96, "num_hidden_layers": 2, "num_heads": 3, "autocast_kernel_dtype": "float32"},
            **{"v_dim_factor": 1.5, "qk_dim_factor": 0.5, "ffn_proj_factor": 1.505, "ffn_round_up_to_multiple_of": 8},
            **{"gate_soft_cap": 4.0, "output_logit_soft_cap": 5.0, "chunk_size": 16},
            "use_cache": False,  # it would also have other sizes than the layers
        },
    ),
    "rwkv": Oracle(
        "Rwkv",
        {
            **{"hidden_size": 40, "attention_hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 3},
            **{"rescale_every": 0, "use_cache": False},  # its cache is written in place, which gradients do not survive
        },
    ),
    "zamba2": Oracle("Zamba2", ZAMBA2),
    "zamba2 with one shared block": Oracle(
        "Zamba2",
        {
            **{**ZAMBA2, "num_mem_blocks": 1, "use_shared_attention_adapter": False, "use_mem_rope": False},
            **{"add_bias_linear": True, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 3},
            **{"layers_block_type": ["hybrid", "mamba", "hybrid"], "mamba_d_conv": 3},
        },
    ),
}
