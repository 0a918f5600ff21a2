from dataclasses import replace

import pytest

from nas.measurement import Measurement
from nas.objectives import parse_objectives
from nas.study.robust import robust_members, under
from nas.study.rows import Row
from tests.study.toys import ALL_ATTENTION, OBJECTIVES, space


def row(number: int, loss: float, own: float, best: float, roofline: float) -> Row:
    """A trained row with its text loss and its milliseconds under each cost model."""
    architecture = space(_Fixed())
    times = {"own": own, "best": best, "roofline": roofline}
    return Row(
        number=number,
        id=str(number),
        state="complete",
        reason=None,
        origin="sampled",
        architecture=architecture,
        deployed=architecture,
        values={
            "text_loss": Measurement.exact(loss, "bits/byte"),
            "decode_latency_ms": Measurement(value=own, unit="ms", low=own, high=own, n=16),
        },
        costs={model: {"decode_latency_ms": time} for model, time in times.items()},
    )


class _Fixed:
    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        return ALL_ATTENTION[name]


def rejected(number: int) -> Row:
    return replace(row(number, 1.0, 1.0, 1.0, 1.0), state="rejected", reason="too slow", costs={})


def test_a_member_that_leaves_the_front_under_one_cost_model_is_not_robust():
    rows = [
        row(0, 3.0, 1.0, 1.0, 1.0),
        row(1, 2.0, 2.0, 3.0, 2.0),  # beaten by 2 with the fastest kernels
        row(2, 1.9, 4.0, 2.5, 4.0),
        row(3, 1.5, 5.0, 5.0, 5.0),
        row(4, 1.6, 4.5, 4.5, 5.0),  # beaten by 3 under the roofline
    ]
    assert robust_members(rows, OBJECTIVES) == (3, 2, 0)


def test_a_design_that_others_kernels_alone_bring_onto_the_front_is_no_robust_member():
    rows = [row(0, 2.0, 1.0, 1.0, 1.0), row(1, 2.5, 2.0, 0.5, 0.5)]
    assert robust_members(rows, OBJECTIVES) == (0,)


@pytest.mark.parametrize("model", ["own", "best", "roofline"])
def test_nothing_is_said_where_a_trained_row_lacks_a_cost_model(model):
    whole = row(0, 2.0, 1.0, 1.0, 1.0)
    part = replace(whole, number=1, costs={name: times for name, times in whole.costs.items() if name != model})
    assert robust_members([whole, part], OBJECTIVES) is None
    assert robust_members([whole, rejected(2)], OBJECTIVES) == (0,)


def test_without_trained_rows_no_member_is_robust():
    assert robust_members([], OBJECTIVES) == robust_members([rejected(0)], OBJECTIVES) == ()


def test_without_a_timed_objective_every_member_is_robust():
    rows = [row(0, 2.0, 1.0, 9.0, 9.0), row(1, 2.5, 1.0, 1.0, 1.0)]
    assert robust_members(rows, parse_objectives(["text_loss"])) == (0,)


def test_under_a_cost_model_a_row_has_its_times_and_keeps_its_other_numbers():
    given = row(0, 2.0, 1.0, 0.5, 0.25)
    found = under(given, "roofline")
    assert found.values["decode_latency_ms"].value == 0.25
    assert found.values["text_loss"] == given.values["text_loss"]
    assert given.values["decode_latency_ms"].value == 1.0


def test_a_time_that_the_row_does_not_show_is_left_out():
    given = row(0, 2.0, 1.0, 0.5, 0.25)
    more = replace(given, costs={**given.costs, "best": {"prefill_latency_ms": 3.0, "decode_latency_ms": 0.5}})
    assert set(under(more, "best").values) == {"text_loss", "decode_latency_ms"}
