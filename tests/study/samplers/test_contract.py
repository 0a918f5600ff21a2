"""What holds for every sampler: points of the space, each once, the same for a seed, on and on."""

from functools import cache
from typing import Any

import optuna
import pytest

from nas.architecture import Architecture, Attention, canonical_id
from nas.study.samplers import NAMES, Prior, Screened, exhaustive, make_sampler, startup_trials
from nas.study.samplers.exhaustive import Exhaustive, leaves
from scripts.settings import SearchSettings
from search_spaces import SearchSpace
from tests.study.samplers.studies import make_study, sampled

SPACES = {
    "hybrid": ("search_space.num_layers=[2,3]",),
    "pattern": ("search_space.num_layers=[4]", "search_space.period=[1,2]"),
    "head_mix": ("search_space.num_layers=[2]",),
}
TRIALS = 24
FIRST_LATER = 16
PLAIN = ("search_space.kv_from=own", "search_space.attention_weights=own", "search_space.num_meta_tokens=0")
SMALL = (
    *("search_space.num_layers=[1,2]", "search_space.d_model=64", "search_space.mixers=[attention,mamba2,head_mix]"),
    *("search_space.ffns=[glu,moe]", "search_space.num_experts=4", "search_space.top_k=1", "search_space.num_shared=0"),
    *("search_space.position=rope", "search_space.num_kv_heads=full", *PLAIN),
)


def space_of(name: str, *overrides: str) -> SearchSpace:
    return SearchSettings.from_overrides([f"search_space={name}", *(overrides or SPACES[name])]).space


def sampler(name: str, space: Any, *, seed: int = 0, sampled: int = 0) -> optuna.samplers.BaseSampler:
    return make_sampler({"name": name}, seed=seed, trials=TRIALS, already_sampled=sampled, space=space, prior=Prior())


@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_proposes_points_of_the_space_each_once(name: str, space_name: str) -> None:
    space = space_of(space_name)
    found = sampled(sampler(name, space), space, TRIALS)
    assert len({canonical_id(a) for a in found}) == TRIALS
    for architecture in found:
        params = space.encode(architecture)
        assert params is not None and canonical_id(space.at(params)) == canonical_id(architecture)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_proposes_the_same_for_a_seed_and_other_points_for_another(name: str) -> None:
    space = space_of("hybrid")
    trials = startup_trials(TRIALS) + 4 if name == "gp" else TRIALS  # the first of its own, which are slow
    first, again, other = (sampled(sampler(name, space, seed=seed), space, trials) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_goes_on_with_new_points_when_a_study_is_taken_up_again(name: str) -> None:
    space = space_of("hybrid")
    study = make_study(sampler(name, space))
    found = sampled(sampler(name, space), space, 14, study)
    found += sampled(sampler(name, space, sampled=14), space, 10, study)
    assert len({canonical_id(a) for a in found}) == 24


@pytest.mark.parametrize("name", NAMES)
def test_no_sampler_proposes_what_breaks_a_limit_by_counting(name: str) -> None:
    space = space_of("hybrid")
    proposes = sampler(name, space)
    assert isinstance(proposes, Screened | Exhaustive)
    proposes.guide(admits=lambda architecture: attention(architecture) == 0, constraints={})
    assert not any(map(attention, sampled(proposes, space, TRIALS)))


def attention(architecture: Architecture) -> int:
    return sum(isinstance(mixer, Attention) for mixer in architecture.mixers)


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "nsga3", "evolution"])
def test_samplers_that_know_constraints_propose_fewer_points_that_miss_them(name: str) -> None:
    mixers = "search_space.mixers=[attention,mamba2,gated_deltanet]"
    space = space_of("hybrid", "search_space.num_layers=4", mixers, *PLAIN)
    # The GP takes a tenth of a second for each proposal, and more the more it knows.
    seeds, trials = (1, 36) if name == "gp" else (3, 60)
    assert missing(name, space, seeds, trials) < 0.7 * missing("random", space, seeds, trials)


