"""MiniMax-01: Lightning attention beside softmax attention, on a residual stream that is normed before it goes on."""

from typing import Any

import torch
from torch import Tensor

from nas.architecture import MatrixRecurrence
from nas.architecture.presets import MATRICES
from nas.interop.errors import InteropError
from nas.interop.families.readers import head_dim, layer_type, rope
from nas.interop.families.transformer import ATTENTION, MIXTRAL, MOE
from nas.interop.family import Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import Source, rows

NORM_EPS = 1e-6  # of the norm over all heads, whatever the field says


def _slower_in_later_layers(fields: Fields, layer: int) -> float:
    return 1 - layer / (fields("num_hidden_layers") - 1 + 1e-5) + 1e-5


def _heads_apart(options: MatrixRecurrence) -> Source:
    """Theirs lie by head, q, k and v of each; ours are whole, the gate behind them."""

    def join(tensors: list[Tensor]) -> Tensor:
        by_head = tensors[0].unflatten(0, (options.num_heads, 3, options.head_dim))
        return torch.cat([by_head[:, i].flatten(0, 1) for i in range(3)] + tensors[1:])

    return Source(("qkv_proj.weight", "output_gate.weight"), join)


def _rotated_whole(fields: Fields, layer: int) -> dict[str, Any]:
    """transformers rotates whole heads whatever share is given, the published code that share."""
    options = rope(fields, layer)
    if options["rope_fraction"] != 1:
        raise InteropError(
            f"config.json asks for a share of {options['rope_fraction']} of each head to be rotated, which those who "
            "read a minimax model do not agree on."
        )
    return options


LIGHTNING = Part(
    kind=MatrixRecurrence,
    prefix="self_attn.",
    norm="input_layernorm",
    normed_residual=True,
    options={
        **{name: always(value) for name, value in MATRICES["lightning"].items()},
        "num_heads": field("num_attention_heads"),
        "head_dim": head_dim,
        "decay_scale": _slower_in_later_layers,
        "norm_eps": always(NORM_EPS),
    },
    tensors={"in_proj.weight": _heads_apart, "readout.norm": rows("norm"), "out_proj": rows("out_proj")},
    skip=field("linear_attn_alpha_factor", 1.0, float),
    scale=field("linear_attn_beta_factor", 1.0, float),
)
MINIMAX = MIXTRAL.but(
    mixers={
        "linear_attention": LIGHTNING,
        "full_attention": ATTENTION.but(
            normed_residual=True,
            options={"window": always(None)},
            groups=(_rotated_whole,),
            skip=field("full_attn_alpha_factor", 1.0, float),
            scale=field("full_attn_beta_factor", 1.0, float),
        ),
    },
    mixer_of=layer_type,
    ffns={
        "": MOE.but(
            normed_residual=True,
            skip=field("mlp_alpha_factor", 1.0, float),
            scale=field("mlp_beta_factor", 1.0, float),
        )
    },
    expected={"hidden_act": ("silu",), "sliding_window": (None,)},
    # Factors of one kind of layer may stand where there is none.
    inert=("block_size", *(f"{kind}_attn_{name}_factor" for kind in ("linear", "full") for name in ("alpha", "beta"))),
    derived=("slope_rate", "query_decay", "key_decay", "diagonal_decay"),
)
