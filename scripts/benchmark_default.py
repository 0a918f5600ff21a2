"""Does the shipped budget carry a signal? Trains the reference designs on several seeds and compares the two spreads.

    python scripts/benchmark_default.py                      the default search's designs, tasks and budget, 3 seeds
    python scripts/benchmark_default.py --seeds 5 budget=gpu_1h
    python scripts/benchmark_default.py --limit 600          exit code 3 when 600 seconds were not enough

A number carries a signal where the designs' means differ by more than one design differs over its seeds. Each training
is written as it ends, with device and versions; the same command trains what is missing, and goes on within a training
that was interrupted. The table is printed and written beside it once nothing is missing.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture, canonical_id
from nas.study.events import Observer
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.config_values import time_limit
from scripts.exit_codes import UNFINISHED
from scripts.settings import SearchSettings

if TYPE_CHECKING:
    from nas.study.confirmation.retraining import Retrainer

OUT = Path("docs/benchmarks/default.json")
TITLE = "Reference designs of the default search on several seeds"
TRAINED_WITH = ("search_space", "task", "train", "seed", "fidelity")  # of the definition; the rest trains nothing
Values = dict[str, dict[str, list[float]]]
Record = dict[str, Any]


class Unheard(Observer):
    """Nobody watches a benchmark."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as budget=cpu")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each design (default: 3)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no training is begun")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the numbers are written (default: {OUT})")
    arguments = parser.parse_intermixed_args()
    deadline = time.monotonic() + arguments.limit
    with speaking_to_users(interrupted="Every finished training is kept; the same command goes on from here."):
        if arguments.seeds < 1:
            raise UserError(f"--seeds must be at least 1, but got {arguments.seeds}.")
        time_limit("--limit", arguments.limit)
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides(arguments.overrides)
        finished = run(settings, arguments.seeds, arguments.out, deadline)
    if not finished:
        sys.exit(UNFINISHED)


def run(settings: SearchSettings, seeds: int, out: Path, deadline: float) -> bool:
    """Train what the record lacks; the page once nothing is missing, and whether that is so.

    Raises UserError for a training that broke, after all the others.
    """
    from nas.measure import choose_device
    from nas.study.confirmation.retraining import open_retrainer

    designs = matched_designs(settings)
    record = open_record(out, settings, designs)
    write(out, record)  # before anything is trained, so that no checkpoint is taken for one of other settings
    for task in settings.tasks.values():
        task.prepare()
    checkpoints = out.with_suffix(".trainings")
    tasks, wanted = list(settings.tasks), range(settings.seed, settings.seed + seeds)
    place = choose_device(settings.device)
    with open_retrainer(settings.tasks, settings.recipes, device=place, folder=checkpoints, seconds=None) as trainer:
        broke = fill(record, designs, tasks, wanted, trainer, deadline, lambda: write(out, record))
    left = sum(len(lacking) for _, _, lacking in missing(record, designs, tasks, wanted))
    if left > len(broke):
        print(f"{left} trainings are missing; the same command goes on")
        return False
    shutil.rmtree(checkpoints, ignore_errors=True)
    if broke:
        raise UserError(f"{'; '.join(broke)}; the others are kept, and the same command tries those again.")
    record |= summary(record, designs, tasks, wanted)
    write(out, record)
    text = f"# {TITLE}\n\n{table(record)}\n"
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written {out} and .md")
    return True


def matched_designs(settings: SearchSettings) -> dict[str, Architecture]:
    """The reference designs in the space, with the parameters of its proxies. Raises CannotMatch."""
    from nas.count import match_parameters

    placed = {name: settings.space.at(params) for name, params in settings.space.references(settings.designs)}
    if settings.parameters is None:
        return placed
    return {name: match_parameters(design, settings.parameters) for name, design in placed.items()}


