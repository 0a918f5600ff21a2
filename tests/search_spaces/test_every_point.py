"""Every point of a space, each once, conditional choices included."""

from pathlib import Path

import yaml

from nas.architecture import canonical_id
from search_spaces import build_space
from search_spaces.every_point import every_point

ROOT = Path(__file__).resolve().parents[2]


def conditional(trial):
    """Three points: a has a choice of its own, b has none."""
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return kind if kind == "b" else kind + str(trial.suggest_categorical("size", [1, 2]))


def test_points_come_in_the_order_of_their_choices_and_conditions_are_followed():
    assert list(every_point(conditional)) == [  # type: ignore[arg-type]
        ({"kind": "a", "size": 1}, "a1"),
        ({"kind": "a", "size": 2}, "a2"),
        ({"kind": "b"}, "b"),
    ]


def test_a_space_without_choices_has_one_point():
    assert list(every_point(lambda _: "only")) == [({}, "only")]  # type: ignore[arg-type, return-value]


def test_the_oracle_space_has_256_different_architectures_that_their_parameters_give_back():
    settings = yaml.safe_load((ROOT / "conf/search_space/oracle.yaml").read_text())
    space = build_space("oracle", settings, vocab_size=256)
    points = list(every_point(space))
    assert len(points) == len({canonical_id(architecture) for _, architecture in points}) == 256
    assert all(space.at(params) == architecture for params, architecture in points[::17])
