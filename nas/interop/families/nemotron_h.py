"""Nemotron-H: one part per layer: Mamba-2, attention, an MLP or experts."""

from nas.architecture import Attention, Mlp, Moe
from nas.interop.families.mamba import INITIALISATION, MAMBA, MAMBA2
from nas.interop.families.readers import activation, has, head_dim, shared_experts, word
from nas.interop.family import NO_FFN, NO_MIXER, Part
from nas.interop.fields import always, field
from nas.interop.tensors import rows, transposed_rows

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
    mixer_of=word("layers_block_type"),
    ffn_of=word("layers_block_type"),
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
