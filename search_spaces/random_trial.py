"""A trial that draws every choice from a seed: random points of a space without a study."""

import random
from collections.abc import Sequence

from search_spaces.picks import Choice


class RandomTrial:
    """Draws uniformly among the choices of each name; the same seed gives the same point."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.params: dict[str, Choice] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Choice:
        self.params[name] = self._random.choice(list(choices))
        return self.params[name]
