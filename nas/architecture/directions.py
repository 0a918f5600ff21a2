"""The same network for another loss: what reads forwards reads both ways, or the reverse."""

from dataclasses import replace

from nas.architecture.architecture import Architecture, Block, Loss
from nas.architecture.mixer_options import Direction
from nas.architecture.mixers import NoMixer


def with_loss(architecture: Architecture, loss: Loss) -> Architecture:
    """The architecture for a loss, its mixers reading forwards for a causal one and else both ways.

    Raises ArchitectureError for a causal loss where experts choose their tokens, which has no causal counterpart.
    """
    direction: Direction = "forward" if loss == "causal" else "both"
    return replace(architecture, loss=loss, blocks=tuple(turned(block, direction) for block in architecture.blocks))


def turned(block: Block, direction: Direction) -> Block:
    """The block with its mixer, if there is one, reading so."""
    if isinstance(block.mixer, NoMixer) or block.mixer.direction == direction:
        return block
    return replace(block, mixer=replace(block.mixer, direction=direction))
