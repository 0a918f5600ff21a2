"""Which architectures compute the same function, and a short id that is equal exactly for those.

Names do not matter. Sublayers do, not how they are grouped into blocks: {mixer A, no FFN} followed by {no mixer, FFN B}
is {mixer A, FFN B}. Implied options are written out; options without effect are set to their defaults.
"""

import hashlib
import json
from dataclasses import replace

from nas.architecture.architecture import Architecture, Block
from nas.architecture.ffns import NoFfn
from nas.architecture.mixers import NoMixer
from nas.architecture.yaml_form import to_dict

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
    text = json.dumps(to_dict(canonical(architecture)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
