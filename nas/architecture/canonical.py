"""Which architectures compute the same function, and a short id that is equal exactly for those.

Names do not matter. Sublayers do, not how they are grouped into blocks: {mixer A, no FFN} followed by {no mixer, FFN B}
is {mixer A, FFN B}; where blocks share weights, groups stay as they are. Implied options are written out; options
without effect are set to their defaults. The id leaves out what is at its default, so that an option that a kind gains
later, with a default that computes what was computed before, changes the id of nothing that is stored.
"""

import hashlib
import json
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from nas.architecture.architecture import Architecture, Block
from nas.architecture.ffns import NoFfn
from nas.architecture.mixers import NoMixer
from nas.architecture.options import Options

ID_LENGTH = 10
MIXER_WIRING = ("mixer", "mixer_norm", "mixer_skip", "mixer_scale", "mixer_adapter_rank")
FFN_WIRING = ("ffn", "ffn_norm", "ffn_skip", "ffn_scale", "ffn_adapter_rank")


def canonical(architecture: Architecture) -> Architecture:
    """The representative of all architectures that compute the same function. Idempotent."""
    blocks: list[Block] = []
    tied = any(block.weights_of for block in architecture.blocks)
    for i, block in enumerate(architecture.blocks):
        block = _canonical_block(block, architecture.d_model)
        if block.weights_of is not None:
            block = replace(block, weights_of=i - architecture.weights_at[i])
        if not tied and blocks and _are_one(blocks[-1], block):
            blocks[-1] = replace(blocks[-1], **{name: getattr(block, name) for name in FFN_WIRING})
        else:
            blocks.append(block)
    embedding_scale = architecture.embedding_scale
    if embedding_scale == "sqrt_d_model":
        embedding_scale = architecture.d_model**0.5
    return replace(architecture, name="canonical", embedding_scale=embedding_scale, blocks=tuple(blocks))


def _are_one(first: Block, second: Block) -> bool:
    """Whether a block without an FFN and one without a mixer compute what one block does."""
    apart = first.aside or second.aside
    return not apart and isinstance(first.ffn, NoFfn) and isinstance(second.mixer, NoMixer)


def _canonical_block(block: Block, d_model: int) -> Block:
    """With canonical parts, and the wiring of a part that is none at its defaults."""
    mixer, ffn = block.mixer.canonical(d_model), block.ffn.canonical(d_model)
    idle = (MIXER_WIRING if isinstance(mixer, NoMixer) else ()) + (FFN_WIRING if isinstance(ffn, NoFfn) else ())
    defaults = {f.name: f.default for f in fields(Block) if f.name in idle}
    return replace(block, **{**defaults, "mixer": mixer, "ffn": ffn})


@lru_cache(maxsize=4096)
def canonical_id(architecture: Architecture) -> str:
    """Ten hexadecimal digits, the same for all architectures that compute the same function."""
    text = json.dumps(_beyond_defaults(canonical(architecture)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _beyond_defaults(value: Any) -> Any:
    """Options and blocks as nested dicts without what is at its default."""
    if isinstance(value, tuple):
        return [_beyond_defaults(item) for item in value]
    if not isinstance(value, Options):
        return value
    kind = {} if isinstance(value, Architecture | Block) else {"kind": value.kind}
    told = (f for f in fields(value) if getattr(value, f.name) != f.default)
    return kind | {f.name: _beyond_defaults(getattr(value, f.name)) for f in told}
