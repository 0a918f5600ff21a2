"""A released configuration, with the fields that no class reads any more, gives the design in `conf/designs`."""

from dataclasses import replace
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


def read(config: dict[str, Any]) -> Architecture:
    fields = Fields(config, (), lambda name: ())
    return FAMILIES[config["model_type"]].read(fields)


def test_xlstm_7b_is_the_design():
    design = read_architecture(Path(__file__).resolve().parents[2] / "conf/designs/xlstm-7b.yaml")
    assert canonical(replace(read(XLSTM_7B), name=design.name)) == canonical(design)


def test_a_field_of_it_that_changes_the_computation_is_refused():
    with pytest.raises(InteropError, match="sets add_qk_norm to True, which changes the computation"):
        read(XLSTM_7B | {"add_qk_norm": True})
