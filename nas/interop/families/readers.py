"""What several families read alike: heads, windows, activations, rotary positions in their old and new forms."""

import math
from collections.abc import Mapping
from typing import Any

from nas.architecture import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling, did_you_mean
from nas.interop.errors import InteropError
from nas.interop.fields import Fields, Reader

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu2": "relu2",
}


def activation(name: str) -> Reader:
    """The activation that a field names."""

    def read(fields: Fields, layer: int) -> str:
        given = fields(name)
        if given not in ACTIVATIONS:
            raise InteropError(f"config.json sets {name} to {given!r}. {did_you_mean(given, ACTIVATIONS)}")
        return ACTIVATIONS[given]

    return read


def counted_heads(inner: int) -> dict[str, int]:
    """Of a mixer without heads: its channels, counted in heads of the largest usual size that divides them."""
    size = next((size for size in (64, 32, 16, 8, 4) if inner % size == 0), inner)
    return {"num_heads": inner // size, "head_dim": size}


def head_dim(fields: Fields, layer: int) -> int:
    return fields("head_dim", None) or fields("hidden_size") // fields("num_attention_heads")


def has(name: str) -> Reader:
    """Whether a layer has a tensor of this name: what it holds it uses."""
    return lambda fields, layer: fields.has(layer, name)


def layer_type(fields: Fields, layer: int) -> str:
    """The word for a layer in `layer_types`; full attention everywhere where there is no such list."""
    types = fields("layer_types", None)
    return "full_attention" if types is None else str(types[layer])


def window(fields: Fields, layer: int) -> int | None:
    """The window of a layer: of those that `layer_types` names, and of all layers where there is no such list."""
    size = fields("sliding_window", None)
    if fields("layer_types", None) is None:
        return size
    return size if layer_type(fields, layer) == "sliding_attention" else None


def qwen_window(fields: Fields, layer: int) -> int | None:
    """Before `layer_types` was written, the layers from `max_window_layers` on had the window, where it was used."""
    first = fields("max_window_layers", 0)
    if not fields("use_sliding_window", False):
        fields("sliding_window", None)
        return None
    if fields("layer_types", None) is None:
        return fields("sliding_window") if layer >= first else None
    return window(fields, layer)


def rope(fields: Fields, layer: int) -> dict[str, Any]:
    """rope_base, rope_fraction and rope_scaling of a layer, from `rope_parameters` or the older fields."""
    given = fields("rope_parameters", None)
    if given is None:
        given = {"rope_theta": fields("rope_theta", 10000.0), **(fields("rope_scaling", None) or {})}
        given.setdefault("partial_rotary_factor", fields("partial_rotary_factor", 1.0))
    elif layer_type(fields, layer) in given:
        given = given[layer_type(fields, layer)]
    return rope_options(given)


def rope_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that one set of rotary parameters comes to. Raises InteropError for what is not understood."""
    rest = dict(given)
    kind = rest.pop("rope_type", rest.pop("type", "default"))
    rest.pop("type", None)
    options: dict[str, Any] = {
        "rope_base": float(rest.pop("rope_theta")),
        "rope_fraction": float(rest.pop("partial_rotary_factor", 1.0)),
        "rope_scaling": _scaling(kind, rest),
    }
    if rest:
        raise InteropError(f"config.json sets {', '.join(sorted(rest))} of a {kind} rope, which is not understood.")
    return options


def _scaling(kind: str, rest: dict[str, Any]) -> RopeScaling | None:
    """Takes out of `rest` what it uses."""
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=rest.pop("factor"))
    if kind == "llama3":
        return Llama3Scaling(
            factor=rest.pop("factor"),
            original_length=rest.pop("original_max_position_embeddings"),
            low=rest.pop("low_freq_factor"),
            high=rest.pop("high_freq_factor"),
        )
    if kind == "yarn":
        factor = rest.pop("factor")
        scale, mscale, mscale_all = (rest.pop(n, None) for n in ("attention_factor", "mscale", "mscale_all_dim"))
        if scale is None and mscale and mscale_all:
            scale = (0.1 * mscale * math.log(factor) + 1) / (0.1 * mscale_all * math.log(factor) + 1)
        return YarnScaling(
            factor=factor,
            original_length=rest.pop("original_max_position_embeddings"),
            slow=rest.pop("beta_slow", None) or 1.0,
            fast=rest.pop("beta_fast", None) or 32.0,
            truncate=rest.pop("truncate", True),
            table_scale=scale,
        )
    raise InteropError(
        f"config.json asks for rope_type {kind!r}. {did_you_mean(kind, ('default', 'linear', 'llama3', 'yarn'))}"
    )


OLD_WORDS = {"mamba": "linear_attention", "attention": "full_attention"}


def word(name: str) -> Reader:
    """The reader of a list of words for layers, in the old or the new vocabulary."""

    def read(fields: Fields, layer: int) -> str:
        word = str(fields(name)[layer])
        return OLD_WORDS.get(word, word)

    return read


def shared_experts(width: str, of_one: str) -> Reader:
    """The reader of how many experts a shared one of `width` channels is worth; it must be whole."""

    def read(fields: Fields, layer: int) -> int:
        shared, one = fields(width), fields(of_one)
        if shared % one:
            raise InteropError(f"config.json sets {width} to {shared}, which must be a multiple of {of_one}, {one}.")
        return shared // one

    return read
