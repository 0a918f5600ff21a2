"""The table of mixers that a space can offer: the letter in patterns, the options that are searched, the heads.

A new mixer is one row here. A searched option is named as the field of the space that lists its choices.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from typing import Any

from nas.architecture import (
    PRESETS,
    Architecture,
    Attention,
    Block,
    BlockSparseAttention,
    FfnOptions,
    GatedDeltaNet,
    GatedLinearAttention,
    GatedSlotAttention,
    HeadMix,
    Mamba1,
    Mamba2,
    MatrixRecurrence,
    MixerOptions,
    Moe,
    NativeSparseAttention,
    Rwkv4,
    Rwkv6,
    Rwkv7,
    S4d,
    ShortConvolution,
    TttLinear,
    VectorRecurrence,
    WindowLinearAttention,
    preset,
    preset_name,
)
from nas.architecture.kv_sharing import Reach, own_sources, source_of
from nas.architecture.options import Options, role_of
from search_spaces.picks import Choice

HEAD_MIX = "head_mix"

Sources = Mapping[Reach, Attention]
"""Keys and values of earlier layers."""
Ask = Callable[[str, Iterable[Choice]], Any]
"""Asks for one of several choices by the name of a field, and answers with it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One mixer of a space. `options` maps a field of the space to the option of the mixer that it chooses.

    choose: asks for options that depend on one another, given the space; describe: the way back, for heads of a size.
    """

    make: Callable[..., MixerOptions]
    letter: str
    options: Mapping[str, str]
    expand: int = 1
    choose: Callable[[Ask, Any], dict[str, Any]] | None = None
    describe: Callable[[Any, int], dict[str, object]] | None = None


PRESET_LETTERS = {
    "linear_attention": "f", "based": "q", "hedgehog": "e", "retnet": "r", "lightning": "i", "hgrn2": "h",
    "deltanet": "d", "kda": "k", "deltaproduct": "p", "comba": "o", "mlstm": "x",
    "rg_lru": "u", "hgrn": "w", "min_gru": "y", "min_lstm": "z",
}  # fmt: skip
"""Published mixers that are options of a kind; `gla` is a kind of its own already."""


def _rwkv6(num_heads: int, head_dim: int) -> Rwkv6:
    """Ranks in the published proportion to heads of 64."""
    return Rwkv6(num_heads=num_heads, head_dim=head_dim, mix_rank=head_dim // 2, decay_rank=head_dim)


def _rwkv7(num_heads: int, head_dim: int) -> Rwkv7:
    return Rwkv7(
        num_heads=num_heads, head_dim=head_dim, decay_rank=head_dim, rate_rank=head_dim, gate_rank=2 * head_dim
    )


ATTENTION_OPTIONS = {"position": "position", "num_kv_heads": "num_kv_heads"}

# Mamba layers have an inner width of twice the model's, as published (arXiv 2312.00752 section 3.4, 2405.21060).
KINDS: dict[str, Kind] = {
    "attention": Kind(make=Attention, letter="a", options=ATTENTION_OPTIONS),
    "sliding_window": Kind(make=Attention, letter="s", options={"window": "window", **ATTENTION_OPTIONS}),
    "block_sparse_attention": Kind(
        make=BlockSparseAttention,
        letter="b",
        options={"block_size": "block_size", "top_k_blocks": "top_k", **ATTENTION_OPTIONS},
    ),
    "window_linear_attention": Kind(
        make=WindowLinearAttention, letter="W", options={"window": "window", **ATTENTION_OPTIONS}
    ),
    "gated_linear_attention": Kind(make=GatedLinearAttention, letter="l", options={"key_dim": "key_dim"}),
    "mamba2": Kind(make=Mamba2, letter="m", options={"state_dim": "state_dim"}, expand=2),
    "mamba1": Kind(make=Mamba1, letter="n", options={"mamba1_state_dim": "state_dim"}, expand=2),
    "gated_deltanet": Kind(make=GatedDeltaNet, letter="g", options={"key_dim": "key_dim"}),
    "short_convolution": Kind(make=lambda num_heads, head_dim: ShortConvolution(), letter="c", options={}),
    **{
        name: Kind(
            make=partial(preset, name),
            letter=letter,
            options={"key_dim": "key_dim"} if PRESETS[name][0] is MatrixRecurrence and name != "based" else {},
        )
        for name, letter in PRESET_LETTERS.items()
    },
    "rwkv4": Kind(make=Rwkv4, letter="4", options={}),
    "rwkv6": Kind(make=_rwkv6, letter="6", options={}),
    "rwkv7": Kind(make=_rwkv7, letter="7", options={}),
    "s4d": Kind(make=S4d, letter="j", options={"mamba1_state_dim": "state_dim"}, expand=2),
    "gated_slot_attention": Kind(make=GatedSlotAttention, letter="v", options={"state_dim": "num_slots"}),
    "ttt_linear": Kind(make=TttLinear, letter="t", options={}),
}
HEADED = tuple(name for name in KINDS if name != "short_convolution")
"""Kinds that can share the heads of a layer."""
LETTERS = {kind.letter: name for name, kind in KINDS.items()}
FFN_SIGNS = {"glu": "", "mlp": "^", "moe": "+", "none": "-", "rwkv_channel_mix": "~", "mixture_of_depths": "/"}


def kind_of(mixer: MixerOptions, kinds: Mapping[str, Kind] = KINDS) -> str:
    """The name of a mixer in a space: that of its options, but attention with a window is `sliding_window`, one with
    biases by distance `relative_attention`, and a recurrence that was published goes by that name where the space has
    it."""
    if isinstance(mixer, MatrixRecurrence | VectorRecurrence):
        name = preset_name(mixer)
        return mixer.kind if name is None or name not in kinds else name
    if not isinstance(mixer, Attention):
        return mixer.kind
    full = "relative_attention" if mixer.position == "relative" else "attention"
    return full if mixer.window is None else "sliding_window"


def describe_mixer(
    mixer: MixerOptions, head_dim: int, kinds: Mapping[str, Kind], sources: Sources
) -> dict[str, object]:
    """What a space must choose to make this canonical mixer, its states scaled to heads of `head_dim`.

    sources: of keys and values that it might share; without one it needs no choice to have its own.
    """
    if not isinstance(mixer, HeadMix):
        return {"mixer": kind_of(mixer, kinds), **_describe_options(mixer, head_dim, kinds, sources)}
    names = [kind_of(part, kinds) for part in mixer.parts]
    wanted: dict[str, object] = {"mixer": HEAD_MIX, "parts": frozenset(names), "fuse": mixer.fuse}
    for name, part in zip(names, mixer.parts, strict=True):
        wanted[f"{name}.heads"] = Fraction(inner_width(part), inner_width(mixer))
        wanted |= {f"{name}.{key}": value for key, value in _describe_options(part, head_dim, kinds, sources).items()}
    return wanted


def sources_after(mixer: MixerOptions, sources: Sources) -> Sources:
    """What a later layer may share: not those of a head_mix, whose heads are rounded otherwise when it is resized."""
    own = own_sources(mixer)
    hidden = {key: attention for key, attention in sources.items() if key not in own}
    return hidden if isinstance(mixer, HeadMix) else hidden | own


def may_share(mixer: MixerOptions, sources: Sources) -> bool:
    """Whether there are keys and values for this layer, of one that has as many heads at every size, rotated alike."""
    source = source_of(mixer, sources)
    alike = ("num_heads", "position")
    return source is not None and all(getattr(source, name) == getattr(mixer, name, None) for name in alike)


def describe_ffn(ffn: FfnOptions, moe_options: Mapping[str, str]) -> dict[str, object]:
    """What a space must choose to make this FFN. Widths are no choice: they follow from the parameter target."""
    if isinstance(ffn, Moe):
        options = {"num_experts": "num_experts", "top_k": "top_k", "num_shared": "num_shared", **moe_options}
        return {"ffn": "moe", **{key: getattr(ffn, option) for key, option in options.items()}}
    return {"ffn": ffn.kind}


def inner_width(mixer: MixerOptions) -> int:
    """Heads times head size, summed over the parts of a head_mix; 0 for no mixer."""
    if isinstance(mixer, HeadMix):
        return sum(inner_width(part) for part in mixer.parts)
    return getattr(mixer, "num_heads", 0) * getattr(mixer, "head_dim", 0)


def agree(a: Architecture, b: Architecture) -> bool:
    """Whether two canonical architectures differ in sizes only: same kinds, inner width to width, other options."""
    return (
        len(a.blocks) == len(b.blocks)
        and _same_but_for(a, b, "d_model", "vocab_size", "num_meta_tokens", "blocks")
        and bool(a.num_meta_tokens) == bool(b.num_meta_tokens)
        and all(_same_but_for(x, y, "mixer", "ffn") for x, y in zip(a.blocks, b.blocks, strict=True))
        and all(
            inner_width(x.mixer) * b.d_model == inner_width(y.mixer) * a.d_model
            for x, y in zip(a.blocks, b.blocks, strict=True)
        )
        and all(
            _agree_options(x.mixer, y.mixer) and _agree_options(x.ffn, y.ffn)
            for x, y in zip(a.blocks, b.blocks, strict=True)
        )
    )


def pattern_name(blocks: Sequence[Block], kinds: Mapping[str, Kind] = KINDS) -> str:
    """Short name of a stack: a letter per mixer, `(a2m2)` for a head_mix; behind it `+` for a MoE, `^` for an MLP,
    `~` for RWKV's FFN and `-` where no FFN follows.
    """
    return "".join(_mixer_name(block.mixer, kinds) + FFN_SIGNS[block.ffn.kind] for block in blocks)


def _describe_options(
    mixer: MixerOptions, head_dim: int, kinds: Mapping[str, Kind], sources: Sources
) -> dict[str, object]:
    kind = kinds.get(kind_of(mixer, kinds))
    if kind is None:
        return {}
    if kind.describe is not None:
        return kind.describe(mixer, head_dim)
    wanted: dict[str, object] = {}
    has = {f.name: getattr(mixer, f.name) for f in fields(mixer)}
    for key, option in kind.options.items():
        if key == "kv_from" and has[option] == "own" and not may_share(mixer, sources):
            continue
        wanted[key] = has[option]
        if option == "num_kv_heads":
            wanted[key] = Fraction(has[option], has["num_heads"])
        elif role_of(type(mixer), option) in ("state", "head_dim"):
            wanted[key] = Fraction(has[option] * head_dim, has["head_dim"])
    return wanted


def _agree_options(a: Options, b: Options) -> bool:
    if type(a) is not type(b) or a == b:
        return a == b
    if isinstance(a, HeadMix) and isinstance(b, HeadMix):
        # The order of parts does not matter: the kinds within one head_mix of a space differ.
        pairs = zip(sorted(a.parts, key=kind_of), sorted(b.parts, key=kind_of), strict=True)
        return a.fuse == b.fuse and all(kind_of(x) == kind_of(y) and _agree_options(x, y) for x, y in pairs)
    return all(_agree_values(type(a), f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def _agree_values(kind: type[Options], name: str, a: object, b: object) -> bool:
    """Sizes may differ, but not in whether there is one."""
    return (a is None) == (b is None) if _is_size(kind, name) else a == b


def _same_but_for(a: Options, b: Options, *left_out: str) -> bool:
    return all(getattr(a, f.name) == getattr(b, f.name) for f in fields(a) if f.name not in left_out)


def _is_size(kind: type[Options], name: str) -> bool:
    searched = kind in (BlockSparseAttention, NativeSparseAttention) and name == "top_k"
    return searched or role_of(kind, name) not in ("fixed", "groups")


def _mixer_name(mixer: MixerOptions, kinds: Mapping[str, Kind]) -> str:
    if isinstance(mixer, HeadMix):
        return "(" + "".join(f"{_mixer_name(p, kinds)}{getattr(p, 'num_heads', '')}" for p in mixer.parts) + ")"
    return kinds[kind_of(mixer, kinds)].letter
