"""Every searched choice reaches the deployed network: what is measured is what was chosen."""

import random
from typing import Any

import pytest
from optuna.trial import FixedTrial

from nas.architecture import canonical_id
from nas.count import CannotMatch, count_parameters, deployed, match_parameters
from scripts.settings import SearchSettings
from search_spaces import SPACES

SETTINGS = {name: SearchSettings.from_overrides([f"search_space={name}"]) for name in SPACES}
LAYOUTS = [("hybrid", "free"), ("hybrid", "tiled"), ("hybrid", "staged"), ("pattern", None), ("head_mix", None)]


class RandomTrial:
    """Draws every choice from a seed, except those that are given; remembers choices and what they were among."""

    def __init__(self, seed: int, given: dict[str, Any] | None = None) -> None:
        self.random = random.Random(seed)
        self.given = given or {}
        self.params: dict[str, Any] = {}
        self.choices: dict[str, list[Any]] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.choices[name] = list(choices)
        drawn = self.random.choice(list(choices))
        self.params[name] = self.given.get(name, drawn)
        return self.params[name]


def deployed_id(settings: SearchSettings, trial: Any) -> str:
    proxy = match_parameters(settings.space(trial), settings.space.params, tolerance=1.0)
    return canonical_id(deployed(proxy, settings.deployment))


@pytest.mark.parametrize(("space", "layout"), LAYOUTS)
def test_changing_any_searched_choice_changes_the_deployed_architecture(space, layout):
    overrides = [f"search_space={space}", "search_space.params=2000000", "measure.parameters=60000000"]
    settings = SearchSettings.from_overrides(overrides + ([f"search_space.layout={layout}"] if layout else []))
    changed: set[str] = set()
    for seed in range(12):
        trial = RandomTrial(seed)
        try:
            before = deployed_id(settings, trial)
        except CannotMatch:
            continue
        for name, choices in trial.choices.items():
            kind = name.rsplit(".", 1)[-1]
            if kind.startswith("period") or kind in changed or len(choices) < 2:
                continue
            other = next(c for c in choices if c != trial.params[name])
            try:
                after = deployed_id(settings, RandomTrial(seed, {**trial.params, name: other}))
            except CannotMatch:
                continue
            assert after != before, f"{name}: {trial.params[name]} -> {other} is lost at the deployment"
            changed.add(kind)
    assert {"num_layers", "d_model"} & changed or space != "hybrid"
    assert len(changed) >= 5


@pytest.mark.parametrize("design", [d.name for d in SETTINGS["hybrid"].designs])
def test_reference_designs_are_matched_at_the_proxy_and_at_the_deployment(design):
    settings = SETTINGS["hybrid"]
    params = dict(settings.space.references(settings.designs))[design]
    proxy = match_parameters(settings.space(FixedTrial(params)), settings.space.params)
    large = deployed(proxy, settings.deployment)
    assert count_parameters(proxy) == pytest.approx(settings.space.params, rel=0.03)
    assert count_parameters(large) == pytest.approx(settings.deployment.parameters, rel=0.03)
