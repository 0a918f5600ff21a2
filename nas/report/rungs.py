"""How well each rung ranked what the end of training ranks, as a table for a terminal and for the page."""

from collections.abc import Sequence
from html import escape

from rich.box import SIMPLE
from rich.table import Table

from nas.objectives import Objective
from nas.report.numbers import words
from nas.study.rows import StudyResult
from nas.study.rung_ranks import EVERY, RungRank, rung_ranks

TITLE = "Rungs: share of pairs of designs ordered as at the end of training"
HEADS = ("designs whose mixers are mostly", "n", "score")


def rung_lines(result: StudyResult, shown: Sequence[Objective]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and lines, one for each family and shown score; no lines where nothing was trained to the end on rungs."""
    names = {objective.name for objective in shown}
    ranks = [rank for rank in rung_ranks(result.rows) if rank.score in names]
    shares = sorted({rank.share for rank in ranks})
    by_line: dict[tuple[str, str], dict[float, RungRank]] = {}
    for rank in ranks:
        by_line.setdefault((rank.family, rank.score), {})[rank.share] = rank
    lines = []
    for (family, score), at in by_line.items():
        n = str(next(iter(at.values())).n)
        cells = (f"{100 * at[share].right:.0f} %" if share in at else "" for share in shares)
        lines.append((EVERY if family == EVERY else words(family), n, words(score), *cells))
    return (*HEADS, *(f"at {share:g} of the tokens" for share in shares)), lines


def rung_table(result: StudyResult, shown: Sequence[Objective]) -> Table | None:
    heads, lines = rung_lines(result, shown)
    if not lines:
        return None
    table = Table(title=TITLE, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i in (0, 2) else "right")
    for line in lines:
        table.add_row(*line)
    return table


def rung_section(result: StudyResult, shown: Sequence[Objective]) -> list[str]:
    """The same as HTML; nothing where there is nothing to tell."""
    heads, lines = rung_lines(result, shown)
    if not lines:
        return []
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return [f"<h2>{TITLE}</h2><table><tr>{head}</tr>{body}</table>"]
