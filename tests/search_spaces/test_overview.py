"""What is said of a space: its size, its questions and their conditions."""

from pathlib import Path

import pytest
import yaml

from search_spaces import build_space
from search_spaces.overview import MOST_COUNTED, questions, random_walks, size_of, template

ROOT = Path(__file__).resolve().parents[2]


def layered(layers):
    """So many layers, each with 3 + 2 choices."""

    def space(trial):
        for layer in range(layers):
            if trial.suggest_categorical(f"layers.{layer}.kind", ["a", "b", "c"]) == "a":
                trial.suggest_categorical(f"layers.{layer}.size", [1, 2, 3])

    return space


def test_a_small_space_is_counted():
    size = size_of(layered(3), random_walks(layered(3), 10))
    assert (size.points, size.relative_error) == (5**3, 0.0)


def test_the_size_of_a_large_space_is_estimated_within_its_error():
    assert 5**12 > MOST_COUNTED
    size = size_of(layered(12), random_walks(layered(12), 500))
    assert size.relative_error < 0.05
    assert size.points == pytest.approx(5**12, rel=max(4 * size.relative_error, 1e-6))


def test_depths_of_unlike_size_do_not_blur_the_estimate():
    def space(trial):
        layered(trial.suggest_categorical("num_layers", [2, 12]))(trial)

    size = size_of(space, random_walks(space, 500))
    assert size.points == pytest.approx(5**12 + 5**2, rel=max(4 * size.relative_error, 0.01))


def test_questions_of_places_stand_together_with_their_condition():
    found = {question.name: question for question in questions(random_walks(layered(3), 100))}
    assert list(found) == ["layers.*.kind", "layers.*.size"]
    assert found["layers.*.kind"].conditions == ()
    assert found["layers.*.size"].conditions == (("layers.*.kind", ("a",)),)
    assert (found["layers.*.size"].places, found["layers.*.size"].choices) == (3, (1, 2, 3))


def test_a_condition_on_kinds_reaches_into_their_groups_and_what_takes_more_is_said_to_depend():
    def space(trial):
        seen = []
        for layer in range(2):
            kind = trial.suggest_categorical(f"layers.{layer}.mixer", ["plain", "wide", "group"])
            if kind == "group":
                kind = trial.suggest_categorical(f"layers.{layer}.group", ["deep", "flat"])
            if kind in ("wide", "deep"):
                trial.suggest_categorical(f"layers.{layer}.size", [1, 2])
            if kind in seen:
                trial.suggest_categorical(f"layers.{layer}.again", [0, 1])
            seen.append(kind)

    found = {question.name: question for question in questions(random_walks(space, 200))}
    (condition,) = found["layers.*.size"].conditions
    assert condition[0] == "layers.*.mixer" and set(condition[1]) == {"wide", "deep"}
    assert found["layers.*.group"].conditions == (("layers.*.mixer", ("group",)),)
    assert found["layers.*.mixer"].always and not found["layers.*.again"].always
    assert found["layers.*.again"].conditions == ()


@pytest.mark.parametrize("name", ["hybrid", "pattern", "head_mix", "oracle", "attention", "moe", "staged"])
def test_every_choice_of_a_space_is_told_once(name):
    settings = yaml.safe_load((ROOT / f"conf/search_space/{name}.yaml").read_text())
    walks = random_walks(build_space(name, settings, vocab_size=256), 200)
    told = [question.name for question in questions(walks)]
    assert len(told) == len(set(told))
    assert set(told) == {template(name) for walk in walks for name in walk.params}
