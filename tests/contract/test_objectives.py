"""Every objective: what it declares, where it reads, what a user's mistake is answered with."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nas.measurement import Measurement
from nas.objectives import (
    OBJECTIVES,
    STAGES,
    Limit,
    ObjectiveError,
    Requirement,
    find_objective,
    parse_limits,
    parse_objectives,
    parse_requirements,
    with_unit,
)

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class FakeCounts:
    parameters: int = 1000
    active_parameters: int = 600
    sequence_bytes: int = 4096
    flops_decode: int = 2000


@dataclass(frozen=True)
class FakeCandidate:
    counts: FakeCounts = FakeCounts()
    measurements: dict[str, Measurement] = field(default_factory=dict)
    scores: dict[str, Measurement] = field(default_factory=dict)


def ms(value: float) -> Measurement:
    return Measurement(value=value, unit="ms", low=value, high=value, n=9)


def score(value: float) -> Measurement:
    return Measurement(value=value, unit="share", low=value, high=value, n=100)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_declares_all_it_is(name: str) -> None:
    objective = OBJECTIVES[name]
    assert objective.name == name
    assert objective.unit
    assert objective.direction in ("minimize", "maximize")
    assert objective.stage in STAGES
    assert objective.help and "\n" not in objective.help


@pytest.mark.parametrize("name", [o.name for o in OBJECTIVES.values() if o.stage != "count"])
def test_objective_gives_the_measurement_of_its_stage_or_says_what_there_is(name: str) -> None:
    objective = OBJECTIVES[name]
    given = Measurement(value=3.0, unit=objective.unit, low=2.0, high=4.0, n=7)
    place = "scores" if objective.stage == "train" else "measurements"
    assert objective(FakeCandidate(**{place: {name: given}})) is given
    with pytest.raises(ObjectiveError, match=f"{name} is not among what .* give: other"):
        objective(FakeCandidate(**{place: {"other": given}}))


def test_counted_objectives_give_exact_numbers() -> None:
    known = {"parameters": 1000, "active_parameters": 600, "sequence_bytes": 4096, "flops_per_token": 2000}
    assert {o.name for o in OBJECTIVES.values() if o.stage == "count"} == set(known)
    for name, value in known.items():
        assert OBJECTIVES[name](FakeCandidate()) == Measurement.exact(value, OBJECTIVES[name].unit)


def test_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(ObjectiveError, match=r"no objective 'decode_latency'. Did you mean 'decode_latency_ms'\?"):
        find_objective("decode_latency")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "at least one objective"),
        ("text_loss", "must be a list"),
        (["recall", "recall"], "recall stands there twice"),
        ([3], "no objective 3"),
    ],
)
def test_optimize_that_is_no_list_of_objectives_is_refused(given, says: str) -> None:
    with pytest.raises(ObjectiveError, match=says):
        parse_objectives(given)


@pytest.mark.parametrize("bound", ["fast", "20", True, 0, -1, float("nan"), float("inf"), [20]])
@pytest.mark.parametrize("parse", [parse_requirements, parse_limits])
def test_bound_that_is_no_number_above_zero_is_refused(parse, bound) -> None:
    with pytest.raises(ObjectiveError, match=r"decode_latency_ms must be a number above zero in ms, or null, but got"):
        parse({"decode_latency_ms": bound})


def test_null_sets_no_bar() -> None:
    assert parse_requirements(None) == parse_limits(None) == ()
    assert parse_requirements({"recall": None}) == parse_limits({"parameters": None}) == ()


@pytest.mark.parametrize(
    ("name", "bound", "value", "reference", "holds"),
    [
        ("recall", 0.9, 0.72, 0.8, True),  # nine tenths of 0.8 is 0.72
        ("recall", 0.9, 0.71, 0.8, False),
        ("text_loss", 1.5, 3.0, 2.0, True),
        ("text_loss", 1.5, 3.1, 2.0, False),
        ("decode_latency_ms", 20, 20.0, None, True),
        ("decode_latency_ms", 20, 20.1, 1000.0, False),  # absolute: the reference does not matter
        ("recall", 0.9, float("nan"), 0.8, False),
    ],
)
def test_requirement_holds_exactly_where_it_says(name: str, bound, value, reference, holds: bool) -> None:
    (requirement,) = parse_requirements({name: bound})
    met = requirement.satisfied(score(value), None if reference is None else score(reference))
    assert met is holds


def test_violation_is_a_share_of_the_bar() -> None:
    (latency, recall) = parse_requirements({"decode_latency_ms": 20, "recall": 0.5})
    assert latency.violation(ms(22)) == pytest.approx(0.1)
    assert latency.violation(ms(10)) == pytest.approx(-0.5)
    assert recall.violation(score(0.3), score(0.8)) == pytest.approx(0.25)


def test_relative_requirement_without_reference_says_so() -> None:
    (requirement,) = parse_requirements({"recall": 0.9})
    with pytest.raises(ObjectiveError, match=r"share of what all-attention reaches, but that was not measured"):
        requirement.satisfied(score(0.9), None)


def test_requirement_reads_as_a_sentence() -> None:
    texts = [str(r) for r in parse_requirements({"recall": 0.9, "decode_latency_ms": 20})]
    assert texts == ["recall at least 0.9 of what all-attention reaches", "decode_latency_ms at most 20 ms"]


@pytest.mark.parametrize(
    ("name", "bound", "value", "reason"),
    [
        ("decode_latency_ms", 50, 50.0, None),
        ("decode_latency_ms", 50, 61.2, "decode_latency_ms 61.2 ms is over the limit of 50 ms"),
        ("parameters", 3e7, 31_234_567, "parameters 31,234,567 is over the limit of 30,000,000"),
        ("sequence_bytes", 1e6, 1_500_000, "sequence_bytes 1,500,000 bytes is over the limit of 1,000,000 bytes"),
        ("recall", 0.5, 0.6, None),
        ("recall", 0.5, 0.25, "recall 0.25 share is under the limit of 0.5 share"),
    ],
)
def test_limit_gives_its_reason(name: str, bound, value, reason: str | None) -> None:
    (limit,) = parse_limits({name: bound})
    assert limit.broken_by(Measurement.exact(value, OBJECTIVES[name].unit)) == reason


def test_a_limit_that_no_share_reaches_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"limits\.recall is a share, which nothing brings above 1, but got 2"):
        parse_limits({"recall": 2})
    assert parse_limits({"recall": 1.0})[0].bound == 1.0


def test_limit_breaks_on_nan() -> None:
    assert Limit(objective=OBJECTIVES["text_loss"], bound=3).broken_by(score(float("nan"))) is not None


def test_numbers_are_shown_with_their_unit() -> None:
    assert with_unit(61.23456, "ms") == "61.23 ms"
    assert with_unit(123456.7, "FLOPs") == "123,457 FLOPs"
    assert with_unit(5, "parameters", "parameters") == "5"


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "objectives").glob("*.yaml")))
def test_shipped_objectives_parse(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose(overrides=[f"+objectives={name}"]))
    assert isinstance(config, dict)
    assert set(config) == {"optimize", "require", "limits"}
    assert parse_objectives(config["optimize"])
    requirements = parse_requirements(config["require"])
    assert all(isinstance(r, Requirement) for r in requirements)
    assert parse_limits(config["limits"]) == ()
    assert set(config["require"]) == set(config["limits"]) == set(OBJECTIVES)
