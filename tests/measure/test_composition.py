"""What whole networks take beyond the sum of their blocks."""

from dataclasses import replace

import pytest

from nas.architecture import Block
from nas.measure.composition import NOTHING_LEARNED, Whole, changes_of, composition_of
from nas.measure.prediction import added
from nas.measurement import Measurement
from nas.workload import Decode, Phase, Prefill
from tests.measure.examples import ATTENTION, GLU, MAMBA2, ms, network

NEAR, FAR = Decode(batch=1, context=64), Decode(batch=1, context=4096)


def whole(took: float, phase: Phase = NEAR, *, changes: int = 0, dtype: str = "float32") -> Whole:
    """A network whose blocks take 10 ms."""
    own = Measurement.exact(took, "ms")
    return Whole(network="a", phase=phase, dtype=dtype, changes=changes, sum_ms=10.0, own=own, environment={})


def test_changes_are_those_of_the_mixer_from_one_block_to_the_next() -> None:
    a, b, none = Block(mixer=ATTENTION), Block(mixer=MAMBA2, ffn=GLU), Block(ffn=GLU)
    assert changes_of(network(a, a, a)) == 0
    assert changes_of(network(a, b, b, a, none)) == 3
    assert changes_of(network(a, Block(mixer=ATTENTION, ffn=GLU))) == 0


def test_what_is_lost_at_a_change_is_the_median_over_networks_that_have_some() -> None:
    learned = composition_of(
        [whole(11.0, changes=1), whole(14.0, changes=2), whole(19.0, changes=3), whole(99.0)], NEAR, "float32"
    )
    assert (learned.factor, learned.change_ms, learned.networks) == (1.0, 2.0, 3)
    assert (learned.beyond(0), learned.beyond(5)) == (0.0, 10.0)


def test_uniform_networks_do_not_hide_what_mixed_ones_lose() -> None:
    """Most of those that a search begins with are reference designs of one or two kinds."""
    uniform, mixed = [whole(10.0)] * 6, [whole(11.0, changes=10)] * 3
    assert composition_of([*uniform, *mixed], NEAR, "float32").beyond(10) == pytest.approx(1.0)


def test_without_changes_the_factor_is_the_median_ratio() -> None:
    learned = composition_of([whole(took) for took in (11.0, 12.0, 30.0)], NEAR, "float32")
    assert (learned.factor, learned.change_ms, learned.networks) == (1.2, 0.0, 3)


def test_the_very_phase_goes_before_the_same_kind_at_another_size() -> None:
    wholes = [whole(11.0, changes=1), whole(12.0, FAR, changes=1), whole(90.0, Prefill(batch=1, prompt=64))]
    assert composition_of(wholes, NEAR, "float32").change_ms == 1.0
    elsewhere = composition_of(wholes[1:], NEAR, "float32")
    assert (elsewhere.factor, elsewhere.change_ms) == (1.2, 0.0), "milliseconds do not carry over to another size"


def test_nothing_is_learned_of_another_type_or_phase() -> None:
    wholes = [whole(11.0, dtype="bfloat16"), whole(12.0, Prefill(batch=1, prompt=64))]
    assert composition_of(wholes, NEAR, "float32") == NOTHING_LEARNED == composition_of([], NEAR, "float32")


def test_a_prediction_is_the_sum_as_composed_and_says_so() -> None:
    times = [(ms(10.0, 1.0), 2)]
    lost = composition_of([whole(11.0, changes=2)], NEAR, "float32")
    predicted = added(times, lost, 4)
    assert (predicted.low, predicted.value, predicted.high) == (20.0, 22.0, 24.0)
    assert predicted.notes[1] == "+2 ms at changes of the mixer (4), learned from whole networks (1)"
    by_factor = added(times, composition_of([whole(12.0)], NEAR, "float32"), 4)
    assert (by_factor.value, by_factor.notes[1]) == (24.0, "times 1.200, learned from whole networks (1)")
    assert added(times, NOTHING_LEARNED, 4).value == 20.0


def test_a_network_comes_back_as_it_was_written() -> None:
    one = whole(11.0, changes=3)
    assert Whole.from_dict(one.to_dict(0), {"torch": "2"}) == replace(one, environment={"torch": "2"})
