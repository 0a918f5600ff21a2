"""Zamba2: Mamba-2 in every layer; before some of them blocks of attention and GLU whose weights return.

What a shared block computes is added to what the Mamba-2 of its layer reads, not to the stream, so a layer with one is
two blocks here. Each use has adapters of its own, which lie in lists beside the shared weights, and a projection.
"""

from typing import Any

from nas.interop.families.bamba import BAMBA_MAMBA
from nas.interop.families.mamba import HYBRID
from nas.interop.families.readers import ACTIVATIONS, has, rope, word
from nas.interop.families.transformer import ATTENTION, GLU
from nas.interop.family import NO_FFN, Family, Part, Place
from nas.interop.fields import Fields, Reader, always, field
from nas.interop.tensors import Source, rows

SHARED = "shared_transformer."
QUERIES_KEYS_VALUES = ("q", "k", "v")


def _positions(fields: Fields, layer: int) -> dict[str, Any]:
    options = rope(fields, layer)
    return {"position": "rope", **options} if fields("use_mem_rope", False) else {"position": "none"}


def _mamba(within: str) -> Part:
    """The Mamba-2 of a layer, in a module of that name."""
    options: dict[str, Reader] = {
        "num_heads": field("n_mamba_heads"),
        "head_dim": lambda fields, layer: (
            int(fields("mamba_expand") * fields("hidden_size")) // fields("n_mamba_heads")
        ),
        "num_groups": field("mamba_ngroups"),
        "norm_eps": always(1e-5),
        "min_step": field("time_step_min"),
        "conv_bias": always(True),
        "in_bias": has(f"{within}mamba.in_proj.bias"),
        "out_bias": has(f"{within}mamba.out_proj.bias"),
    }
    return BAMBA_MAMBA.but(prefix=f"{within}mamba.", norm=f"{within}input_layernorm", options=options)


SHARED_ATTENTION = ATTENTION.but(
    prefix=f"{SHARED}self_attn.",
    norm=f"{SHARED}input_layernorm",
    options={
        "head_dim": lambda fields, layer: 2 * fields("hidden_size") // fields("num_attention_heads"),
        "qkv_bias": always(False),
        "out_bias": always(False),
        "window": always(None),
        "reads": always("with_embedding"),
        "score_scale": always(2**0.5),  # as if heads were those of the width that is not doubled
    },
    groups=(_positions,),
    skip=always(0.0),
)
SHARED_GLU = GLU.but(
    prefix=f"{SHARED}feed_forward.",
    norm=f"{SHARED}pre_ff_layernorm",
    options={"bias": has(f"{SHARED}feed_forward.down_proj.bias")},
    tensors={"in_proj": rows("gate_up_proj")},
    skip=always(0.0),
)


def _places(family: Family, fields: Fields) -> list[Place]:
    """Before the block of every layer that is a hybrid one stands its shared block, which is one of a few by turns."""
    places: list[Place] = []
    shared: list[int] = []  # where such blocks stand
    for layer in range(family.num_layers(fields, 0)):
        mixer, ffn = family.parts(fields, layer)
        if family.mixer_of(fields, layer) == "hybrid":
            turn, number = len(shared), fields("num_mem_blocks")
            first = shared[turn % number] if turn >= number else len(places)
            source = layer if turn < number else places[first].layer
            wiring: dict[str, Any] = {"aside": True, "ffn_adapter_rank": fields("adapter_rank")}
            if fields("use_shared_attention_adapter", False):
                wiring["mixer_adapter_rank"] = fields("adapter_rank")
            if turn >= number:
                wiring["weights_of"] = len(places) - first
            own = _own(family.layers, source, layer, turn)
            shared.append(len(places))
            places.append(Place(layer=source, mixer=SHARED_ATTENTION, ffn=SHARED_GLU, wiring=wiring, own=own))
        places.append(Place(layer=layer, mixer=mixer, ffn=ffn))
    return places


def _own(layers: str, source: int, layer: int, turn: int) -> dict[str, Source]:
    """What the use in a layer, the shared block's `turn`-th counted over all of them, has beside the shared weights."""
    lists = layers.format(source) + SHARED
    adapters = {"ffn.parts.0": f"{lists}feed_forward.gate_up_proj_adapter_list.{turn}"}
    for i, name in enumerate(QUERIES_KEYS_VALUES):
        adapters[f"mixer.parts.{i}"] = f"{lists}self_attn.linear_{name}_adapter_list.{turn}"
    own = {"out_proj.weight": rows(f"{layers.format(layer)}linear.weight")}
    for ours, theirs in adapters.items():
        own |= {
            f"{ours}.down_proj.weight": rows(f"{theirs}.0.weight"),
            f"{ours}.up_proj.weight": rows(f"{theirs}.1.weight"),
        }
    return own


ZAMBA2 = HYBRID.but(
    mixers={"linear_attention": _mamba(""), "hybrid": _mamba("mamba_decoder.")},
    mixer_of=word("layers_block_type"),
    ffns={"": NO_FFN},
    places=_places,
    network={"tie_embeddings": field("tie_word_embeddings", True)},
    expected={"use_long_context": (False,), "hidden_act": tuple(ACTIVATIONS)},
    inert=(
        *HYBRID.inert,
        *("attention_hidden_size", "attention_head_dim", "kv_channels", "num_query_groups", "mamba_headdim"),
        *("hybrid_layer_ids", "add_bias_linear", "use_mem_eff_path"),
    ),
)
