"""measurement.md: how good the measurement is, as Markdown."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

CLOSE = 0.1  # of the shorter time: a pair that lies nearer is a close one
Record = dict[str, Any]

HEAD = (
    "time",
    "error of the table, median",
    "worst",
    "mean bias",
    "measured again, median difference",
    "worst",
    "spread of one measurement, median",
    "close pairs",
    "table orders right",
    "measuring again",
    "roofline",
    "active parameters",
)
AIMS = (
    "Aims: a median error of the table of at most 3 %, 90 % of close pairs ordered right, repeats within 1 % on a GPU "
    "and 5 % on a CPU. *Measured again*: every architecture a second time as a whole network, later in the same run; "
    "what that misses is the device's doing, not the table's."
)


def summary(record: Record) -> str:
    """The numbers as Markdown."""
    rows = list(record["architectures"].values())
    lines = ["# Measurement: predictions, repeatability, cost", ""]
    if not rows:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    environment = ", ".join(f"{key} {value}" for key, value in record["environment"].items())
    deployment = ", ".join(f"{key} {value}" for key, value in record["deployment"].items() if value is not None)
    lines += [
        f"{len(rows)} architectures of the space {record['search_space']}, parameters matched within 3 %, by "
        "`python scripts/benchmark_measurement.py`.",
        "",
        f"* Device: {environment}.",
        f"* Deployment: {deployment}; {record['seconds_allowed']:g} s for one candidate, "
        f"{record['block_seconds_allowed']:g} s for one block in one phase.",
        f"* Flagged as busy or swapping: {sum(bool(row['flags']) for row in rows)} of {len(rows)} architectures, "
        f"{sum(bool(row.get('flags_again')) for row in rows)} when measured again, "
        f"{sum(bool(repeat['flags']) for repeat in record['repeats'])} of {len(record['repeats'])} repeats.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    lines += [row_of(rows, quantity) for quantity in rows[0]["measured"]]
    memory = [row["peak_memory_bytes"] / row["measured_peak_memory_bytes"] - 1 for row in rows]
    lines += [
        "",
        AIMS,
        "",
        f"Peak memory predicted from blocks: median error {statistics.median(map(abs, memory)):.1%}, worst "
        f"{max(map(abs, memory)):.1%}.",
        "",
        *repeatability([repeat["times"] for repeat in record["repeats"]]),
        *costs(rows, record["predictions_per_second"], record["deployed_per_second"]),
        "",
    ]
    return "\n".join(lines)


def row_of(rows: Sequence[Record], quantity: str) -> str:
    """One time's line of the table."""
    errors = [row["predicted"][quantity] / row["measured"][quantity] - 1 for row in rows]
    twice = [row for row in rows if "again" in row]
    changes = [abs(row["again"][quantity] / row["measured"][quantity] - 1) for row in twice]
    ordered = (
        ordered_right(rows, quantity, lambda row: row["predicted"][quantity]),
        ordered_right(twice, quantity, lambda row: row["again"][quantity]),
        ordered_right(rows, quantity, lambda row: row["roofline"][quantity]),
        ordered_right(rows, quantity, lambda row: row["active_parameters"]),
    )
    cells = [
        quantity,
        f"{statistics.median(map(abs, errors)):.1%}",
        f"{max(map(abs, errors)):.1%}",
        f"{statistics.mean(errors):+.1%}",
        *([f"{statistics.median(changes):.1%}", f"{max(changes):.1%}"] if changes else ["not done", "not done"]),
        spread_of_one(rows, quantity),
        f"{ordered[0][1]}",
        *(f"{share:.0%}" if pairs else "no pair" for share, pairs in ordered),
    ]
    return f"| {' | '.join(cells)} |"


def spread_of_one(rows: Sequence[Record], quantity: str) -> str:
    """The median spread (20th to 80th percentile, halved) of one measurement."""
    middle = statistics.median(row["spread"][quantity] for row in rows)
    return f"{middle:.1%}" if middle else "too few samples in the time"


def repeatability(repeats: Sequence[Mapping[str, float]]) -> list[str]:
    """Lines about one architecture measured again and again."""
    if len(repeats) < 2:
        return []
    lines = [f"One architecture measured {len(repeats)} times:", ""]
    for quantity in repeats[0]:
        values = sorted(repeat[quantity] for repeat in repeats)
        middle = statistics.median(values)
        lines.append(
            f"* {quantity}: median {middle:.4g} ms, standard deviation {statistics.stdev(values) / middle:.1%}, all "
            f"within {(values[-1] - values[0]) / middle:.1%} of it."
        )
    return [*lines, ""]


def costs(rows: Sequence[Record], predictions_per_second: float, deployed_per_second: float) -> list[str]:
    """Lines about what measuring takes."""
    blocks = sum(row["new_blocks"] for row in rows)
    filling = sum(row["seconds"]["blocks"] for row in rows)
    whole = statistics.median(row["seconds"]["whole"] for row in rows)
    return [
        f"* A new block in one phase: {filling / max(1, blocks):.2f} s ({blocks} of them).",
        f"* A trial's measuring with measure=model: {whole:.2f} s (median).",
        f"* With measure=table, once the blocks are known: {predictions_per_second:,.0f} architectures a second; "
        f"{deployed_per_second:,.0f} a second are sampled, matched and resized before.",
    ]


def ordered_right(rows: Sequence[Record], quantity: str, guess: Callable[[Record], float]) -> tuple[float, int]:
    """(Share of the close pairs that a guess orders as the measurement does, number of pairs); a tie counts half."""
    right, pairs = 0.0, 0
    for a, b in combinations(rows, 2):
        x, y = a["measured"][quantity], b["measured"][quantity]
        if abs(x - y) <= CLOSE * min(x, y) and x != y:
            pairs += 1
            difference = guess(a) - guess(b)
            right += 0.5 if difference == 0 else float((difference < 0) == (x < y))
    return (right / pairs if pairs else float("nan")), pairs