def open_record(path: Path, settings: SearchSettings, designs: Mapping[str, Architecture]) -> Record:
    """The record so far, or the beginning of one. Raises UserError for one of other trainings."""
    from nas.measure import choose_device, describe_device

    definition = json.loads(json.dumps(settings.definition))
    made = {
        "environment": describe_device(choose_device(settings.device)),
        "designs": {name: canonical_id(design) for name, design in designs.items()},
    }
    if not path.exists():
        return {**made, "definition": definition, "trainings": {}, "seconds": {}}
    record = json.loads(path.read_text(encoding="utf-8"))
    before = record.get("definition", {})
    other = [f"definition.{key}" for key in TRAINED_WITH if before.get(key) != definition.get(key)]
    other += [key for key, value in made.items() if record.get(key) != value]
    if other:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(other)} differ); take those back, or name another "
            "file with --out."
        )
    return record


def write(path: Path, record: Record) -> None:
    """Write the record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def missing(
    record: Record, designs: Mapping[str, Architecture], tasks: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[str, int, list[str]]]:
    """Design, seed and the tasks that the record lacks; every design once before any again."""
    for seed in seeds:
        for name in designs:
            there = record["trainings"].get(name, {}).get(str(seed), {})
            if lacking := [task for task in tasks if task not in there]:
                yield name, seed, lacking


def fill(
    record: Record,
    designs: Mapping[str, Architecture],
    tasks: Sequence[str],
    seeds: Sequence[int],
    trainer: "Retrainer",
    deadline: float,
    keep: Callable[[], None],
) -> list[str]:
    """Train what is missing into the record, kept after each training; what broke, a clause each.

    deadline: of time.monotonic; no training is begun after it. The seconds of all tasks of a design are recorded where
    they were trained in one go, and are null elsewhere.
    """
    broke = []
    for name, seed, lacking in list(missing(record, designs, tasks, seeds)):
        began = time.monotonic()
        if began > deadline:
            break
        there = record["trainings"].setdefault(name, {}).setdefault(str(seed), {})
        seconds = record["seconds"].setdefault(name, {})
        first = str(seed) not in seconds
        seconds[str(seed)] = None
        keep()
        for group in [lacking] if trainer.workers is not None else [[task] for task in lacking]:
            if time.monotonic() > deadline:
                break
            for training in trainer(designs[name], seed, dict.fromkeys(group, 1.0), Unheard()):
                what = f"{name}, seed {seed}, {training.task}"
                if training.failed is not None:
                    broke.append(f"{what} broke: {training.failed}")
                    print(broke[-1], flush=True)
                    continue
                there[training.task] = {metric: score.value for metric, score in training.scores.items()}
                keep()
                shown = ", ".join(f"{metric} {value:.4f}" for metric, value in there[training.task].items())
                print(f"{what}: {shown}; {training.seconds:.1f} s", flush=True)
        if first and set(there) >= set(tasks):
            seconds[str(seed)] = time.monotonic() - began
            keep()
    return broke


def summary(record: Record, designs: Iterable[str], tasks: Sequence[str], seeds: Sequence[int]) -> Record:
    """Every score by design, one value a seed, the spreads, and the seconds of all tasks of one design."""
    values: Values = {}
    for name in designs:
        for seed in seeds:
            for task in tasks:
                for metric, value in record["trainings"][name][str(seed)][task].items():
                    values.setdefault(metric, {}).setdefault(name, []).append(value)
    seconds = [record["seconds"][name][str(seed)] for name in designs for seed in seeds]
    whole = [one for one in seconds if one is not None]
    return {
        "seeds": len(seeds),
        "seconds_per_training": {"median": statistics.median(whole) if whole else None, "n": len(whole)},
        "values": values,
        "spreads": {metric: spreads(by_design) for metric, by_design in values.items()},
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
    verdicts = ["One seed tells no spread over seeds, and so nothing of the signal."]
    if record["seeds"] > 1:
        verdicts = [verdict(metric, record["spreads"][metric]) for metric in metrics]
    environment, seconds = record["environment"], record["seconds_per_training"]
    took = "no design was trained in one go, so its seconds are not known"
    if seconds["n"]:
        took = f"{seconds['median']:.1f} s for all tasks of one design (median of n = {seconds['n']})"
    source = (
        f"{record['seeds']} seeds each, one value a seed. {environment['name']}, {environment['cores']} cores, torch "
        f"{environment['torch']}; {took}. Written by `python scripts/benchmark_default.py`; every setting "
        "stands in the JSON file beside this one."
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
