"""xLSTM: matrix-memory LSTM with exponential input gates, a GLU after each.

The released 7B model was saved before transformers had the class: its config.json says embedding_dim and num_blocks,
and holds fields of the code that trained it, which transformers does not read.
"""

from nas.architecture import MatrixRecurrence
from nas.architecture.presets import MATRICES
from nas.interop.families.transformer import GLU
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, Reader, always, field
from nas.interop.tensors import rows


def _either(name: str, earlier: str) -> Reader:
    """A field by its name, or by the one that it had earlier."""
    return lambda fields, layer: fields(name if name in fields else earlier)


_width, _depth = _either("hidden_size", "embedding_dim"), _either("num_hidden_layers", "num_blocks")


def _head_size(factor: str) -> Reader:
    return lambda fields, layer: int(_width(fields, layer) * fields(factor)) // fields("num_heads")


def _ffn_width(fields: Fields, layer: int) -> int:
    # As published: a width less than 1 above a multiple is rounded down to it.
    step = fields("ffn_round_up_to_multiple_of")
    return int((_width(fields, layer) * fields("ffn_proj_factor") + step - 1) // step * step)


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
    num_layers=_depth,
    network={
        "d_model": _width,
        "vocab_size": field("vocab_size"),
        "tie_embeddings": field("tie_word_embeddings", False),
        "norm_eps": field("norm_eps"),
        "logits_soft_cap": field("output_logit_soft_cap"),
    },
    embedding="backbone.embeddings.weight",
    layers="backbone.blocks.{}.",
    last_norm="backbone.out_norm",
    # transformers has no weights of the mode `fused` to compare with: it cannot make such a model.
    expected={
        **{"use_bias": (False,), "add_out_norm": (True,), "weight_mode": ("single",), "eps": (1e-6,)},
        **{"add_embedding_dropout": (False,), "add_post_blocks_norm": (True,), "add_post_norm": (False,)},
        **{"add_qk_norm": (False,), "cell_norm_eps": (1e-6,)},
    },
    # Which of several implementations runs, and in which type; what follows from other fields; how training began.
    inert=(
        *("chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size", "return_last_states"),
        *("autocast_kernel_dtype", "inference_state_dtype", "norm_reduction_force_float32", "max_inference_chunksize"),
        *("embedding_dim", "num_blocks", "head_dim", "mlstm_round_up_to_multiple_of", "add_forward_backend_padding"),
        *("igate_bias_init_range", "force_bos_token_insert"),
    ),
)
