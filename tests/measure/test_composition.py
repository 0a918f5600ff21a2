"""What whole networks take beyond the sum of their blocks."""

from nas.measure.composition import NOTHING_LEARNED, Whole, composition_of
from nas.measurement import Measurement
from nas.workload import Decode, Phase, Prefill

NEAR, FAR = Decode(batch=1, context=64), Decode(batch=1, context=4096)


def whole(took: float, phase: Phase = NEAR, dtype: str = "float32", network: str = "a") -> Whole:
    return Whole(
        network=network, phase=phase, dtype=dtype, sum_ms=10.0, own=Measurement.exact(took, "ms"), environment={}
    )


def test_the_factor_is_the_median_of_what_networks_took_over_the_sum_of_their_blocks() -> None:
    learned = composition_of([whole(took) for took in (11.0, 12.0, 30.0)], NEAR, "float32")
    assert (learned.factor, learned.networks) == (1.2, 3)


def test_the_very_phase_goes_before_the_same_kind_at_another_size() -> None:
    wholes = [whole(11.0), whole(12.0, FAR), whole(90.0, Prefill(batch=1, prompt=64))]
    assert composition_of(wholes, NEAR, "float32").factor == 1.1
    assert composition_of(wholes[1:], NEAR, "float32").factor == 1.2


def test_nothing_is_learned_of_another_type_or_phase() -> None:
    wholes = [whole(11.0, dtype="bfloat16"), whole(12.0, Prefill(batch=1, prompt=64))]
    assert composition_of(wholes, NEAR, "float32") == NOTHING_LEARNED == composition_of([], NEAR, "float32")


def test_a_network_comes_back_as_it_was_written() -> None:
    written = whole(11.0).to_dict(0)
    assert Whole.from_dict(written, {"torch": "2"}) == Whole(**{**vars(whole(11.0)), "environment": {"torch": "2"}})
