"""What a network is made of for a table of measured blocks: its ends, and each part with how it joins the stream.

A part is a mixer or an FFN. Joined in the usual way (`Joint()`: one RMS norm before it, nothing scaled) it stands for
itself; any other wiring that costs time goes with it. What a number is (an epsilon, a scale that is not 1, a cap) costs
nothing, so it is no part of what is measured.

The cost of an FFN is smooth in its hidden width, which parameter matching sets to any multiple of 8: FFNs are measured
at a grid of widths.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

from nas.architecture import (
    FFNS,
    MIXERS,
    Architecture,
    ArchitectureError,
    Block,
    FfnOptions,
    HeadMix,
    MixerOptions,
    NoFfn,
    NoMixer,
    options_to_dict,
    read_part,
)
from nas.architecture.architecture import Loss, Norm, NormPlacement, looks_ahead
from nas.architecture.kv_sharing import with_own
from nas.parts import ffn_width, with_width

Placement = NormPlacement | Literal["shared"]
PLACEMENTS = (*get_args(NormPlacement), "shared")
SCALED = 0.9
"""Stands for every factor that is not 1."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Embedding, last norm and head of a network. The flags say whether there is anything to multiply or to cap."""

    vocab_size: int
    tied: bool
    norm: Norm = "rmsnorm"
    norm_bias: bool = False
    embedding_scaled: bool = False
    embedding_normed: bool = False
    logits_scaled: bool = False
    logits_capped: bool = False
    loss: Loss = "causal"


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How a part joins the residual stream: where its norm stands and of what kind, and what is scaled.

    placement: as in `nas.architecture.Block`; `shared` has no norm of its own, but reads that of the mixer beside it.
    adapter_rank: of the low-rank additions to its first projection. aside: its result is projected and put aside.
    """

    placement: Placement = "pre"
    norm: Norm = "rmsnorm"
    norm_bias: bool = False
    skip_scaled: bool = False
    part_scaled: bool = False
    adapter_rank: int = 0
    aside: bool = False

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS or self.norm not in get_args(Norm):
            raise ArchitectureError(f"There is no placement {self.placement!r} of a norm {self.norm!r}.")


USUAL = Joint()


@dataclass(frozen=True)
class Joined:
    """A part that joins the stream in an unusual way."""

    part: MixerOptions | FfnOptions
    joint: Joint


Layer = MixerOptions | FfnOptions | Joined
Part = Layer | Ends


@lru_cache(maxsize=1024)
def parts_of(architecture: Architecture) -> Mapping[Part, int]:
    """Every different part and how often it stands there: the ends, then mixers and FFNs in order."""
    counts: Counter[Part] = Counter((ends_of(architecture),))
    for block, times in architecture.distinct_blocks:
        for part in parts_of_block(block, architecture.norm, architecture.norm_bias):
            counts[part] += times
    return counts


def ends_of(architecture: Architecture) -> Ends:
    return Ends(
        vocab_size=architecture.vocab_size,
        tied=architecture.tie_embeddings,
        norm=architecture.norm,
        norm_bias=architecture.norm_bias,
        embedding_scaled=architecture.embedding_scale != 1,
        embedding_normed=architecture.embedding_norm,
        logits_scaled=architecture.logits_scale != 1,
        logits_capped=architecture.logits_soft_cap is not None,
        loss=architecture.loss,
    )


@lru_cache(maxsize=16384)
def parts_of_block(block: Block, norm: Norm, norm_bias: bool) -> tuple[Layer, ...]:
    """The mixer and the FFN of a block, without what is absent."""
    found: list[Layer] = []
    if not isinstance(block.mixer, NoMixer):
        rest: dict[str, Any] = {"skip_scaled": block.mixer_skip != 1, "part_scaled": block.mixer_scale != 1}
        rest |= {"adapter_rank": block.mixer_adapter_rank, "aside": block.aside and isinstance(block.ffn, NoFfn)}
        found.append(joined(block.mixer, Joint(placement=block.mixer_norm, norm=norm, norm_bias=norm_bias, **rest)))
    if not isinstance(block.ffn, NoFfn):
        placement = "shared" if block.parallel else block.ffn_norm
        rest = {"skip_scaled": block.ffn_skip != 1, "part_scaled": block.ffn_scale != 1}
        rest |= {"adapter_rank": block.ffn_adapter_rank, "aside": block.aside}
        found.append(joined(block.ffn, Joint(placement=placement, norm=norm, norm_bias=norm_bias, **rest)))
    return tuple(found)


def joined(part: MixerOptions | FfnOptions, joint: Joint) -> Layer:
    """The part as the table knows it."""
    return part if joint == USUAL else Joined(part, joint)


def bare(layer: Layer) -> MixerOptions | FfnOptions:
    """The mixer or FFN itself."""
    return layer.part if isinstance(layer, Joined) else layer


def joint_of(layer: Layer) -> Joint:
    return layer.joint if isinstance(layer, Joined) else USUAL


def stack(layer: Layer, d_model: int, vocab_size: int, repeats: int) -> Architecture:
    """A network of one kind of block, each joined as the layer says; `shared` still has norms of its own.

    Before blocks that share the keys and values of an earlier layer stands one that has them.
    """
    part, joint = bare(layer), joint_of(layer)
    which = "mixer" if isinstance(part, MixerOptions) else "ffn"
    wiring: dict[str, Any] = {
        which: part,
        f"{which}_norm": "pre" if joint.placement == "shared" else joint.placement,
        f"{which}_skip": SCALED if joint.skip_scaled else 1.0,
        f"{which}_scale": SCALED if joint.part_scaled else 1.0,
        f"{which}_adapter_rank": joint.adapter_rank,
        "aside": joint.aside,
    }
    own = with_own(part) if isinstance(part, MixerOptions) else part
    sources = () if own == part else (Block(**{**wiring, which: own}),)
    return Architecture(
        name="stack",
        d_model=d_model,
        vocab_size=vocab_size,
        norm=joint.norm,
        norm_bias=joint.norm_bias,
        loss="masked_diffusion" if looks_ahead(Block(**wiring)) else "causal",
        blocks=(*sources, *(Block(**wiring),) * repeats),
    )


def is_ffn(part: Part) -> bool:
    return not isinstance(part, Ends) and isinstance(bare(part), FfnOptions)


def width_of(part: Part) -> int:
    """The hidden width of an FFN."""
    assert not isinstance(part, Ends)
    ffn = bare(part)
    assert isinstance(ffn, FfnOptions)
    return ffn_width(ffn)


def measured_for(part: Part) -> tuple[Part, ...]:
    """The blocks whose measurements give that of a part: itself, or an FFN at the widths of the grid around its own."""
    return tuple(dict.fromkeys(grid_neighbours(part))) if is_ffn(part) else (part,)


def grid_neighbours(part: Part) -> tuple[Layer, Layer]:
    """An FFN at the two widths of the grid around its own: 8, 16, 24, 32, 48, 64, 96, 128, 192, ...

    Both are its own where that is on the grid.
    """
    width = width_of(part)
    high = 8
    low = high
    while high < width:
        low, high = high, (high + 8 if high < 32 else high * 3 // 2 if high & (high - 1) == 0 else high // 3 * 4)
    return at_width(part, high if high == width else low), at_width(part, high)


def at_width(part: Part, width: int) -> Layer:
    """An FFN, joined as it is, at another hidden width."""
    assert not isinstance(part, Ends)
    ffn = bare(part)
    assert isinstance(ffn, FfnOptions)
    return joined(with_width(ffn, width), joint_of(part))


def part_to_dict(part: Part, d_model: int) -> dict[str, Any]:
    """Plain data; equal functions give equal data. Of a joint only what is unusual."""
    if isinstance(part, Ends):
        return {"kind": "ends", "vocab_size": part.vocab_size, "tied": part.tied, **unusual(part)}
    data = options_to_dict(bare(part).canonical(d_model))
    return {**data, "joint": unusual(part.joint)} if isinstance(part, Joined) else data


def part_from_dict(data: Mapping[str, Any]) -> Part:
    """Raises ArchitectureError or TypeError for what is no part."""
    if data.get("kind") == "ends":
        return Ends(**{name: value for name, value in data.items() if name != "kind"})
    options = {name: value for name, value in data.items() if name != "joint"}
    # An FFN and a mixer share one kind, `none`, which is never measured.
    part = read_part(options, FFNS if data.get("kind") in FFNS else MIXERS, "a block of the table")
    assert isinstance(part, MixerOptions | FfnOptions)
    return joined(part, Joint(**data.get("joint", {})))


def unusual(wiring: Ends | Joint) -> dict[str, Any]:
    """The fields that are not at their defaults, of those that have one."""
    given = asdict(wiring)
    optional = [f for f in fields(wiring) if f.default is not MISSING]
    return {f.name: given[f.name] for f in optional if given[f.name] != f.default}


def describe_part(part: Part) -> str:
    """`attention num_heads=7 num_kv_heads=1 head_dim=64`, for a reader; options at their defaults are left out."""
    if isinstance(part, Ends):
        return told(f"embedding and head, vocabulary {part.vocab_size:,}", part)
    if isinstance(part, Joined):
        return told(describe_part(part.part), part.joint)
    if isinstance(part, HeadMix):
        both = "" if part.direction == "forward" else f" direction={part.direction}"
        return f"head_mix {part.fuse}{both}: " + " + ".join(describe_part(inner) for inner in part.parts)
    given = [(f.name, getattr(part, f.name)) for f in fields(part) if getattr(part, f.name) != f.default]
    return " ".join((part.kind, *(f"{name}={value}" for name, value in given)))


def told(text: str, wiring: Ends | Joint) -> str:
    """With what is unusual about the wiring behind it."""
    given = unusual(wiring).items()
    words = [name if v is True else v if isinstance(v, str) else f"{name}={v}" for name, v in given]
    return f"{text}, {' '.join(words)}" if words else text
