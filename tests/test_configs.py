"""Every file in conf/ composes, and every composed search is accepted by what reads it."""

from pathlib import Path

import pytest

from nas.architecture import read_architecture
from scripts.settings import SearchSettings
from search_spaces import SPACES

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = ("search_space", "task", "objectives", "sampler", "budget", "measure", "tracker")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def settings(*overrides: str) -> SearchSettings:
    return SearchSettings.from_overrides(overrides)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda value: str(value))
def test_every_choice_of_every_group_is_a_search(group, choice):
    overrides = [f"{group}={choice}"]
    if group == "task" and choice != "text_recall":
        overrides.append("optimize=[decode_latency_ms,sequence_bytes]")
    built = settings(*overrides)
    assert built.trials >= 1


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("budget", sorted(path.stem for path in (CONF / "budget").glob("*.yaml")))
def test_every_space_goes_with_every_budget(space, budget):
    built = settings(f"search_space={space}", f"budget={budget}")
    assert built.study == f"{space}-{budget}"


def test_the_default_search_shows_all_five_reference_designs():
    built = settings()
    names = [name for name, _ in built.space.references(built.designs)]
    assert names == [design.name for design in built.designs]
    assert len(names) == 5


@pytest.mark.parametrize("path", sorted((CONF / "designs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_design_is_an_architecture_of_its_file_name(path):
    assert read_architecture(path).name == path.stem


def test_every_space_has_a_file_and_every_file_a_space():
    assert {path.stem for path in (CONF / "search_space").glob("*.yaml")} == set(SPACES)


def test_a_field_can_be_overridden_by_a_scalar_or_a_list():
    built = settings("search_space.num_layers=12", "search_space.mixers=[attention,mamba2]")
    assert built.space.num_layers == (12,)
    assert set(built.space.mixers) == {"attention", "mamba2"}  # type: ignore[attr-defined]
