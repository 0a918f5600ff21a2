"""The measured figures of docs/kernels.md, from the records of the benchmarks that lie beside it.

    python scripts/list_figures.py        after one of them was measured anew

Rewrites what stands between the two marks of the page, and nothing else.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "kernels.md"
RECORDS = ("recurrences", "recurrences_one_thread", "scans", "block_sparse")
BEGIN = "<!-- written by scripts/list_figures.py -->"
END = "<!-- end of what scripts/list_figures.py writes -->"
DENSITY = "T1024 H4/1 D64, "
"""How the problems of block_sparse_attention begin that differ by how many blocks are live."""
Record = Mapping[str, Any]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), records()), encoding="utf-8")
    print(PAGE)


def records() -> dict[str, Record]:
    """By the name of its page in docs/benchmarks, what each benchmark wrote."""
    return {name: json.loads((DOCS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8")) for name in RECORDS}


def rewritten(page: str, found: Mapping[str, Record]) -> str:
    """The page with the figures of these records. Raises ValueError for a page without the marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"The page must have the lines {BEGIN} and {END}, between which figures are written.")
    return "\n".join([before + BEGIN, *table(found), END]) + after


def table(found: Mapping[str, Record]) -> list[str]:
    """A line for each record and comparison: the figures, the number of samples, where and with what."""
    products = "ours takes as its matrix products alone"
    theirs = "transformers' PyTorch code takes as ours"
    one, scans = found["recurrences_one_thread"], found["scans"]
    rows = found["recurrences"]["rows"]
    return [
        "",
        "| how many times as long | layer: ratio of medians (aim; samples of each) | measured on | source |",
        "|---|---|---|---|",
        line(products, ratios(rows, "ours", "products", aimed=True), "recurrences", found),
        line(products, ratios(one["rows"], "ours", "products", aimed=True), "recurrences_one_thread", found),
        line(theirs, ratios(rows, "transformers", "ours", aimed=False), "recurrences", found),
        line(theirs, ratios(scans["rows"], "transformers", "ours", aimed=True), "scans", found),
        line("listed blocks take as the fewest, forward", live_blocks(found["block_sparse"]), "block_sparse", found),
        "",
    ]


def line(what: str, figures: Iterable[str], name: str, found: Mapping[str, Record]) -> str:
    return f"| {what} | {'; '.join(figures)} | {place(found[name])} | [{name}.md](benchmarks/{name}.md) |"


def ratios(rows: Iterable[Record], of: str, to: str, *, aimed: bool) -> Iterable[str]:
    """`GLA: 6.1 (aim 8; n = 9, 9)` for each row that has both times."""
    for row in rows:
        if row[of] is not None and row[to] is not None:
            aim = f"aim {row['aim']:g}; " if aimed and row["aim"] is not None else ""
            counts = f"n = {samples(row[of])}, {samples(row[to])}"
            yield f"{row['layer']}: {median(row[of]) / median(row[to]):.1f} ({aim}{counts})"


def live_blocks(record: Record) -> Iterable[str]:
    """The forward times of one length by how many blocks are live, over that of the fewest."""
    rows = [r for r in record["rows"] if r["problem"].startswith(DENSITY) and r["direction"] == "forward"]
    for row in rows:
        ratio = row["milliseconds"][0] / rows[0]["milliseconds"][0]
        yield f"{row['problem'].removeprefix(DENSITY)}: {ratio:.1f} (n = {row['n']})"


def median(times: Record) -> float:
    """In milliseconds, as either benchmark writes it."""
    return times["milliseconds"] if "milliseconds" in times else times["value"]


def samples(times: Record) -> int:
    return times["samples"] if "samples" in times else times["n"]


def place(record: Record) -> str:
    """Device, threads, versions and commit."""
    device = record["device"] if "device" in record else record["environment"]
    commit = record.get("commit") or device.get("commit")
    transformers = [f"transformers {record['transformers']}"] if "transformers" in record else []
    parts = [device["name"], f"threads {device['threads']}", f"torch {device['torch']}", *transformers]
    return ", ".join([*parts, f"commit {commit}"])


if __name__ == "__main__":
    main()
