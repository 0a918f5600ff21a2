"""search.md: what replayed searches came to, as Markdown."""

from typing import Any

from scripts.search_verdict import aims

HEAD = (
    "variant",
    "hypervolume, mean over the budget",
    "more than random",
    "at its end",
    "more than random",
    "beats random",
    "reaches random's end after",
    "random needs",
    "front at a tenth",
    "within noise",
    "front at the end",
    "within noise",
    "wasted trials",
    "s a search",
)


def page(record: dict[str, Any]) -> str:
    """The numbers as Markdown: a table for each problem."""
    lines = ["# Searches replayed on a known space", "", "![Curves](search.png)", "", provenance(record), ""]
    for problem, judged in record["problems"].items():
        lines += [f"## objectives={problem}", "", *described(judged, record["repeats"]), ""]
        lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
        order = sorted(judged["variants"], key=lambda name: -judged["variants"][name]["mean_over_budget"])
        lines += [f"| {name} | {' | '.join(cells(judged['variants'][name], judged))} |" for name in order]
        lines.append("")
    for problem, names in record["left out"].items():
        lines += [f"Not replayed with objectives={problem}: {', '.join(names)}.", ""] if names else []
    lines += [
        "Hypervolume is that of what a search trained to the full budget, by the true values, as a share of the "
        "true front's; training on all rungs counts, of whatever is left there. Intervals in brackets: 95 %, "
        "bootstrap over searches, for one variant against random search and not corrected for how many variants "
        "there are. *Beats random*: share of all pairs of a search and a random search in which its final "
        "hypervolume is above the other's. *Reaches random's end after*: units of training to the hypervolume that "
        "random search has at the end. *Random needs*: units of random search without repetition to the variant's "
        "final hypervolume. *Within noise*: something no worse than the member by more than one standard deviation "
        "over seeds of one architecture. *Wasted*: trials that ended before any training, a search. *s a search*: on "
        "the clock, beside whatever else the machine did. All variants train the reference designs first. "
        f"{what_is_seen(record['table']['seeds of each'])}",
        "",
        "Written by `python scripts/benchmark_search.py`; every curve stands in search.json, every "
        "search in searches.jsonl.",
        "",
    ]
    return "\n".join(lines)


def what_is_seen(seeds: list[int]) -> str:
    """What searches saw of the truth, from the fewest and the most seeds of an architecture in the table."""
    if seeds[1] == 1:
        return (
            "The table has one seed of each, so a search sees the truth itself: what noise does to a sampler is not "
            "shown, and on rungs nothing is known of what seeds do."
        )
    return (
        "Truth is the mean over the table's seeds, one of which a search sees, so that a little of its luck counts for "
        "it; the same holds for random search."
    )


def described(judged: dict[str, Any], repeats: dict[str, Any] | None) -> list[str]:
    """What the problem is, and which aims are reached on it. repeats: the table of the noise, if not this one."""
    noise = ", ".join(f"{name} {value:.3f}" for name, value in judged["noise"].items() if value)
    if noise and repeats:
        noise += f" ({repeats['architectures']} architectures, {counted(repeats['seeds of each'])} seeds of each)"
    return [
        f"* Objectives {', '.join(judged['objectives'])}; required: {', '.join(judged['requirements']) or 'nothing'}. "
        f"{judged['able']} of {judged['architectures']} architectures meet that.",
        f"* The true front has {len(judged['front'])} members: {', '.join(judged['front'])}.",
        f"* Standard deviation over seeds, as a share of the range: {noise or 'not known (one seed)'}.",
        f"* {judged['units']} units of training, of which {judged['references']} are reference designs; a tenth of the "
        f"space is {judged['tenth']}.",
        *(f"* Aim, {aim}: {', '.join(names) or 'no variant'}." for aim, names in aims(judged).items()),
    ]


def cells(one: dict[str, Any], judged: dict[str, Any]) -> list[str]:
    """A variant's row."""
    reached = one["units_to_random_final"]
    share = "" if reached["value"] is None else f", {reached['value'] / judged['units']:.0%}"
    noisy = any(judged["noise"].values())
    near = [between(one[f"front_at_{when}_within_noise"], ".0%") if noisy else "not known" for when in ("tenth", "end")]
    wasted = ", ".join(f"{count:.1f} {state}" for state, count in one["wasted"].items())
    return [
        f"{one['mean_over_budget']:.3f}",
        between(one["gain"], "+.3f"),
        f"{one['final']:.3f} ± {one['final_error']:.3f}",
        between(one["final_gain"], "+.3f"),
        f"{one['better_than_random']:.0%}",
        f"{between(reached, '.0f', 'never')}{share}",
        between(one["random_needs"], ".0f", "more than all"),
        between(one["front_at_tenth"], ".0%"),
        near[0],
        between(one["front_at_end"], ".0%"),
        near[1],
        wasted or "none",
        f"{one['seconds']:.2f}",
    ]


def between(interval: dict[str, float | None], form: str, never: str = "never") -> str:
    """`0.12 (0.05 to 0.2)`."""
    value, low, high = (never if end is None else format(end, form) for end in interval.values())
    return f"{value} ({low} to {high})"


def counted(ends: list[int]) -> str:
    """`2`, or `1 to 3`."""
    low, high = ends
    return f"{low}" if low == high else f"{low} to {high}"


def provenance(record: dict[str, Any]) -> str:
    """Where the numbers come from, in one paragraph."""
    table, here = record["table"], record["environment"]
    costs = table["provenance"]["costs"]
    commits = here["commits"]
    return (
        f"{record['searches of each']} searches of each variant. Table: {table['architectures']} architectures, "
        f"{counted(table['seeds of each'])} seeds of each; costs: {costs['source'] if costs else 'not known'}. "
        f"Replayed with Optuna {here['optuna']}, Python {here['python']}, "
        f"{'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}."
    )
