"""Which attention reads the keys and values of an earlier layer, and whether there is such a layer.

The source is the nearest earlier layer with keys and values of its own and the same window: so Hymba shares in pairs
(arXiv 2411.13676, section 2.2), all later layers of YOCO read one cache (arXiv 2405.05254), and Gemma 3n shares among
layers of one type.
"""

from collections.abc import Sequence
from dataclasses import replace

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.mixers import Attention, HeadMix

Reach = tuple[int | None, int]


def reach(options: Attention) -> Reach:
    """What a source and those that share with it have in common: (window, global tokens)."""
    return options.window, options.num_global


def with_own(mixer: MixerOptions) -> MixerOptions:
    """The same mixer with keys and values of its own: a source for itself."""
    if isinstance(mixer, HeadMix):
        return replace(mixer, parts=tuple(with_own(part) for part in mixer.parts))
    return replace(mixer, kv_from="own") if isinstance(mixer, Attention) else mixer


def check_sources(mixers: Sequence[MixerOptions]) -> None:
    """Raise ArchitectureError, naming the block, unless every sharing attention has a source with as many KV heads."""
    sources: dict[Reach, Attention] = {}
    for index, mixer in enumerate(mixers):
        parts = mixer.parts if isinstance(mixer, HeadMix) else (mixer,)
        attentions = [part for part in parts if isinstance(part, Attention)]
        own = {reach(part): part for part in attentions if part.kv_from == "own"}
        for part in attentions:
            if part.kv_from == "own":
                continue
            if reach(part) in own:
                raise ArchitectureError(
                    f"blocks[{index}]: an attention that shares KV stands beside one of the same window that has its "
                    "own; give one of them another window."
                )
            source = sources.get(reach(part))
            if source is None:
                window = "no window" if part.window is None else f"window={part.window}"
                raise ArchitectureError(
                    f"blocks[{index}]: KV shared from a layer that has none: no earlier attention with {window} has "
                    "keys and values of its own."
                )
            if (source.kv_heads, source.head_dim) != (part.kv_heads, part.head_dim):
                raise ArchitectureError(
                    f"blocks[{index}]: KV shared with an earlier layer must have its heads, num_kv_heads="
                    f"{source.kv_heads} of head_dim={source.head_dim}, but got num_kv_heads={part.kv_heads} of "
                    f"head_dim={part.head_dim}."
                )
        sources |= own
