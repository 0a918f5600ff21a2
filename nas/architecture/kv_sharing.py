"""Which attention reads the keys and values of an earlier layer, and whether there is such a layer.

The source is the nearest earlier layer with keys and values of its own and the same window: so Hymba shares in pairs
(arXiv 2411.13676, section 2.2), all later layers of YOCO read one cache (arXiv 2405.05254), and Gemma 3n shares among
layers of one type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.architecture.errors import ArchitectureError
from nas.architecture.head_mix import HeadMix
from nas.architecture.mixer_options import Direction, MixerOptions
from nas.architecture.mixers import Attention

Reach = tuple[int | None, int, Direction, bool]


def reach(options: Attention) -> Reach:
    """What a source and those that share with it have in common: (window, global tokens, direction, and whether one
    pass is causal)."""
    return options.window, options.num_global, options.direction, options.causal


def with_own(mixer: MixerOptions) -> MixerOptions:
    """The same mixer with keys and values of its own: a source for itself."""
    if isinstance(mixer, HeadMix):
        return replace(mixer, parts=tuple(with_own(part) for part in mixer.parts))
    return replace(mixer, kv_from="own") if isinstance(mixer, Attention) else mixer


def own_sources(mixer: MixerOptions) -> dict[Reach, Attention]:
    """The attentions of a layer, parts of head_mix included, whose keys and values later layers may share."""
    return {reach(part): part for part in _attentions(mixer) if part.kv_from == "own"}


def source_of(mixer: MixerOptions, sources: Mapping[Reach, Attention]) -> Attention | None:
    """The nearest earlier attention whose keys and values this one can share; None where there is none."""
    if not isinstance(mixer, Attention):
        return None
    source = sources.get(reach(mixer))
    return source if source is not None and _heads(source) == _heads(mixer) else None


def check_sources(mixers: Sequence[MixerOptions]) -> None:
    """Raise ArchitectureError, naming the block, unless every sharing attention has a source with as many KV heads."""
    sources: dict[Reach, Attention] = {}
    for index, mixer in enumerate(mixers):
        own = own_sources(mixer)
        for part in _attentions(mixer):
            if part.kv_from == "own":
                continue
            if reach(part) in own:
                raise ArchitectureError(
                    f"blocks[{index}]: an attention that shares KV stands beside one of the same window that has its "
                    "own; give one of them another window."
                )
            source = sources.get(reach(part))
            if source is None:
                alike = "without a window" if part.window is None else f"with window={part.window}"
                alike += "" if part.direction == "forward" else " that reads both ways as it does"
                raise ArchitectureError(
                    f"blocks[{index}]: KV shared from a layer that has none: no earlier attention {alike} has keys and "
                    "values of its own; use kv_from: own."
                )
            if _heads(source) != _heads(part):
                raise ArchitectureError(
                    f"blocks[{index}]: KV shared with an earlier layer must have its heads, num_kv_heads="
                    f"{source.kv_heads} of head_dim={source.head_dim}, but got num_kv_heads={part.kv_heads} of "
                    f"head_dim={part.head_dim}."
                )
        sources |= own


def _attentions(mixer: MixerOptions) -> list[Attention]:
    parts = mixer.directed_parts if isinstance(mixer, HeadMix) else (mixer,)
    return [part for part in parts if isinstance(part, Attention)]


def _heads(attention: Attention) -> tuple[int, int, int]:
    """Keys and values that layers share are so many, of these sizes."""
    return attention.kv_heads, attention.head_dim, attention.value_size
