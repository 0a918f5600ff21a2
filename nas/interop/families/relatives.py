"""Llama's relatives that compute something which neither their fields nor the names of their tensors tell.

Gemma multiplies by 1 + w and scales embeddings; GLM, Helium and ERNIE 4.5 rotate neighbouring channels; Command R7B,
EXAONE 4 and SmolLM 3 have layers without positions; Nemotron's LayerNorm multiplies by 1 + w.
"""

from collections.abc import Callable
from typing import Any

from nas.architecture import Mlp
from nas.interop.families.readers import activation, has, layer_type, rope
from nas.interop.families.transformer import (
    ATTENTION,
    COHERE,
    COHERE_ATTENTION,
    GLU,
    LLAMA,
    OLMO2,
    OLMO2_ATTENTION,
    QK_NORMED,
    WINDOWED,
)
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, Reader, always, field
from nas.interop.tensors import Source, plus_one, rows


def rope_where(placed: Callable[[Fields, int], bool]) -> Reader:
    """The reader of rotary positions in some layers, none in the others."""

    def read(fields: Fields, layer: int) -> dict[str, Any]:
        options = rope(fields, layer)
        return {"position": "rope", **options} if placed(fields, layer) else {"position": "none"}

    return read


def _sliding(fields: Fields, layer: int) -> bool:
    return layer_type(fields, layer) == "sliding_attention"


def _sliding_or_no_windows(fields: Fields, layer: int) -> bool:
    return fields("sliding_window", None) is None or _sliding(fields, layer)


def _listed(fields: Fields, layer: int) -> bool:
    """The list is named after what it switches off, and holds 1 where positions are on."""
    return bool(fields("no_rope_layers")[layer])


def _gemma_activation(fields: Fields, layer: int) -> str:
    """The first files say gelu and mean its approximation."""
    given = activation("hidden_act")(fields, layer)
    return "gelu_tanh" if given == "gelu" else given


def _weight_plus_one(name: str) -> Source:
    return plus_one(name) if name.endswith(".weight") else rows(name)


def everywhere(mixer: Part) -> dict[str, Part]:
    """One part for layers with and without a window."""
    return {"full_attention": mixer, "sliding_attention": mixer}


INTERLEAVED = ATTENTION.but(options={"window": always(None), "rope_interleaved": always(True)})
FUSED_GLU = GLU.but(tensors={"in_proj": rows("gate_up_proj")})
EXAONE4_ATTENTION = QK_NORMED.but(
    norm=None, post_norm="post_attention_layernorm", groups=(rope_where(_sliding_or_no_windows),)
)
NEMOTRON_MLP = Part(
    kind=Mlp,
    prefix="mlp.",
    norm="post_attention_layernorm",
    options={
        "d_ff": field("intermediate_size"),
        "activation": activation("hidden_act"),
        "bias": has("mlp.down_proj.bias"),
    },
    tensors={"in_proj": rows("up_proj"), "out_proj": rows("down_proj")},
)

RELATIVES: dict[str, Family] = {
    "cohere2": COHERE.but(
        mixer_of=layer_type,
        mixers=everywhere(
            COHERE_ATTENTION.but(options={"window": ATTENTION.options["window"]}, groups=(rope_where(_sliding),))
        ),
    ),
    "ernie4_5": LLAMA.but(mixers={"": INTERLEAVED}, inert=("use_bias",)),
    "exaone4": WINDOWED.but(
        mixers=everywhere(EXAONE4_ATTENTION),
        ffns={"": GLU.but(norm=None, post_norm="post_feedforward_layernorm")},
        inert=("sliding_window_pattern",),  # `layer_types` was made from it
    ),
    "gemma": LLAMA.but(
        ffns={"": GLU.but(options={"activation": _gemma_activation})},
        norms=plus_one,
        network={"tie_embeddings": field("tie_word_embeddings", True), "embedding_scale": always("sqrt_d_model")},
        expected={"use_bidirectional_attention": (False, None), "hidden_activation": (None, "gelu_pytorch_tanh")},
        inert=("attention_bias",),
    ),
    "glm": LLAMA.but(mixers={"": INTERLEAVED}, ffns={"": FUSED_GLU}),
    "glm4": LLAMA.but(
        mixers={"": INTERLEAVED.but(post_norm="post_self_attn_layernorm")},
        ffns={"": FUSED_GLU.but(post_norm="post_mlp_layernorm")},
    ),
    "helium": LLAMA.but(mixers={"": INTERLEAVED}),
    "nemotron": LLAMA.but(
        mixers={"": ATTENTION.but(options={"window": always(None), "norm_eps": field("norm_eps")})},
        ffns={"": NEMOTRON_MLP},
        norms=_weight_plus_one,
        network={"norm": always("layernorm"), "norm_bias": always(True), "norm_eps": field("norm_eps")},
    ),
    "olmo3": OLMO2.but(mixer_of=layer_type, mixers=everywhere(OLMO2_ATTENTION)),
    "smollm3": WINDOWED.but(
        mixers=everywhere(ATTENTION.but(groups=(rope_where(_listed),))),
        network={"tie_embeddings": field("tie_word_embeddings", True)},
        inert=("no_rope_layer_interval", "attention_bias", "mlp_bias"),
        expected={"use_sliding_window": (False, True)},  # `layer_types` says where
    ),
}
