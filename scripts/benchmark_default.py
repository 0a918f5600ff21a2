"""Does the shipped budget carry a signal? Trains the reference designs on several seeds and compares the two spreads.

    python scripts/benchmark_default.py                      the default search's designs, tasks and budget, 3 seeds
    python scripts/benchmark_default.py --seeds 5 budget=gpu_1h

A number carries a signal where the designs' means differ by more than one design differs over its seeds. Prints a
table and writes it with device, versions, n and every single value.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.tasks import cache_folder, task_configs
from scripts.command_line import composing, speaking_to_users
from scripts.settings import SearchSettings

OUT = Path("docs/benchmarks/default.json")
TITLE = "Reference designs of the default search on several seeds"
Values = dict[str, dict[str, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as budget=cpu")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each design (default: 3)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the numbers are written (default: {OUT})")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Nothing was written; the same command starts from the beginning."):
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides(arguments.overrides)
        values, seconds = train_designs(settings, arguments.seeds)
        record = make_record(settings, values, seconds, arguments.seeds)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        text = f"# {TITLE}\n\n{table(record)}\n"
        arguments.out.with_suffix(".md").write_text(text)
        print(text)
        print(f"written {arguments.out} and .md")


def train_designs(settings: SearchSettings, seeds: int) -> tuple[Values, list[float]]:
    """Every score of every reference design over seeds, and the seconds that each training took."""
    from nas.study.events import Observer
    from nas.study.training.evaluator import open_evaluator

    class Unheard(Observer):
        """Nobody watches a benchmark."""

    for task in settings.tasks.values():
        task.prepare()
    values: Values = {}
    seconds: list[float] = []
    designs = [(name, settings.space.at(p)) for name, p in settings.space.references(settings.designs)]
    with open_evaluator(
        settings.tasks,
        settings.recipes,
        settings.deployment,
        settings.parameters,
        task_configs(settings.config["task"]),
        device=settings.device,
        tables=cache_folder() / "tables",
    ) as evaluator:
        for name, sampled in designs:
            for seed in range(settings.seed, settings.seed + seeds):
                candidate = evaluator.admit(sampled)
                began = time.perf_counter()
                evaluator.train(candidate, seed, Unheard())
                seconds.append(time.perf_counter() - began)
                for metric, score in candidate.scores.items():
                    values.setdefault(metric, {}).setdefault(name, []).append(score.value)
                shown = ", ".join(f"{metric} {score.value:.4f}" for metric, score in candidate.scores.items())
                print(f"{name}, seed {seed}: {shown}; {seconds[-1]:.1f} s", flush=True)
    return values, seconds


def make_record(settings: SearchSettings, values: Values, seconds: list[float], seeds: int) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on."""
    from nas.measure import describe_device

    return {
        "environment": describe_device(),
        "definition": settings.definition,
        "seeds": seeds,
        "seconds_per_training": {"median": statistics.median(seconds), "n": len(seconds)},
        "values": values,
        "spreads": {metric: spreads(designs) for metric, designs in values.items()},
    }


def spreads(designs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Spread of the designs' means, and of one design over its seeds (pooled over designs)."""
    means = [statistics.fmean(v) for v in designs.values()]
    variances = [statistics.variance(v) for v in designs.values() if len(v) > 1]
    between = statistics.stdev(means) if len(means) > 1 else 0.0
    within = statistics.fmean(variances) ** 0.5 if variances else 0.0
    return {"sd_between_designs": between, "sd_over_seeds": within, "range_of_designs": max(means) - min(means)}


def table(record: Mapping[str, Any]) -> str:
    """The numbers as Markdown: a row for each design, the spreads, and what they were measured on."""
    metrics = list(record["values"])
    lines = [f"| design | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for name in record["values"][metrics[0]]:
        cells = ["  ".join(f"{value:.3f}" for value in record["values"][metric][name]) for metric in metrics]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for label, key in (
        ("sd between the designs' means", "sd_between_designs"),
        ("sd over seeds (pooled)", "sd_over_seeds"),
        ("range of the designs' means", "range_of_designs"),
    ):
        cells = [f"{record['spreads'][metric][key]:.3f}" for metric in metrics]
        lines.append(f"| **{label}** | {' | '.join(cells)} |")
    verdicts = [verdict(metric, record["spreads"][metric]) for metric in metrics]
    environment, seconds = record["environment"], record["seconds_per_training"]
    source = (
        f"{record['seeds']} seeds each, one value a seed. {environment['name']}, {environment['cores']} cores, torch "
        f"{environment['torch']}; {seconds['median']:.1f} s for all tasks of one design (median of n = {seconds['n']})."
        " Written by `python scripts/benchmark_default.py`; every setting stands in the JSON file beside this one."
    )
    return "\n".join([*lines, "", *verdicts, "", source])


def verdict(metric: str, spread: Mapping[str, float]) -> str:
    """Whether a number tells designs apart, and the smallest difference of two single runs that means something."""
    between, within = spread["sd_between_designs"], spread["sd_over_seeds"]
    word = "exceed" if between > within else "do not exceed"
    return (
        f"* {metric}: differences between designs {word} the seed spread ({between:.3f} against {within:.3f}); two "
        f"single runs are told apart from about {2 * 2**0.5 * within:.3f}."
    )


if __name__ == "__main__":
    main()
