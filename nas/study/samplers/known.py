"""What a study has already proposed: architectures that a sampler need not propose again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from nas.architecture import Architecture, canonical_id, from_dict
from nas.study.samplers.genome import Choice
from nas.study.trials import ARCHITECTURE

Space = Callable[[Any], Architecture]
ENQUEUED = "fixed_params"  # Optuna's name for the parameters that a queued trial will take


class Completed:
    """A trial of which some choices are known; the others are drawn. Keeps what was asked, in order."""

    def __init__(self, wanted: Mapping[str, Choice], draw: Callable[[str, CategoricalDistribution], Any]) -> None:
        self.wanted = wanted
        self.draw = draw
        self.params: dict[str, Choice] = {}
        self.choices: dict[str, tuple[Choice, ...]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        kept = name in self.wanted and self.wanted[name] in choices
        value = self.wanted[name] if kept else self.draw(name, CategoricalDistribution(tuple(choices)))
        self.params[name], self.choices[name] = value, tuple(choices)
        return value


class Known:
    """The canonical ids of all that a study has sampled, runs or has queued; each trial is read once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._ids: dict[int, str] = {}

    def ids(self, trials: Sequence[FrozenTrial], *, but: int) -> set[str]:
        """Those of all trials but the one of that number, which is about to be sampled."""
        found = (self._id_of(trial) for trial in trials if trial.number != but)
        return {identity for identity in found if identity is not None}

    def _id_of(self, trial: FrozenTrial) -> str | None:
        if trial.number not in self._ids:
            if ARCHITECTURE in trial.user_attrs:
                self._ids[trial.number] = canonical_id(from_dict(trial.user_attrs[ARCHITECTURE]))
            elif queued := trial.system_attrs.get(ENQUEUED):
                self._ids[trial.number] = canonical_id(self.space(Completed(queued, lambda _, d: d.choices[0])))
            else:
                return None
        return self._ids[trial.number]
