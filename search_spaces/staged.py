"""The space `staged`: early, middle and late layers, each a block that is repeated, in shares that are chosen.

The form of Nemotron-Flash (arXiv 2511.18890), between a pattern for the whole depth and a choice for every layer: where
attention stays, and how much of it, differs between stages, and a stage is as regular as a pattern.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from nas.architecture.resize import apportion
from search_spaces.any_mixer import AnyMixerSpace
from search_spaces.fields import integers, proportions
from search_spaces.layer import sizes
from search_spaces.picks import Choice, Pick

STAGES = ("early", "middle", "late")


@dataclass(frozen=True)
class Stage:
    """Layers from `start` on that repeat a block of `period` layers."""

    name: str
    start: int
    period: int


@dataclass(frozen=True, kw_only=True)
class StagedSpace(AnyMixerSpace):
    """A mixer and an FFN for each place of the block of a stage (`stages.early.1.window`); the share of depth that each
    stage has (`split`), and how many layers its block has (`stages.early.period`)."""

    split: tuple[str, ...] = proportions(len(STAGES))
    period: tuple[int, ...] = integers()

    def name_of(self, key: str, layer: int, num_layers: int, form: tuple[Stage, ...]) -> str:
        stage = next(stage for stage in reversed(form) if stage.start <= layer)
        return f"stages.{stage.name}.{(layer - stage.start) % stage.period}.{key}"

    def form(self, pick: Pick, num_layers: int) -> tuple[Stage, ...]:
        splits = self._splits(num_layers)
        always = all(self._splits(number).keys() == splits.keys() for number in self.num_layers)
        lengths = pick("split", splits, total=None if always else num_layers)
        found: list[Stage] = []
        start = 0
        for name, length in zip(STAGES, lengths, strict=True):
            if length:
                periods = self._periods_of(length)
                total = None if periods == self.period else length
                found.append(Stage(name, start, pick(f"stages.{name}.period", sizes(periods), total=total)))
            start += length
        return tuple(found)

    def forms(self, num_layers: int) -> Iterable[dict[str, object]]:
        found: list[tuple[int, dict[str, object]]] = []
        for lengths in self._splits(num_layers).values():
            for periods in product(*map(self._periods_of, lengths)):
                names = {f"stages.{name}.period": period for name, period in zip(STAGES, periods, strict=True)}
                found.append((sum(periods), {"split": lengths, **names}))
        return [wanted for _, wanted in sorted(found, key=lambda form: form[0])]

    def _splits(self, num_layers: int) -> dict[Choice, tuple[int, ...]]:
        """Layers in each stage; the first of the splits that come to the same."""
        found: dict[tuple[int, ...], str] = {}
        for split in self.split:
            found.setdefault(lengths_of(split, num_layers), split)
        return {split: lengths for lengths, split in found.items()}

    def _periods_of(self, length: int) -> tuple[int, ...]:
        """Blocks that fit into a stage: longer ones would be the same architecture again."""
        return tuple(period for period in self.period if period <= length) or (min(self.period),)


def lengths_of(split: str, num_layers: int) -> tuple[int, ...]:
    """Layers in each stage, as near to the proportions `1-2-1` as whole layers come, at least one each.

    Two layers are early and late, a single one is middle.
    """
    if num_layers < len(STAGES):
        return (1, 0, 1) if num_layers == 2 else (0, 1, 0)
    parts = [int(part) for part in split.split("-")]
    return tuple(apportion([num_layers * part / sum(parts) for part in parts]))
