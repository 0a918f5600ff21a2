"""What a search begins with besides its reference designs: earlier studies, and architectures in files."""

from collections.abc import Iterable, Sequence

import optuna

from nas.architecture import Architecture
from nas.objectives import Objective
from nas.study.beginning.bring_over import Encodes, are_comparable, bring_trained_over, standing
from nas.study.beginning.earlier import Earlier
from nas.study.front import front_of
from nas.study.storage.studies import close_study, load_study
from nas.study.trials import ORIGIN


def warm_start(
    study: optuna.Study,
    space: Encodes,
    objectives: Sequence[Objective],
    studies: Iterable[Earlier],
    designs: Iterable[Architecture],
) -> list[str]:
    """Bring over what is comparable, and queue what must be trained here; a sentence on each for the user.

    A study whose rows mean the same here gives its trained rows, which cost nothing. Of another the front is trained
    again, and so is every design from a file. One worker at a time may call this; called again, it adds nothing twice.
    Raises StudyError for a study that cannot be read.
    """
    said = []
    for earlier in studies:
        other = load_study(earlier.directory, earlier.name, storage=earlier.storage)
        try:
            if are_comparable(study, other):
                count = bring_trained_over(study, other, space)
                said.append(f"warm start: {count} trained designs of {earlier.directory} are known from the start")
            else:
                count = queue_front(study, other, space, objectives)
                said.append(
                    f"warm start: {count} designs on the front of {earlier.directory}, whose settings are others, are "
                    "trained here first"
                )
        finally:
            close_study(other)
    for design in designs:
        if queue(study, space, design, f"file: {design.name}"):
            said.append(f"warm start: {design.name} is trained first")
        else:
            said.append(f"warm start: {design.name} does not lie in this space, or is queued already")
    return said


def queue_front(study: optuna.Study, other: optuna.Study, space: Encodes, objectives: Sequence[Objective]) -> int:
    """Queue the members of another study's front, by those objectives that it knows."""
    rows = [row for row in standing(other) if row.state == "complete"]
    shared = [o for o in objectives if all(o.name in row.values for row in rows)]
    members = set(front_of(rows, shared)) if shared else set()
    chosen = [row for row in rows if row.number in members]
    return sum(queue(study, space, row.architecture, f"{other.study_name}: trial {row.number}") for row in chosen)


def queue(study: optuna.Study, space: Encodes, architecture: Architecture, origin: str) -> bool:
    """Queue an architecture, once in the life of a study; whether it was."""
    params = space.encode(architecture)
    known = {trial.user_attrs.get(ORIGIN) for trial in study.get_trials(deepcopy=False)}
    if params is None or origin in known:
        return False
    study.enqueue_trial(params, user_attrs={ORIGIN: origin})
    return True
