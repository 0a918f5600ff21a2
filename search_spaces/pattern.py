"""The space `pattern`: a short string of mixers, such as `mmma`, repeated over depth, with one size of everything.

The form in which most published hybrids are written (Jamba, Samba, Qwen3-Next), and the smallest space that holds them.
"""

from dataclasses import dataclass

from search_spaces.base import SearchSpace
from search_spaces.fields import integers, letters
from search_spaces.kinds import LETTERS
from search_spaces.picks import Choice


@dataclass(frozen=True, kw_only=True)
class PatternSpace(SearchSpace):
    """A letter per place in the pattern (`pattern.1`); window, state, KV share and FFN are the same in all layers."""

    period: tuple[int, ...] = integers()
    alphabet: tuple[str, ...] = letters(list(LETTERS))

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {letter: LETTERS[letter] for letter in self.alphabet}

    @property
    def periods(self) -> tuple[int, ...]:
        return self.period

    def name_of(self, key: str, layer: int, num_layers: int, form: int) -> str:
        return f"pattern.{layer % form}" if key == "mixer" else key
