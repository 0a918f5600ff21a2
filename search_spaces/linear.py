"""The space `linear`: one matrix recurrence whose parts are chosen freely, in a pattern with attention.

Most of its points are mixers that have no name; linear attention, RetNet, HGRN2, DeltaNet, KDA, DeltaProduct, Comba and
mLSTM are points too (`nas.architecture.presets`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from nas.architecture import ArchitectureError, MatrixRecurrence
from nas.architecture.matrix_recurrence import DECAY_FORMS
from search_spaces.base import SearchSpace
from search_spaces.fields import integers, letters, words
from search_spaces.kinds import KINDS, Kind
from search_spaces.picks import Choice
from search_spaces.recurrence import choose, describe

RECURRENCE = Kind(make=MatrixRecurrence, letter="r", options={}, choose=choose, describe=describe)
LINEAR_KINDS: Mapping[str, Kind] = {
    MatrixRecurrence.kind: RECURRENCE,
    **{name: KINDS[name] for name in ("attention", "sliding_window")},
}
LINEAR_LETTERS = {kind.letter: name for name, kind in LINEAR_KINDS.items()}


@dataclass(frozen=True, kw_only=True)
class LinearSpace(SearchSpace):
    """A letter per place in the pattern (`pattern.1`); the recurrence and all else are the same in all layers."""

    period: tuple[int, ...] = integers()
    alphabet: tuple[str, ...] = letters(list(LINEAR_LETTERS))
    decay: tuple[str, ...] = words(*DECAY_FORMS)
    decay_form: tuple[str, ...] = words(*dict.fromkeys(form for forms in DECAY_FORMS.values() for form in forms))
    erase: tuple[str, ...] = words("none", "delta", "scaled", "channel", "separate")
    write: tuple[str, ...] = words("plain", "scalar", "vector", "complement", "exponential")
    beta_max: tuple[int, ...] = integers()
    inner_steps: tuple[int, ...] = integers()
    feature_map: tuple[str, ...] = words("identity", "silu", "relu", "elu", "softmax", "taylor", "hedgehog")
    feature_dim: tuple[int, ...] = integers()
    normaliser: tuple[str, ...] = words("none", "sum", "max")
    conv_size: tuple[int, ...] = integers(minimum=0)
    key_position: tuple[str, ...] = words("rope", "none")
    gate: tuple[str, ...] = words("none", "silu", "sigmoid")
    gate_rank: tuple[str, ...] = words("full", "head_dim")
    output_norm: tuple[str, ...] = words("none", "head", "full", "layer")

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return LINEAR_KINDS

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {letter: LINEAR_LETTERS[letter] for letter in self.alphabet}

    @property
    def periods(self) -> tuple[int, ...]:
        return self.period

    def name_of(self, key: str, layer: int, num_layers: int, form: int) -> str:
        return f"pattern.{layer % form}" if key == "mixer" else key

    def check(self) -> None:
        super().check()
        if RECURRENCE.letter not in self.alphabet:
            raise ArchitectureError(f"alphabet of the space linear needs r, but got {''.join(self.alphabet)}.")
        for key_dim, feature_dim, features, position in product(
            self.key_dim, self.feature_dim, self.feature_map, self.key_position
        ):
            MatrixRecurrence(
                num_heads=1,
                head_dim=self.head_dim,
                key_dim=key_dim,
                feature_dim=feature_dim,
                feature_map=features,  # type: ignore[arg-type]
                position=position,  # type: ignore[arg-type]
                normaliser="max",
            )
