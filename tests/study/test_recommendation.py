"""The choice of one design: by bars, then by one number, with how sure it is and what would change it."""

import pytest

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2
from nas.measurement import Measurement
from nas.objectives import find_objective, parse_requirements
from nas.study.recommendation import NoRecommendation, likeness, recommend
from nas.study.rows import NoiseFloor, Row

LOSS = find_objective("text_loss")
FLOOR = NoiseFloor(name="text_loss", unit="bits/byte", values=(2.97, 3.0, 3.03), sd=0.03, design_sd=None)


def network(mixers: str) -> Architecture:
    parts = {"a": Attention(num_heads=2, head_dim=16), "m": Mamba2(num_heads=2, head_dim=16)}
    blocks = tuple(Block(mixer=parts[mixer], ffn=Glu(d_ff=64)) for mixer in mixers)
    return Architecture(name=mixers, d_model=32, vocab_size=64, blocks=blocks)


def row(number: int, loss: float, recall: float, ms: float, mixers: str = "aaaa", origin: str = "sampled") -> Row:
    units = {"text_loss": ("bits/byte", loss), "recall": ("share", recall), "decode_latency_ms": ("ms", ms)}
    values = {
        name: Measurement(value=v, unit=unit, low=v - 0.01, high=v + 0.01, n=3) for name, (unit, v) in units.items()
    }
    return Row(
        number=number,
        id=str(number),
        state="complete",
        reason=None,
        origin=origin,
        architecture=network(mixers),
        deployed=None,
        values=values,
    )


REFERENCE = row(0, 3.0, 1.0, 40.0, "aaaa", "reference: all-attention")
ROWS = [
    REFERENCE,
    row(1, 2.5, 0.5, 10.0, "mmmm"),
    row(2, 2.7, 0.92, 20.0, "mmma"),
    row(3, 2.8, 0.99, 30.0, "maaa"),
]


def choose(rows=ROWS, **bars: float):
    return recommend(rows, LOSS, parse_requirements(bars), REFERENCE, {"text_loss": FLOOR})


def test_the_best_among_those_that_meet_the_bars_is_recommended_and_the_next_is_named() -> None:
    found = choose(recall=0.9)
    assert found.second is not None and (found.best.number, found.second.number) == (2, 3)
    assert choose().best.number == 1


def test_a_difference_is_told_in_its_standard_errors_and_small_ones_are_not_sure() -> None:
    found = choose(recall=0.9)
    assert found.errors == pytest.approx(0.1 / (0.03 * 2**0.5)) and found.is_sure
    close = choose([*ROWS, row(4, 2.71, 0.95, 25.0)], recall=0.9)
    assert close.second is not None and close.second.number == 4 and not close.is_sure
    assert choose([REFERENCE]).errors is None


def test_a_tighter_bar_names_the_design_that_would_be_best_then() -> None:
    (change,) = choose(recall=0.9).tighter
    assert (change.row.number, change.bound) == (3, pytest.approx(0.99))


def test_a_looser_bar_names_the_nearest_that_lets_a_better_design_in() -> None:
    rows = [*ROWS, row(4, 2.6, 0.8, 15.0)]
    (change,) = choose(rows, recall=0.9).looser
    assert (change.row.number, change.bound) == (4, pytest.approx(0.8)), "0.8 is nearer than 0.5"
    assert choose(rows).looser == ()


def test_a_row_that_another_bar_keeps_out_is_not_let_in_by_loosening_this_one() -> None:
    found = choose(recall=0.9, decode_latency_ms=25.0)
    assert found.best.number == 2 and found.tighter == ()
    assert [(c.requirement.name, c.row.number) for c in found.looser] == [("recall", 1)]


def test_when_none_meets_the_bars_the_sentence_says_which_bar_excludes_how_many_and_the_nearest_miss() -> None:
    with pytest.raises(NoRecommendation) as caught:
        choose(recall=1.1, decode_latency_ms=35.0)
    said = str(caught.value)
    assert "recall at least 1.1 of what all-attention reaches excludes 4" in said
    assert "decode_latency_ms at most 35 ms excludes 1" in said
    assert "trial 3 comes nearest" in said


def test_the_nearest_reference_is_the_one_with_most_layers_alike() -> None:
    hybrid = row(5, 9.0, 1.0, 9.0, "mm", "reference: ssm")
    found = choose([*ROWS, hybrid], recall=0.9)
    assert found.nearest is not None and (found.nearest.number, found.nearness) == (5, pytest.approx(7 / 8))
    assert likeness(network("ma"), network("mmaa")) == 1.0


def test_how_probable_the_choice_is_counts_the_noise_of_the_bar_too() -> None:
    sure = choose([REFERENCE, row(2, 2.0, 1.5, 20.0), row(3, 2.9, 1.6, 30.0)], recall=0.9)
    assert sure.meets > 0.99 and sure.wins > 0.99 and sure.second_wins < 0.01
    # recall's error is 0.01 for each, so of the difference to nine tenths of the reference 0.0135
    edge = choose([REFERENCE, row(2, 2.0, 0.9, 20.0), row(3, 2.9, 1.6, 30.0)], recall=0.9)
    assert edge.meets == pytest.approx(0.5, abs=0.05)
    assert edge.wins == pytest.approx(edge.meets, abs=0.05) and edge.second_wins == pytest.approx(0.5, abs=0.06)
    even = choose([REFERENCE, row(2, 2.7, 1.5, 20.0), row(3, 2.7, 1.6, 30.0)])
    assert even.meets == 1.0 and even.wins == pytest.approx(0.5, abs=0.05)


def test_a_reference_that_cannot_be_deployed_sets_the_bar_and_wins_nothing() -> None:
    found = choose([row(2, 2.7, 1.5, 20.0), row(3, 2.8, 1.6, 30.0)], recall=0.9)
    assert found.meets > 0.99 and found.wins + found.second_wins == pytest.approx(1.0)
