"""What whole networks take beyond the sum of their blocks."""

from dataclasses import replace

import pytest

from nas.architecture import Block
from nas.measure.composition import NOTHING_LEARNED, Whole, composition_of, mixing_of
from nas.measure.prediction import added
from nas.measurement import Measurement
from nas.workload import Decode, Phase, Prefill
from tests.measure.examples import ATTENTION, GLU, MAMBA2, ms, network

NEAR, FAR = Decode(batch=1, context=64), Decode(batch=1, context=4096)


def whole(took: float, phase: Phase = NEAR, *, mixing: float = 0.0, dtype: str = "float32", blocks_ms=10.0) -> Whole:
    """A network whose blocks take 10 ms."""
    own = Measurement.exact(took, "ms")
    return Whole(network="a", phase=phase, dtype=dtype, mixing=mixing, sum_ms=blocks_ms, own=own, environment={})


def test_mixing_is_the_share_of_blocks_behind_one_of_another_mixer() -> None:
    a, b, none = Block(mixer=ATTENTION), Block(mixer=MAMBA2, ffn=GLU), Block(ffn=GLU)
    assert mixing_of(network(a, a, a)) == 0
    assert mixing_of(network(a, b, b, a, none)) == 3 / 5
    assert mixing_of(network(a, Block(mixer=ATTENTION, ffn=GLU))) == 0


def test_what_is_lost_at_a_change_is_the_median_over_networks_that_have_some() -> None:
    learned = composition_of(
        [whole(11.0, mixing=0.5), whole(14.0, mixing=1.0), whole(19.0, mixing=1.0), whole(99.0)], NEAR, "float32"
    )
    assert (learned.factor, learned.loss, learned.networks) == (1.0, pytest.approx(0.4), 3)
    assert (learned.times(0.0), learned.times(0.5)) == (1.0, pytest.approx(1.2))


def test_uniform_networks_do_not_hide_what_mixed_ones_lose() -> None:
    """Most of those that a search begins with are reference designs of one or two kinds."""
    uniform, mixed = [whole(10.0)] * 6, [whole(11.0, mixing=1.0)] * 3
    assert composition_of([*uniform, *mixed], NEAR, "float32").times(1.0) == pytest.approx(1.1)


def test_more_changes_than_were_measured_are_never_said_to_take_less_than_what_was() -> None:
    learned = composition_of([whole(4.0, mixing=0.5), whole(5.0, mixing=0.5)], NEAR, "float32")
    assert learned.times(0.0) == 1.0
    assert learned.times(0.5) == pytest.approx(0.45)
    assert learned.times(0.75) == learned.times(1.0) == 0.4, "and not 0.175 and nothing"


def test_what_was_learned_of_large_networks_holds_for_small_ones() -> None:
    learned = composition_of([whole(110.0, mixing=0.5, blocks_ms=100.0)], NEAR, "float32")
    assert added([(ms(5.0), 2)], learned, 0.5).value == pytest.approx(11.0)


def test_without_changes_the_factor_is_the_median_ratio() -> None:
    learned = composition_of([whole(took) for took in (11.0, 12.0, 30.0)], NEAR, "float32")
    assert (learned.factor, learned.loss, learned.networks) == (1.2, 0.0, 3)


def test_the_very_phase_goes_before_the_same_kind_at_another_size() -> None:
    wholes = [whole(11.0, mixing=1.0), whole(12.0, FAR, mixing=1.0), whole(90.0, Prefill(batch=1, prompt=64))]
    assert composition_of(wholes, NEAR, "float32").loss == pytest.approx(0.1)
    elsewhere = composition_of(wholes[1:], NEAR, "float32")
    assert (elsewhere.factor, elsewhere.loss) == (1.2, 0.0), (
        "what a change loses does not carry over to another context"
    )


def test_nothing_is_learned_of_another_type_or_phase() -> None:
    wholes = [whole(11.0, dtype="bfloat16"), whole(12.0, Prefill(batch=1, prompt=64))]
    assert composition_of(wholes, NEAR, "float32") == NOTHING_LEARNED == composition_of([], NEAR, "float32")


def test_a_prediction_is_the_sum_as_composed_and_says_so() -> None:
    times = [(ms(10.0, 1.0), 2)]
    lost = composition_of([whole(11.0, mixing=0.5)], NEAR, "float32")
    predicted = added(times, lost, 1.0)
    assert (predicted.low, predicted.value, predicted.high) == pytest.approx((24.0 - 2.4, 24.0, 24.0 + 2.4))
    assert predicted.notes[1] == "times 1.200, learned from whole networks (1)"
    by_factor = added(times, composition_of([whole(12.0)], NEAR, "float32"), 0.5)
    assert (by_factor.value, by_factor.notes[1]) == (24.0, "times 1.200, learned from whole networks (1)")
    assert added(times, NOTHING_LEARNED, 0.5).value == 20.0


def test_a_network_comes_back_as_it_was_written() -> None:
    one = whole(11.0, mixing=0.75)
    assert Whole.from_dict(one.to_dict(0), {"torch": "2"}) == replace(one, environment={"torch": "2"})
