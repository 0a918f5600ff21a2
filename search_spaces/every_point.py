"""Every point of a space, each once: for spaces small enough to be evaluated exhaustively."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nas.architecture import Architecture
from search_spaces.picks import Choice


class _Replay:
    """Answers with the given choices, by index, then with first ones; keeps what was asked."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = list(indices)
        self.counts: list[int] = []
        self.params: dict[str, Choice] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        place = len(self.counts)
        if place == len(self.indices):
            self.indices.append(0)
        self.counts.append(len(choices))
        self.params[name] = choices[self.indices[place]]
        return self.params[name]


def every_point(space: Callable[[Any], Architecture]) -> Iterator[tuple[dict[str, Choice], Architecture]]:
    """Parameters and architecture of every point, in the order in which the space lists its choices."""
    indices: list[int] = []
    while True:
        trial = _Replay(indices)
        architecture = space(trial)
        yield trial.params, architecture
        # The next point: the last choice that has a successor moves on, and those behind it are asked anew.
        indices = trial.indices
        while indices and indices[-1] + 1 == trial.counts[len(indices) - 1]:
            indices.pop()
        if not indices:
            return
        indices[-1] += 1
