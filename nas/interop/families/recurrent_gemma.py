"""RecurrentGemma: RG-LRU beside local attention, with Gemma's norms and FFNs."""

import torch

from nas.architecture import VectorRecurrence
from nas.interop.families.readers import activation
from nas.interop.families.transformer import ATTENTION, GLU, LLAMA
from nas.interop.family import Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import filters, plus_one, rows


def _mixer(fields: Fields, layer: int) -> str:
    """The words are repeated to the depth of the network."""
    words = fields("block_types")
    return str(words[layer % len(words)])


def _width(fields: Fields, layer: int) -> int:
    return fields("lru_width", None) or fields("hidden_size")


def _embedding_scale(fields: Fields, layer: int) -> float:
    """The root of the width, rounded to bfloat16 as it is stored there."""
    return torch.tensor(fields("hidden_size") ** 0.5, dtype=torch.bfloat16).item()


RECURRENT = Part(
    kind=VectorRecurrence,
    prefix="temporal_block.",
    norm="temporal_pre_norm",
    options={
        "cell": always("rg_lru"),
        "num_heads": field("num_attention_heads"),
        "head_dim": lambda fields, layer: _width(fields, layer) // fields("num_attention_heads"),
        "conv_size": field("conv1d_width"),
        "gate": activation("hidden_activation"),
        "bias": always(True),
    },
    tensors={
        "in_proj": rows("linear_x", "linear_y"),
        "conv.filter": filters("conv_1d.weight"),
        "conv.bias": rows("conv_1d.bias"),
        "cell.input_gate": rows("rg_lru.input_gate_weight"),
        "cell.input_bias": rows("rg_lru.input_gate_bias"),
        "cell.recurrent_gate": rows("rg_lru.recurrent_gate_weight"),
        "cell.recurrent_bias": rows("rg_lru.recurrent_gate_bias"),
        "cell.rate": rows("rg_lru.recurrent_param"),
        "out_proj": rows("linear_out"),
    },
)
RECURRENT_GEMMA = LLAMA.but(
    mixers={
        "recurrent": RECURRENT,
        "attention": ATTENTION.but(
            prefix="temporal_block.",
            norm="temporal_pre_norm",
            options={"window": field("attention_window_size"), "out_bias": always(True)},
        ),
    },
    mixer_of=_mixer,
    ffns={
        "": GLU.but(
            prefix="mlp_block.",
            norm="channel_pre_norm",
            options={
                "d_ff": field("intermediate_size", convert=lambda both: both // 2),
                "activation": activation("hidden_activation"),
                "bias": always(True),
            },
        )
    },
    network={
        "tie_embeddings": field("tie_word_embeddings", True),
        "embedding_scale": _embedding_scale,
        "logits_soft_cap": field("logits_soft_cap"),
    },
    norms=plus_one,
    last_norm="model.final_norm",
    inert=("attention_bias", "w_init_variance_scale", "final_w_init_variance_scale", "head_dim"),
)
