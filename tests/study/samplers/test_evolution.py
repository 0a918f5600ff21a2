"""Structured evolution proposes what is new, in the space, and better than random."""

import statistics
from typing import Any

import optuna
import pytest

from nas.architecture import canonical_id, to_dict
from nas.study.samplers import Prior, SamplerError, check_sampler, make_sampler
from nas.study.trials import ARCHITECTURE
from scripts.settings import SearchSettings
from tests.study.samplers.studies import make_study, searched

TRIALS = 60


def sampler(space: Any, name: str = "evolution", seed: int = 0, **fields: Any) -> optuna.samplers.BaseSampler:
    given = {"name": name, **fields}
    return make_sampler(given, seed=seed, trials=TRIALS, already_sampled=0, space=space, prior=Prior())


def test_evolution_finds_more_than_random_with_the_same_trials() -> None:
    space = SearchSettings.from_overrides([]).space
    found = {
        name: [searched(sampler(space, name, seed), space, TRIALS) for seed in range(12)]
        for name in ("evolution", "random")
    }
    volumes = {name: [volume for volume, _ in runs] for name, runs in found.items()}
    assert statistics.median(volumes["evolution"]) > 1.05 * statistics.median(volumes["random"]), volumes
    assert all(different == TRIALS for _, different in found["evolution"]), "nothing is tried twice"


def test_a_run_that_is_taken_up_again_goes_on_from_the_parents_of_the_study() -> None:
    space = SearchSettings.from_overrides([]).space
    study = make_study(sampler(space), 1)
    seen: list[str] = []

    def objective(trial: optuna.Trial) -> float:
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
