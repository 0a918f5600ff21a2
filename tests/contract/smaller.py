"""Architectures small enough to be run in a test, with one of each of their blocks."""

from dataclasses import replace

from nas.architecture import Architecture, Scale, resized

VOCAB = 19


def small(architecture: Architecture, *, width: int = 64, head_dim: int = 32, window: int = 8) -> Architecture:
    """One of each block, so many channels wide; heads and windows of at most these sizes."""
    largest = max(getattr(mixer, "head_dim", head_dim) for mixer in architecture.mixers)
    widest = max(getattr(mixer, "window", None) or window for mixer in architecture.mixers)
    scale = Scale(
        width=width / architecture.d_model, head_dim=head_dim / largest, tokens=window / widest, vocab_size=VOCAB
    )
    return resized(replace(architecture, blocks=tuple(dict.fromkeys(architecture.blocks))), scale)
