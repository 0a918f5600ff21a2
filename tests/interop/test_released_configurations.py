"""A released configuration, with the fields that no class reads any more, gives the design in `conf/designs`."""

from pathlib import Path
from typing import Any

import pytest

from nas.architecture import Architecture, canonical, read_architecture
from nas.interop import InteropError
from nas.interop.families import FAMILIES
from nas.interop.fields import Fields

# NX-AI/xLSTM-7b, saved before transformers had the class.
XLSTM_7B: dict[str, Any] = {
    **{"model_type": "xlstm", "architectures": ["xLSTMForCausalLM"], "vocab_size": 50304, "weight_mode": "single"},
    **{"embedding_dim": 4096, "num_blocks": 32, "num_heads": 8, "head_dim": 512, "mlstm_round_up_to_multiple_of": 64},
    **{"qk_dim_factor": 0.5, "v_dim_factor": 1.0, "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 64},
    **{"gate_soft_cap": 15.0, "output_logit_soft_cap": 30.0, "eps": 1e-6, "norm_eps": 1e-6, "cell_norm_eps": 1e-6},
    **{"add_embedding_dropout": False, "add_forward_backend_padding": False, "add_out_norm": True, "use_bias": False},
    **{"add_post_blocks_norm": True, "add_post_norm": False, "add_qk_norm": False, "tie_word_embeddings": False},
    **{"force_bos_token_insert": True, "igate_bias_init_range": -10.0, "inference_state_dtype": "float32"},
    **{"chunkwise_kernel": "chunkwise--triton_xl_chunk", "sequence_kernel": "native_sequence__triton"},
    **{"step_kernel": "triton", "mode": "inference", "chunk_size": 64, "return_last_states": True},
    **{"autocast_kernel_dtype": "bfloat16", "norm_reduction_force_float32": True, "torch_dtype": "float32"},
    **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "use_cache": True},
}
ATTENTION_LAYERS = (10, 13, 17, 27)
# ibm-granite/granite-4.0-h-350m.
GRANITE_350M: dict[str, Any] = {
    **{"model_type": "granitemoehybrid", "vocab_size": 100352, "tie_word_embeddings": True, "hidden_act": "silu"},
    **{"hidden_size": 768, "intermediate_size": 2048, "shared_intermediate_size": 2048, "num_hidden_layers": 32},
    **{"num_local_experts": 0, "num_experts_per_tok": 0, "num_attention_heads": 12, "num_key_value_heads": 4},
    **{"layer_types": ["attention" if i in ATTENTION_LAYERS else "mamba" for i in range(32)], "rms_norm_eps": 1e-5},
    **{"mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4},
    **{"mamba_conv_bias": True, "mamba_proj_bias": False, "attention_bias": False, "max_position_embeddings": 32768},
    **{"position_embedding_type": "nope", "rope_theta": 10000, "attention_multiplier": 0.015625},
    **{"embedding_multiplier": 12, "logits_scaling": 3, "residual_multiplier": 0.246},
}


def read(config: dict[str, Any]) -> Architecture:
    biases = [f"model.layers.{layer}.mamba.conv1d.bias" for layer in range(32)]
    fields = Fields(config, biases, lambda name: ())
    return FAMILIES[config["model_type"]].read(fields)


@pytest.mark.parametrize(("name", "config"), [("xlstm-7b", XLSTM_7B), ("granite-4.0-h-350m", GRANITE_350M)])
def test_a_released_model_is_the_design(name: str, config: dict[str, Any]):
    design = read_architecture(Path(__file__).resolve().parents[2] / f"conf/designs/{name}.yaml")
    assert canonical(read(config)) == canonical(design)


def test_a_field_that_changes_the_computation_is_refused():
    with pytest.raises(InteropError, match="sets add_qk_norm to True, which changes the computation"):
        read(XLSTM_7B | {"add_qk_norm": True})
