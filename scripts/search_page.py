"""search.md: what replayed searches came to, as Markdown."""

from typing import Any

HEAD = (
    "variant",
    "hypervolume, mean over the budget",
    "at its end",
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
        lines += [f"## objectives={problem}", "", *described(judged), ""]
        lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
        order = sorted(judged["variants"], key=lambda name: -judged["variants"][name]["mean_over_budget"])
        lines += [f"| {name} | {' | '.join(cells(judged['variants'][name], judged))} |" for name in order]
        lines.append("")
    lines += [
        "Hypervolume is that of what a search trained to the full budget, by the true values, as a share of the true "
        "front's; ± is one standard error over searches. *Beats random*: share of searches whose final hypervolume is "
        "above that of random search with the same seed. *Reaches random's end after*: units of training to the "
        "hypervolume that random search has at the end. *Random needs*: units of random search without repetition to "
        "the variant's final hypervolume. *Within noise*: something no worse than the member by more than one standard "
        "deviation over seeds. *Wasted*: trials that ended before any training, a search.",
        "",
        "Written by `python scripts/benchmark_search.py`; every curve stands in search.json.",
        "",
    ]
    return "\n".join(lines)


def described(judged: dict[str, Any]) -> list[str]:
    """What the problem is."""
    noise = ", ".join(f"{name} {value:.3f}" for name, value in judged["noise"].items() if value)
    return [
        f"* Objectives {', '.join(judged['objectives'])}; required: {', '.join(judged['requirements']) or 'nothing'}. "
        f"{judged['able']} of {judged['architectures']} architectures meet that.",
        f"* The true front has {len(judged['front'])} members: {', '.join(judged['front'])}.",
        f"* Standard deviation over seeds, as a share of the range: {noise or 'not known (one seed)'}.",
        f"* {judged['units']} units of training; a tenth of the space is {judged['tenth']}.",
    ]


def cells(one: dict[str, Any], judged: dict[str, Any]) -> list[str]:
    """A variant's row."""
    share = judged["units"]
    reached = one["units_to_random_final"]
    needs = one["random_needs"]
    wasted = ", ".join(f"{count:.1f} {state}" for state, count in one["wasted"].items())
    return [
        f"{one['mean_over_budget']:.3f}",
        f"{one['final']:.3f} ± {one['final_error']:.3f}",
        f"{one['better_than_random']:.0%}",
        "never" if reached is None else f"{reached} ({reached / share:.0%})",
        "more than all" if needs is None else str(needs),
        f"{one['front_at_tenth']:.0%}",
        f"{one['front_at_tenth_within_noise']:.0%}",
        f"{one['front_at_end']:.0%}",
        f"{one['front_at_end_within_noise']:.0%}",
        wasted or "none",
        f"{one['seconds']:.2f}",
    ]


def provenance(record: dict[str, Any]) -> str:
    """Where the numbers come from, in one paragraph."""
    table, here = record["table"], record["environment"]
    low, high = table["seeds of each"]
    seeds = f"{low}" if low == high else f"{low} to {high}"
    costs = table["provenance"]["costs"]
    return (
        f"{record['searches of each']} searches of each variant. Table: {table['architectures']} architectures, "
        f"{seeds} seeds of each; costs: {costs['source'] if costs else 'not known'}. Replayed with Optuna "
        f"{here['optuna']}, Python {here['python']}, commit {here['commit']}."
    )
