"""The report says of each rung, and of each family of mixers, how well it ranks what the end of training ranks."""

from dataclasses import replace

from nas.architecture import Attention, Mamba2
from nas.measurement import Measurement
from nas.objectives import parse_objectives
from nas.report.page import page
from nas.report.rungs import rung_lines
from nas.study.rows import Row, Rung
from nas.study.rung_ranks import family, rung_ranks
from tests.report.examples import OBJECTIVES, REQUIREMENTS, design, result
from tests.report.test_tables import summary

LOSS = parse_objectives(["text_loss"])
MAMBA, ATTENTION = Mamba2(num_heads=2, head_dim=16), Attention(num_heads=2, head_dim=16)


def on_rungs(row: Row, *losses: float) -> Row:
    shares = (0.25, 1.0)
    rungs = tuple(
        Rung(share=share, scores={"text_loss": Measurement.exact(loss, "bits/byte")})
        for share, loss in zip(shares, losses, strict=True)
    )
    return replace(row, rungs=rungs)


def rows_on_rungs() -> tuple[Row, ...]:
    base = next(row for row in result().rows if row.state == "complete")
    attention = replace(base, architecture=design([ATTENTION]))
    mamba = replace(base, architecture=design([MAMBA, MAMBA, ATTENTION]))
    return (
        on_rungs(replace(attention, number=0), 3.0, 2.0),
        on_rungs(replace(attention, number=1), 3.1, 2.1),
        on_rungs(replace(mamba, number=2), 4.0, 1.0),
        on_rungs(replace(mamba, number=3), 3.5, 1.5),
        replace(attention, number=4),
    )


def test_a_family_that_learns_late_is_ranked_wrong_where_the_others_are_ranked_right():
    right = {(rank.family, rank.share): (rank.n, rank.right) for rank in rung_ranks(rows_on_rungs())}
    assert right[("attention", 0.25)] == (2, 1.0)
    assert right[("mamba2", 0.25)] == (2, 0.0)
    assert right[("all", 0.25)] == (4, 1 / 6)
    assert ("all", 1.0) not in right


def test_the_family_is_that_of_most_mixers_attention_aside():
    assert family(design([ATTENTION, ATTENTION])) == "attention"
    assert family(design([ATTENTION, ATTENTION, MAMBA])) == "mamba2"


def test_summary_and_page_show_the_rungs_where_there_were_any():
    study = result(rows_on_rungs())
    heads, lines = rung_lines(study, LOSS)
    assert heads[-1] == "at 0.25 of the tokens"
    assert [line[-1] for line in lines] == ["17 %", "100 %", "0 %"]
    assert "share of pairs of designs ordered as at the end of training" in summary(study)
    assert "at 0.25 of the tokens" in page(study, OBJECTIVES, REQUIREMENTS)
    assert "ordered as at the end" not in summary(result()) + page(result(), OBJECTIVES, REQUIREMENTS)
