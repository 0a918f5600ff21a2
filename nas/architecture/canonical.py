"""Which architectures compute the same function, and a short id that is equal exactly for those.

Names do not matter. Sublayers do, not how they are grouped into blocks: {mixer A, no FFN} followed by {no mixer, FFN B}
is {mixer A, FFN B}. Implied options are written out; options without effect are set to their defaults. The id leaves
out what is at its default, so that an option that a kind gains later, with a default that computes what was computed
before, changes the id of nothing that is stored.
"""

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

from nas.architecture.architecture import Architecture, Block
from nas.architecture.ffns import FfnOptions, NoFfn
from nas.architecture.mixers import MixerOptions, NoMixer
from nas.architecture.options import Options

ID_LENGTH = 10


def canonical(architecture: Architecture) -> Architecture:
    """The representative of all architectures that compute the same function. Idempotent."""
    blocks: list[Block] = []
    for block in architecture.blocks:
        mixer = block.mixer.canonical(architecture.d_model)
        ffn = block.ffn.canonical(architecture.d_model)
        if isinstance(mixer, NoMixer) and blocks and isinstance(blocks[-1].ffn, NoFfn):
            blocks[-1] = replace(blocks[-1], ffn=ffn)
        else:
            blocks.append(Block(mixer=mixer, ffn=ffn))
    return replace(architecture, name="canonical", blocks=tuple(blocks))


def canonical_id(architecture: Architecture) -> str:
    """Ten hexadecimal digits, the same for all architectures that compute the same function."""
    text = json.dumps(_beyond_defaults(canonical(architecture)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _beyond_defaults(value: Any) -> Any:
    """Options and blocks as nested dicts without what is at its default."""
    if isinstance(value, tuple):
        return [_beyond_defaults(item) for item in value]
    if not isinstance(value, Options | Block):
        return value
    kind = {"kind": value.kind} if isinstance(value, MixerOptions | FfnOptions) else {}
    told = (f for f in fields(value) if getattr(value, f.name) != f.default)
    return kind | {f.name: _beyond_defaults(getattr(value, f.name)) for f in told}