@cache  # the same random proposals stand beside several samplers
def missing(name: str, space: SearchSpace, seeds: int, trials: int) -> int:
    """How many later proposals for each seed have more than one attention layer, which the objective rewards."""
    found = 0
    for seed in range(seeds):
        proposes = sampler(name, space, seed=seed)
        study = make_study(proposes)
        constraints: dict[int, dict[str, float]] = {}
        for number in range(trials):
            assert isinstance(proposes, Screened)
            proposes.guide(admits=lambda _: True, constraints=constraints)
            trial = study.ask()
            layers = attention(space(trial))
            constraints[number] = {"attention": float(layers - 1)}
            found += number >= FIRST_LATER and layers > 1
            study.tell(trial, -float(layers))
    return found


# The GP's search of a study that has converged divides by a sum of zeros, which Optuna answers by searching less.
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
def test_requirements_may_change_between_two_runs() -> None:
    space = space_of("hybrid")
    for name in ("gp", "nsga2", "tpe"):
        study = make_study(sampler(name, space), 2)
        for number in range(16):
            study.sampler = proposes = sampler(name, space, sampled=number)
            assert isinstance(proposes, Screened)
            bars = {} if number < 10 else {"recall": 0.5}
            proposes.guide(admits=lambda _: True, constraints=dict.fromkeys(range(number), bars))
            trial = study.ask()
            space(trial)
            study.tell(trial, [float(number % 3), float(number % 5)])
        assert len(study.trials) == 16


def test_brute_force_enumerates_every_architecture_of_a_conditional_space_and_says_when_it_ends() -> None:
    space = space_of("hybrid", *SMALL)
    names = {identity for identity, _, _ in leaves(space, 0)}
    # A layer is attention, Mamba-2 with one of two states, or both with one of two states; its FFN one of two.
    assert len(names) == 10 + 10**2
    every = sampler("brute_force", space)
    study = make_study(every)
    found = []
    assert isinstance(every, Exhaustive)
    while not every.exhausted:
        found += sampled(every, space, 1, study)
        if len(found) == 50:  # another run goes on
            every = sampler("brute_force", space, sampled=50)
            assert isinstance(every, Exhaustive)
    assert len(found) == len(names) and {canonical_id(a) for a in found} == names


def test_brute_force_passes_over_what_breaks_a_limit_to_the_end_of_the_space_but_not_for_ever(monkeypatch) -> None:
    space = space_of("hybrid", *SMALL)
    every = sampler("brute_force", space)
    assert isinstance(every, Exhaustive)
    every.guide(admits=lambda architecture: attention(architecture) == 0, constraints={})
    study, found = make_study(every), []
    while not every.exhausted:
        found += sampled(every, space, 1, study)
    assert len(found) == 4 + 4**2, "layers of Mamba-2 alone"
    monkeypatch.setattr(exhaustive, "MOST_REFUSED", 5)
    every = sampler("brute_force", space)
    assert isinstance(every, Exhaustive)
    every.guide(admits=lambda _: False, constraints={})
    assert len(sampled(every, space, 3)) == 3 and not every.exhausted, "the loop counts them and gives up"


def test_what_is_queued_is_neither_screened_nor_proposed_again() -> None:
    space = space_of("hybrid", *SMALL)
    (first, *_) = sampled(sampler("random", space), space, 1)
    params = space.encode(first)
    assert params is not None
    study = make_study(sampler("random", space))
    study.enqueue_trial(params)
    study.enqueue_trial(params)
    found = sampled(sampler("random", space), space, 10, study)
    assert found[0] == found[1] == first
    assert len({canonical_id(a) for a in found}) == 9


def test_a_space_of_which_all_is_known_is_proposed_again_in_the_end() -> None:
    space = space_of("hybrid", *SMALL, "search_space.num_layers=1")
    found = sampled(sampler("random", space), space, 12)
    assert len({canonical_id(a) for a in found}) == 10
