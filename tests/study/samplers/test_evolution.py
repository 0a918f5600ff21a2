"""Structured evolution proposes what is new, in the space, and better than random."""

import statistics
from typing import Any

import optuna
import pytest

from nas.architecture import canonical_id
from nas.study.samplers import Prior, SamplerError, check_sampler, make_sampler
from nas.study.samplers.evolution import select
from scripts.settings import SearchSettings
from tests.study.samplers.studies import make_study, sampled, searched

SPACES = ("hybrid", "pattern", "head_mix")
TRIALS = 60


def sampler(space: Any, name: str = "evolution", seed: int = 0, **fields: Any) -> optuna.samplers.BaseSampler:
    given = {"name": name, **fields}
    return make_sampler(given, seed=seed, trials=TRIALS, already_sampled=0, space=space, prior=Prior())


@pytest.mark.parametrize("name", SPACES)
def test_children_are_new_architectures_of_the_space(name: str) -> None:
    space = SearchSettings.from_overrides([f"search_space={name}"]).space
    found = sampled(sampler(space, immigrants=0.0), space, 40)
    parents = found[:8]
    children = found[16:]
    assert len({canonical_id(a) for a in children}) == len(children)
    assert not {canonical_id(a) for a in children} & {canonical_id(a) for a in parents}


def test_the_same_seed_proposes_the_same() -> None:
    space = SearchSettings.from_overrides([]).space
    first, second = (sampled(sampler(space, seed=3), space, 30) for _ in range(2))
    assert first == second


def test_evolution_finds_more_than_random_with_the_same_trials() -> None:
    space = SearchSettings.from_overrides([]).space
    found = {
        name: [searched(sampler(space, name, seed), space, TRIALS) for seed in range(6)]
        for name in ("evolution", "random")
    }
    volumes = {name: [volume for volume, _ in runs] for name, runs in found.items()}
    assert statistics.median(volumes["evolution"]) > 1.05 * statistics.median(volumes["random"]), volumes
    assert min(different for _, different in found["evolution"]) >= TRIALS - 2, "nothing is tried twice"


def trial(values: list[float], violation: float = 0.0) -> optuna.trial.FrozenTrial:
    distribution = optuna.distributions.CategoricalDistribution(("a", "b"))
    return optuna.trial.create_trial(
        params={"pattern.0": "a"},
        distributions={"pattern.0": distribution},
        values=values,
        system_attrs={"constraints:bar": violation},
    )


def test_parents_are_chosen_by_requirements_then_fronts_then_crowding() -> None:
    front = [trial([0.0, 4.0]), trial([1.0, 3.0]), trial([1.1, 2.9]), trial([4.0, 0.0])]
    behind = trial([5.0, 5.0])
    near, far = trial([-9.0, -9.0], 0.1), trial([-9.0, -9.0], 2.0)
    order = select([far, behind, *front, near], 7, ["MINIMIZE", "MINIMIZE"])
    values = [t.values for t in order]
    assert {tuple(v) for v in values[:2]} == {(0.0, 4.0), (4.0, 0.0)}, "the ends of a front come first"
    assert values[4] == [5.0, 5.0] and order[5:] == [near, far]
    assert select([behind, front[0]], 1, ["MAXIMIZE", "MAXIMIZE"]) == [behind]


def test_a_run_that_is_taken_up_again_goes_on_from_the_parents_of_the_study() -> None:
    space = SearchSettings.from_overrides([]).space
    study = make_study(sampler(space), 1)
    seen: list[str] = []

    def objective(trial: optuna.Trial) -> float:
        from nas.architecture import to_dict
        from nas.study.trials import ARCHITECTURE

        architecture = space(trial)
        trial.set_user_attr(ARCHITECTURE, to_dict(architecture))
        seen.append(canonical_id(architecture))
        return float(len(architecture.blocks))

    study.optimize(objective, n_trials=35)
    study.sampler = sampler(space, seed=99, immigrants=0.0)
    study.optimize(objective, n_trials=10)
    assert len(set(seen[35:]) - set(seen[:35])) == 10
    assert statistics.mean(t.values[0] for t in study.trials[35:]) < statistics.mean(
        t.values[0] for t in study.trials[:15]
    ), "children of the best have fewer layers than random samples"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "evolve"}, "There is no sampler 'evolve'. Did you mean 'evolution'"),
        ({"name": "evolution", "crosover": 0.1}, "has no field 'crosover'. Did you mean 'crossover'"),
        ({"name": "evolution", "population": 1}, "must be a whole number of at least 2, but got 1"),
        ({"name": "evolution", "immigrants": 1.5}, "must be a number from 0 to below 1, but got 1.5"),
        ({"name": "evolution", "moves": {"swop": 1}}, "There is no move 'swop'"),
        ({"name": "evolution", "moves": {"swap": 0}}, "must give some move a weight above 0"),
        ({"name": "tpe", "population": 5}, "The sampler tpe has no field 'population'"),
    ],
)
def test_a_sampler_that_cannot_be_is_one_sentence(config: dict, message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        check_sampler(config)
