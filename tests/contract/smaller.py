"""Architectures small enough to be run in a test, with one of each of their blocks."""

from dataclasses import replace

from nas.architecture import Architecture, Block, MatrixRecurrence, Scale, resized

VOCAB = 19


def _distinct(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """One of each, whatever the rates of decay that layers differ in; each with weights of its own."""
    found: dict[Block, Block] = {}
    for block in blocks:
        block = replace(block, weights_of=None)
        mixer = block.mixer
        alike = replace(mixer, decay_scale=1.0) if isinstance(mixer, MatrixRecurrence) else mixer
        found.setdefault(replace(block, mixer=alike), block)
    return tuple(found.values())


def small(architecture: Architecture, *, width: int = 64, head_dim: int = 32, window: int = 8) -> Architecture:
    """One of each block, so many channels wide; heads and windows of at most these sizes."""
    largest = max(getattr(mixer, "head_dim", head_dim) for mixer in architecture.mixers)
    widest = max(getattr(mixer, "window", None) or window for mixer in architecture.mixers)
    scale = Scale(
        width=width / architecture.d_model, head_dim=head_dim / largest, tokens=window / widest, vocab_size=VOCAB
    )
    return resized(replace(architecture, blocks=_distinct(architecture.blocks)), scale)
