"""Which trials have children: by requirements, then by how far they were trained, then by fronts and crowding."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.study.samplers.parents import select
from nas.study.trials import ROW

DISTRIBUTION = optuna.distributions.CategoricalDistribution(("a", "b"))
DOWN = ("MINIMIZE", "MINIMIZE")


def trial(values: Sequence[float], violation: float = 0.0, identity: str = "") -> FrozenTrial:
    return optuna.trial.create_trial(
        params={"pattern.0": "a"},
        distributions={"pattern.0": DISTRIBUTION},
        values=list(values),
        user_attrs={ROW: {"id": identity, "state": "complete"}} if identity else {},
        constraints={"bar": violation},
    )


def stopped(identity: str, rung: int, loss: float, cost: float) -> FrozenTrial:
    row: dict[str, Any] = {
        "id": identity,
        "state": "stopped",
        "rung": rung,
        "values": {"cost": {"value": cost}},
        "rungs": [{"share": 0.1 * (r + 1), "scores": {"loss": {"value": loss + rung - r}}} for r in range(rung + 1)],
    }
    return optuna.trial.create_trial(
        state=TrialState.PRUNED,
        params={"pattern.0": "a"},
        distributions={"pattern.0": DISTRIBUTION},
        user_attrs={ROW: row},
    )


def chosen(trials: Sequence[FrozenTrial], size: int, directions: Sequence[str] = DOWN) -> list[FrozenTrial]:
    return select(trials, size, directions, ("loss", "cost"))


def test_parents_are_chosen_by_requirements_then_fronts_then_crowding() -> None:
    front = [trial([0.0, 4.0]), trial([1.0, 3.0]), trial([1.1, 2.9]), trial([4.0, 0.0])]
    behind = trial([5.0, 5.0])
    near, far = trial([-9.0, -9.0], 0.1), trial([-9.0, -9.0], 2.0)
    order = chosen([far, behind, *front, near], 7)
    values = [t.values for t in order]
    assert {tuple(v) for v in values[:2]} == {(0.0, 4.0), (4.0, 0.0)}, "the ends of a front come first"
    assert values[4] == [5.0, 5.0] and order[5:] == [near, far]
    assert chosen([behind, front[0]], 1, ["MAXIMIZE", "MAXIMIZE"]) == [behind]


def test_trials_stopped_at_a_rung_are_parents_after_the_finished_ones_the_furthest_first() -> None:
    finished, missing = trial([9.0, 9.0], identity="done"), trial([0.0, 0.0], 0.5, identity="missing")
    early, late, worse = stopped("early", 0, 0.1, 0.1), stopped("late", 1, 2.0, 2.0), stopped("worse", 1, 3.0, 3.0)
    assert chosen([missing, early, worse, late, finished], 9) == [finished, late, worse, early, missing]


def test_of_several_stays_on_the_rungs_the_longest_counts() -> None:
    first, second, finished = stopped("x", 0, 1.0, 1.0), stopped("x", 1, 1.0, 1.0), trial([1.0, 1.0], identity="x")
    assert chosen([first, second], 9) == [second]
    assert chosen([first, second, finished], 9) == [finished]


def test_a_trial_without_parameters_has_no_children() -> None:
    assert chosen([optuna.trial.create_trial(values=[0.0, 0.0])], 9) == []
