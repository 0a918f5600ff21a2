"""proxy.md: how well each rung, and guesses that train nothing, decide as the large training does."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

Record = dict[str, Any]
AGREEING = 0.8  # the aim: of the decisions
FEWEST = 3  # architectures that can be judged


def judge(record: Record) -> list[Record]:
    """A row for each score and guess: agreement, and regret beside the noise (None while nobody has two seeds)."""
    from nas.objectives import OBJECTIVES
    from nas.study.agreement import agreement, bootstrap, pairs_beyond, regret

    entries = judged_entries(record)
    if len(entries) < FEWEST:
        return []
    rows = []
    for metric in next(iter(entries[0]["large"].values()))[-1]:
        sign = 1.0 if OBJECTIVES[metric].direction == "minimize" else -1.0
        large = [[sign * rungs[-1][metric] for rungs in entry["large"].values()] for entry in entries]
        truth = np.array([np.mean(values) for values in large])
        noise = pooled(large)
        margin = None if noise is None else 2 * noise * np.sqrt(2 / min(len(values) for values in large))
        for name, guess in guesses(entries, record["rungs"], metric, sign).items():
            row = {
                "score": metric,
                "guess": name,
                "architectures": len(entries),
                "agreement": asdict(bootstrap(agreement, guess, truth)),
                "regret": asdict(bootstrap(regret, guess, truth)),
                "noise": noise,
                "agreement_beyond_noise": None,
                "pairs_beyond_noise": None,
            }
            if margin is not None:
                beyond = bootstrap(lambda g, t, m=margin: agreement(g, t, margin=m), guess, truth)
                row |= {"agreement_beyond_noise": asdict(beyond), "pairs_beyond_noise": pairs_beyond(truth, margin)}
            rows.append(row)
    return rows


def judged_entries(record: Record) -> list[Record]:
    """The architectures that were trained both ways."""
    return [entry for entry in record["architectures"].values() if entry["proxy"] and entry["large"]]


def guesses(entries: Sequence[Record], shares: Sequence[float], metric: str, sign: float) -> dict[str, np.ndarray]:
    """What each guess says of every architecture, as losses: more parameters, more FLOPs, and each rung's score."""
    found = {
        "parameters": -np.array([float(entry["parameters"]) for entry in entries]),
        "FLOPs": -np.array([float(entry["flops"]) for entry in entries]),
    }
    for rung, share in enumerate(shares):
        scores = [np.mean([rungs[rung][metric] for rungs in entry["proxy"].values()]) for entry in entries]
        found[rung_name(share)] = sign * np.array(scores)
    return found


def rung_name(share: float) -> str:
    return f"rung {share:g}"


def pooled(values: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation over seeds, pooled over architectures; None where nobody has two."""
    spread = [(float(np.var(one, ddof=1)), len(one) - 1) for one in values if len(one) > 1]
    freedom = sum(n for _, n in spread)
    return (sum(variance * n for variance, n in spread) / freedom) ** 0.5 if freedom else None


def page(record: Record) -> str:
    """The numbers as Markdown."""
    rows = judge(record)
    lines = ["# Does the proxy predict?", ""]
    if not rows:
        return "\n".join([*lines, "Too little was trained yet.", ""])
    plan, here = record["plan"], record["environment"]
    entries = judged_entries(record)
    lines += [
        f"{len(entries)} random architectures of equal parameters, at the proxy's size and budget and at "
        f"{plan['larger']:g} times the parameters with {plan['longer']:g} times the tokens. Seeds of each: "
        f"{seeds_of(entries, 'proxy')} of the proxy, {seeds_of(entries, 'large')} others of the large training. "
        f"{here['name']}, torch {here['torch']}, commit {here['commit']}.",
        "",
        f"Search space {record['settings']['search_space']['kind']}; tokens of the proxy: {tokens(record)}.",
        "",
        *broken(record),
        "| score | guess | decisions that agree | of those beyond noise | regret | noise |",
        "|---|---|---|---|---|---|",
        *map(table_row, rows),
        "",
        *aims(rows, rung_name(record["rungs"][-1])),
        "",
        "Intervals: 95 %, bootstrap over architectures. *Beyond noise*: pairs that the large training tells apart by "
        "more than two standard errors. *Regret*: how much worse the architecture that the guess picks is than the "
        "best, in the large training, whose luck is in that best. *Noise*: standard deviation of one large training "
        "over seeds.",
        "",
        "Written by `python scripts/benchmark_proxy.py`; every score stands in proxy.json.",
        "",
    ]
    return "\n".join(lines)


def tokens(record: Record) -> str:
    """Of each task."""
    return ", ".join(f"{name} {recipe['tokens']:,}" for name, recipe in record["settings"]["train"].items())


def broken(record: Record) -> list[str]:
    """A paragraph on trainings that broke, which the table leaves out."""
    reasons = [
        f"{entry['name']}, {training}: {reason}"
        for entry in record["architectures"].values()
        for training, reason in entry.get("failed", {}).items()
    ]
    return [f"Left out, because they broke: {'; '.join(reasons)}.", ""] if reasons else []


def table_row(row: Record) -> str:
    noise = row["noise"]
    beyond = "not known"
    if noise is not None:
        beyond = f"{shown(row['agreement_beyond_noise'], '.0%')} ({row['pairs_beyond_noise']} pairs)"
    known = "not known (one seed)" if noise is None else f"{noise:.4f}"
    return (
        f"| {row['score']} | {row['guess']} | {shown(row['agreement'], '.0%')} | {beyond} | "
        f"{shown(row['regret'], '.4f')} | {known} |"
    )


def aims(rows: Sequence[Record], last: str) -> list[str]:
    """For each score, whether the whole proxy reaches what it should: by its value, and `surely` by its interval."""
    lines = [f"Aims of the whole proxy ({last}): {AGREEING:.0%} of the decisions, and a regret within the noise.", ""]
    for row in rows:
        if row["guess"] != last:
            continue
        share, regret, noise = row["agreement"], row["regret"], row["noise"]
        decides = verdict(share["value"] >= AGREEING, share["low"] >= AGREEING, share["high"] < AGREEING)
        picks = (
            "not known"
            if noise is None
            else verdict(regret["value"] <= noise, regret["high"] <= noise, regret["low"] > noise)
        )
        lines.append(f"* {row['score']}: decisions {decides}, regret {picks}.")
    return lines


def verdict(reached: bool, surely: bool, surely_not: bool) -> str:
    if reached:
        return "surely reached" if surely else "reached, but within the interval"
    return "surely missed" if surely_not else "missed, but within the interval"


def seeds_of(entries: Sequence[Mapping[str, Any]], kind: str) -> str:
    """`2`, or `1 to 2` where not all are there."""
    counts = sorted({len(entry[kind]) for entry in entries})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def shown(interval: Mapping[str, float], form: str) -> str:
    return f"{interval['value']:{form}} ({interval['low']:{form}} to {interval['high']:{form}})"
