"""The choices of a trial as a list of blocks: what structured evolution works on.

A space asks for the choices of a layer under one prefix, `layers.3.window`, `pattern.1.mixer`, `stages.late.ffn` or
`pattern.1` alone; whatever has no such prefix (depth, width, sizes that all layers share) belongs to the whole. A block
is what stands under one prefix, so that moves take a layer with all its options. The number of blocks follows a choice
of the whole: the depth for layers, the period for a pattern. What a moved block lacks in its new place the space asks
for again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log1p

Choice = str | int | float | bool | None
Block = Mapping[str, Choice]
Choices = Mapping[str, Sequence[Choice]]
PREFIX = re.compile(r"(layers|pattern|stages)\.([^.]+)(?:\.(.+))?")
TOTAL = re.compile(r"(.+)_of_(\d+)")
LENGTH = {"layers": "num_layers", "pattern": "period"}


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
        return replace(self, blocks=tuple(kept))

    @property
    def length_name(self) -> str | None:
        """The choice of the whole that says how many blocks there are; None where nothing does."""
        kind = self.places[0].partition(".")[0] if self.places else ""
        wanted = LENGTH.get(kind)
        return next((name for name in self.whole if wanted and stem_of(name)[0] == wanted), None)

    def lengths(self, choices: Choices) -> list[int]:
        """The numbers of blocks that the space offers, in order; the present one alone where there is no choice."""
        name = self.length_name
        return (
            [len(self.blocks)] if name is None else sorted(int(str(n)) for n in choices.get(name, [self.whole[name]]))
        )

    def with_length(self, length: int, blocks: Sequence[Block]) -> "Genome":
        """A network of `length` blocks: these, repeated from the start where they are too few."""
        name = self.length_name
        if name is None or not blocks:
            return self.with_blocks(blocks)
        kind = self.places[0].partition(".")[0]
        repeated = tuple(blocks[i % len(blocks)] for i in range(length))
        return Genome({**self.whole, name: length}, tuple(f"{kind}.{i}" for i in range(length)), repeated)


def name_in(place: str, key: str) -> str:
    return f"{place}.{key}" if key else place


def stem_of(name: str) -> tuple[str, int | None]:
    """A name without the total that its choices depend on, and that total: `heads_of_4` is `heads` and 4."""
    found = TOTAL.fullmatch(name)
    return (name, None) if found is None else (found[1], int(found[2]))


def nearest_choice(params: Mapping[str, Choice], name: str, choices: Sequence[Choice]) -> Choice:
    """The choice for `name` that comes nearest to what `params` hold; None where they say nothing of it.

    Where the space asks with another total, as for heads after the width has changed, a count of heads stands for its
    share of them.
    """
    if name in params and params[name] in choices:
        return params[name]
    stem, total = stem_of(name)
    for other, value in params.items():
        other_stem, other_total = stem_of(other)
        if other_stem == stem and isinstance(value, int) and all(isinstance(choice, int) for choice in choices):
            scaled = value * total / other_total if total and other_total and stem.endswith("heads") else value
            return min(choices, key=lambda choice: abs(log1p(int(str(choice))) - log1p(scaled)))
    return None
