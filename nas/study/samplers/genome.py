"""The choices of a trial as a list of blocks, and the moves that change it: what structured evolution works on.

A space asks for the choices of a layer under one prefix, `layers.3.window`, `pattern.1.mixer`, `stages.late.ffn` or
`pattern.1` alone; whatever has no such prefix (depth, width, sizes that all layers share) belongs to the whole. A block
is what stands under one prefix, so that moves take a layer with all its options. What a moved block lacks in its new
place the space asks for again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

Choice = str | int | float | bool | None
Block = Mapping[str, Choice]
Choices = Mapping[str, Sequence[Choice]]
PREFIX = re.compile(r"(layers|pattern|stages)\.([^.]+)(?:\.(.+))?")
HEADS = re.compile(r"heads_of_\d+$")


@dataclass(frozen=True)
class Genome:
    """whole: choices of the whole network. places: the prefixes in order. blocks: the choices under each prefix, by
    what follows it (`""` for a prefix that is itself a choice)."""

    whole: Block
    places: tuple[str, ...]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, params: Mapping[str, Choice]) -> "Genome":
        """The choices of a trial, in the order in which its space asked."""
        whole: dict[str, Choice] = {}
        blocks: dict[str, dict[str, Choice]] = {}
        for name, value in params.items():
            found = PREFIX.fullmatch(name)
            if found is None:
                whole[name] = value
            else:
                blocks.setdefault(f"{found[1]}.{found[2]}", {})[found[3] or ""] = value
        return cls(whole, tuple(blocks), tuple(blocks.values()))

    def params(self) -> dict[str, Choice]:
        """The choices by the names that the space asks for."""
        placed = zip(self.places, self.blocks, strict=True)
        return dict(self.whole) | {name_in(place, key): v for place, block in placed for key, v in block.items()}

    def with_blocks(self, blocks: Sequence[Block]) -> "Genome":
        """Other blocks in the same places: what is too long is cut off, what is too short ends as before."""
        kept = (*blocks, *self.blocks[len(blocks) :])[: len(self.blocks)]
        return Genome(self.whole, self.places, kept)


def name_in(place: str, key: str) -> str:
    return f"{place}.{key}" if key else place


def swap(genome: Genome, choices: Choices, random: Random) -> Genome:
    """Two blocks change places."""
    blocks = list(genome.blocks)
    if len(blocks) > 1:
        i, j = random.sample(range(len(blocks)), 2)
        blocks[i], blocks[j] = blocks[j], blocks[i]
    return genome.with_blocks(blocks)


def insert(genome: Genome, choices: Choices, random: Random) -> Genome:
    """A new block, or a copy of one, comes in; those behind it move on, and the last falls off."""
    blocks = list(genome.blocks)
    if blocks:
        new = {} if random.random() < 0.5 else random.choice(blocks)
        blocks.insert(random.randrange(len(blocks)), new)
    return genome.with_blocks(blocks)


def delete(genome: Genome, choices: Choices, random: Random) -> Genome:
    """A block goes; those behind it move up, and the space asks for a new last one."""
    blocks = list(genome.blocks)
    if len(blocks) > 1:
        del blocks[random.randrange(len(blocks))]
        blocks.append({})
    return genome.with_blocks(blocks)


def copy_motif(genome: Genome, choices: Choices, random: Random) -> Genome:
    """Two to four neighbouring blocks are written over others."""
    blocks = list(genome.blocks)
    length = min(random.randint(2, 4), len(blocks) - 1)
    if length > 0:
        start, target = random.sample(range(len(blocks) - length + 1), 2)
        blocks[target : target + length] = blocks[start : start + length]
    return genome.with_blocks(blocks)


def change_option(genome: Genome, choices: Choices, random: Random) -> Genome:
    """One choice of a block or of the whole becomes another one."""
    params = genome.params()
    able = [name for name in params if len(choices.get(name, ())) > 1]
    if not able:
        return genome
    name = random.choice(able)
    changed = random.choice([choice for choice in choices[name] if choice != params[name]])
    return Genome.of(params | {name: changed})


def resplit_heads(genome: Genome, choices: Choices, random: Random) -> Genome:
    """Another share of a block's heads goes to the first mixer of its pair; without such a block, another option."""
    params = genome.params()
    able = [name for name in params if HEADS.search(name) and len(choices.get(name, ())) > 1]
    if not able:
        return change_option(genome, choices, random)
    name = random.choice(able)
    order = sorted(choices[name], key=str) if any(isinstance(c, str) for c in choices[name]) else sorted(choices[name])  # type: ignore[type-var]
    at = order.index(params[name])
    near = [order[i] for i in (at - 1, at + 1) if 0 <= i < len(order)]
    return Genome.of(params | {name: random.choice(near)})


Move = Callable[[Genome, Choices, Random], Genome]
MOVES: dict[str, Move] = {
    "swap": swap,
    "insert": insert,
    "delete": delete,
    "copy_motif": copy_motif,
    "change_option": change_option,
    "resplit_heads": resplit_heads,
}


def cross(first: Genome, second: Genome, random: Random) -> Genome:
    """The front of one network and the back of the other; choices of the whole come from either."""
    mates = {name: random.choice((value, second.whole.get(name, value))) for name, value in first.whole.items()}
    cut = random.randint(0, len(first.blocks))
    return Genome(mates, first.places, first.blocks).with_blocks((*first.blocks[:cut], *second.blocks[cut:]))
