"""xLSTM: matrix-memory LSTM with exponential input gates, a GLU after each."""

import math

from nas.architecture import MatrixRecurrence
from nas.architecture.presets import MATRICES
from nas.interop.families.transformer import GLU
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, Reader, always, field
from nas.interop.tensors import rows


def _head_size(factor: str) -> Reader:
    return lambda fields, layer: int(fields("hidden_size") * fields(factor)) // fields("num_heads")


def _ffn_width(fields: Fields, layer: int) -> int:
    step = fields("ffn_round_up_to_multiple_of")
    return math.ceil(fields("hidden_size") * fields("ffn_proj_factor") / step) * step


MLSTM = Part(
    kind=MatrixRecurrence,
    prefix="mlstm_layer.",
    norm="norm_mlstm",
    options={
        **{name: always(value) for name, value in MATRICES["mlstm"].items()},
        "num_heads": field("num_heads"),
        "head_dim": _head_size("v_dim_factor"),
        "key_dim": _head_size("qk_dim_factor"),
        "gate_cap": field("gate_soft_cap"),
        "norm_eps": field("norm_eps"),
    },
    tensors={
        "in_proj": rows("q", "k", "v", "ogate_preact", "fgate_preact", "igate_preact"),
        "decay.bias": rows("fgate_preact.bias"),
        "write_bias": rows("igate_preact.bias"),
        "readout": rows("multihead_norm"),
        "out_proj": rows("out_proj"),
    },
)
XLSTM = Family(
    mixers={"": MLSTM},
    ffns={
        "": GLU.but(
            prefix="ffn.",
            norm="norm_ffn",
            options={"d_ff": _ffn_width, "activation": always("silu"), "bias": always(False)},
            tensors={"in_proj": rows("proj_up_gate", "proj_up"), "out_proj": rows("proj_down")},
        )
    },
    num_layers=field("num_hidden_layers"),
    network={
        "d_model": field("hidden_size"),
        "vocab_size": field("vocab_size"),
        "tie_embeddings": field("tie_word_embeddings", False),
        "norm_eps": field("norm_eps"),
        "logits_soft_cap": field("output_logit_soft_cap"),
    },
    embedding="backbone.embeddings.weight",
    layers="backbone.blocks.{}.",
    last_norm="backbone.out_norm",
    expected={"use_bias": (False,), "add_out_norm": (True,), "weight_mode": ("single",), "eps": (1e-6,)},
    # Which of several implementations runs, and in which type.
    inert=(
        *("chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size", "return_last_states"),
        *("autocast_kernel_dtype", "inference_state_dtype", "norm_reduction_force_float32", "max_inference_chunksize"),
        *("embedding_dim", "num_blocks"),
    ),
)
