"""Which tasks tell designs apart at a budget, and which tell luck? 8 designs, 4 learning rates and 3 seeds each.

    python scripts/benchmark_signal.py                            every task at the default budget
    python scripts/benchmark_signal.py --tasks recall,s3 --limit 3600      an hour of it; the same command goes on
    python scripts/benchmark_signal.py budget=gpu_1h --update-budget       and names what carries none in the budget

Designs are the reference designs and random points of the space, with equal parameters; rates are multiples of the
table's. For each score: the shares of its variance that design, rate and seed make, how often two designs swap places
between seeds and between rates, and how far a single run can be trusted. A score carries no signal where designs differ
less than seeds of one design do. Writes signal.json, from which the same command goes on, and signal.md; exit code 3
when the limit came first.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig

from nas.architecture import Architecture, Scale, diagram, resized
from nas.tasks import TASKS, Task
from nas.training.recipe import Recipe
from scripts.command_line import CONF, UserError, composing, speaking_to_users
from scripts.config_values import time_limit
from scripts.exit_codes import UNFINISHED
from scripts.provenance import commit
from scripts.settings import SearchSettings
from scripts.variance_shares import (
    flips_between_rates,
    flips_between_seeds,
    reliability,
    reliability_interval,
    variance_shares,
)
from search_spaces import RandomTrial

OUT = Path("docs/benchmarks/signal.json")
SCALES = (0.25, 0.5, 1.0, 2.0)
"""Multiples of the table's learning rates; 1 is what a search trains with."""
TRUSTED = 0.5
"""The reliability of a single run from which designs differ more than seeds do."""
HEAD = (
    *("score", "designs x rates x seeds", "design", "rate", "design x rate", "seed"),
    *("trust", "flips, seeds", "flips, rates", "signal"),
)
Record = dict[str, Any]
Run = tuple[str, float, int]
"""Design, multiple of the rates, seed."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A task as the search trains it at this budget. `tokens` multiplies windows and blocks."""

    task: Task
    recipe: Recipe
    tokens: float
    definition: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as budget=cpu")
    parser.add_argument("--tasks", help="names with commas between them (default: all but mixed)")
    parser.add_argument("--designs", type=int, default=8, help="reference designs, then random ones (default: 8)")
    parser.add_argument("--rates", type=int, default=4, help="of the multiples 1, 0.5, 2, 0.25 (default: 4)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each design and rate (default: 3)")
    parser.add_argument("--limit", type=float, help="seconds after which no training is begun (default: none)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the numbers are written (default: {OUT})")
    parser.add_argument("--update-budget", action="store_true", help="write budget.no_signal into conf/budget")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Every finished training is kept; the same command goes on from here."):
        if arguments.designs < 2 or arguments.seeds < 2 or not 1 <= arguments.rates <= len(SCALES):
            raise UserError(
                "--designs and --seeds must be at least 2 and --rates from 1 to 4: a spread needs two values."
            )
        time_limit("--limit", arguments.limit)
        names = arguments.tasks.split(",") if arguments.tasks else [name for name in TASKS if name != "mixed"]
        with composing(arguments.overrides):
            designs = chosen_designs(SearchSettings.from_overrides(arguments.overrides), arguments.designs)
            tasks = {name: task_at(name, arguments.overrides) for name in names}
            budget = str(HydraConfig.get().runtime.choices["budget"])
        scales = sorted(SCALES, key=lambda scale: (abs(np.log2(scale)), scale))[: arguments.rates]
        order = [(scale, seed) for scale in scales for seed in range(arguments.seeds)]
        record = open_record(arguments.out)
        section = open_section(record, budget, designs, tasks)
        finished = fill(section, tasks, designs, order, arguments.limit, lambda: save(record, arguments.out))
        save(record, arguments.out)
        print(arguments.out.with_suffix(".md").read_text())
        tell_budget(section, budget, arguments.update_budget)
    if not finished:
        sys.exit(UNFINISHED)


def chosen_designs(settings: SearchSettings, count: int) -> dict[str, Architecture]:
    """The reference designs in the space and random points of it, `count` in all, parameters matched as in a search."""
    from nas.count import CannotMatch, match_parameters

    placed = {name: settings.space.at(params) for name, params in settings.space.references(settings.designs)}
    found: dict[str, Architecture] = {}
    for seed in range(-len(placed), 100 * count):
        name = list(placed)[seed] if seed < 0 else f"random-{seed}"
        sampled = placed[name] if seed < 0 else settings.space(RandomTrial(seed))
        try:
            found[name] = sampled if settings.parameters is None else match_parameters(sampled, settings.parameters)
        except CannotMatch:
            continue  # the search rejects it, too
        if len(found) == count:
            return found
    raise UserError(f"The search space gave {len(found)} designs of equal parameters, but --designs asks for {count}.")


def task_at(name: str, overrides: Sequence[str]) -> Trained:
    """A task and its recipe at the budget; windows scale as they do beside text."""
    if name not in TASKS:
        raise UserError(f"--tasks must name tasks of {', '.join(TASKS)}, but got {name!r}.")
    alone = [*overrides, f"task={name}", "optimize=[parameters]", "require.recall=null"]
    settings = SearchSettings.from_overrides(alone)
    ((key, task),) = settings.tasks.items()
    text = SearchSettings.from_overrides([*overrides, "task=text", "optimize=[parameters]", "require.recall=null"])
    (length,) = (beside.sequence_length for beside in text.tasks.values())
    return Trained(
        task=task,
        recipe=settings.recipes[key],
        tokens=task.sequence_length / length if task.synthetic else 1.0,
        definition={"task": settings.config["task"], "recipe": asdict(settings.recipes[key])},
    )


def open_record(path: Path) -> Record:
    """What an earlier run left, or the beginning of a record."""
    if not path.exists():
        return {"budgets": {}}
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or "budgets" not in record:
        raise UserError(f"{path} must be a record of this benchmark, but it is none; move it away or choose --out.")
    return record


def open_section(
    record: Record, budget: str, designs: Mapping[str, Architecture], tasks: Mapping[str, Trained]
) -> Record:
    """The part of a budget, without the runs of tasks and designs that have changed since."""
    from nas.measure import describe_device

    section = record["budgets"].setdefault(
        budget, {"environment": describe_device() | {"commit": commit()}, "designs": {}, "tasks": {}}
    )
    shown = {name: diagram(design) for name, design in designs.items()}
    if any(section["designs"].get(name, text) != text for name, text in shown.items()):
        section["tasks"] = {}
    section["designs"] = shown
    for name, trained in tasks.items():
        definition = json.loads(json.dumps(trained.definition))
        if section["tasks"].get(name, {}).get("definition") != definition:
            about = {metric.name: metric.direction for metric in trained.task.metrics}
            section["tasks"][name] = {"definition": definition, "metrics": about, "runs": []}
    return section


def fill(
    section: Record,
    tasks: Mapping[str, Trained],
    designs: Mapping[str, Architecture],
    order: Sequence[tuple[float, int]],
    limit: float | None,
    keep: Callable[[], None],
) -> bool:
    """Train what the record lacks, the table's rate and all seeds first; whether nothing is missing any more."""
    deadline = time.perf_counter() + limit if limit is not None else float("inf")
    missing = list(wanted(section, tasks, designs, order))
    for done, (name, (design, scale, seed)) in enumerate(missing):
        if time.perf_counter() > deadline:
            print(f"stopped after {limit:g} s with {len(missing) - done} trainings left; the same command goes on")
            return False
        began = time.perf_counter()
        scores = train_once(designs[design], tasks[name], scale, seed)
        run = {"design": design, "scale": scale, "seed": seed, "scores": scores}
        section["tasks"][name]["runs"].append(run | {"seconds": round(time.perf_counter() - began, 2)})
        keep()
        said = "diverged" if scores is None else ", ".join(f"{m} {value:.4f}" for m, value in scores.items())
        print(f"{done + 1} of {len(missing)}: {name}, {design}, rate x {scale:g}, seed {seed}: {said}", flush=True)
    return True


def wanted(
    section: Record,
    tasks: Mapping[str, Trained],
    designs: Mapping[str, Architecture],
    order: Sequence[tuple[float, int]],
) -> Iterator[tuple[str, Run]]:
    """The trainings that are missing: a verdict on every task first, then what the rate does."""
    there = {
        (name, run["design"], run["scale"], run["seed"])
        for name, found in section["tasks"].items()
        for run in found["runs"]
    }
    for scale, seed in order:
        for name in tasks:
            for design in designs:
                if (name, design, scale, seed) not in there:
                    yield name, (design, scale, seed)


def train_once(design: Architecture, trained: Trained, scale: float, seed: int) -> dict[str, float] | None:
    """The scores of one training; None where it diverged."""
    from nas.compile import compile_architecture
    from nas.training import NonFiniteLoss, evaluate, fit, learning_rates

    task = trained.task
    task.prepare()
    recipe = replace(trained.recipe, learning_rate_scale=trained.recipe.learning_rate_scale * scale)
    proxy = replace(resized(design, Scale(tokens=trained.tokens)), vocab_size=task.vocab_size)
    model = compile_architecture(proxy, seed=seed)
    try:
        fit(model, task, recipe, seed=seed, learning_rates=learning_rates(task.name))
        scores = {name: score.value for name, score in evaluate(model, task, recipe).items()}
    except NonFiniteLoss:
        return None
    return scores if np.isfinite(list(scores.values())).all() else None


def save(record: Record, path: Path) -> None:
    """The record and its page, each complete or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, text in ((path, json.dumps(record, indent=1) + "\n"), (path.with_suffix(".md"), page(record))):
        partial = place.with_name(place.name + ".partial")
        partial.write_text(text)
        partial.replace(place)


def scores_of(found: Record, metric: str, designs: Sequence[str]) -> tuple[np.ndarray, list[float]] | None:
    """[designs, rates, seeds] of what is complete, and the rates, the table's first; None before two seeds are.

    A run that diverged counts as the worst that did not.
    """
    runs = {(run["design"], run["scale"], run["seed"]): run["scores"] for run in found["runs"]}
    values = [scores[metric] for scores in runs.values() if scores is not None]
    if not values:
        return None
    worst = max(values) if found["metrics"][metric] == "minimize" else min(values)
    known = {key: worst if scores is None else scores[metric] for key, scores in runs.items()}
    seeds = [s for s in sorted({seed for _, _, seed in known}) if all((d, 1.0, s) in known for d in designs)]
    complete = [c for c in sorted({c for _, c, _ in known}) if all((d, c, s) in known for d in designs for s in seeds)]
    scales = sorted(complete, key=lambda scale: scale != 1.0)
    if len(seeds) < 2 or len(designs) < 2:
        return None
    return np.array([[[known[d, c, s] for s in seeds] for c in scales] for d in designs]), scales


def silent_scores(section: Record) -> list[str]:
    """Scores by which designs differ less than seeds do, of those that can be judged."""
    found = []
    for task in section["tasks"].values():
        for metric in task["metrics"]:
            scores = scores_of(task, metric, list(section["designs"]))
            if scores is not None and reliability(scores[0][:, 0]) < TRUSTED:
                found.append(metric)
    return found


def page(record: Record) -> str:
    """The numbers as Markdown: a table for each budget."""
    lines = ["# Which scores tell designs apart", ""]
    for budget, section in record["budgets"].items():
        environment = section["environment"]
        seconds = [run["seconds"] for task in section["tasks"].values() for run in task["runs"]]
        lines += [f"## budget={budget}", ""]
        lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
        for task in section["tasks"].values():
            lines += [table_row(task, metric, list(section["designs"])) for metric in task["metrics"]]
        took = f"{statistics.median(seconds):.1f} s for one training (median of n = {len(seconds)})" if seconds else ""
        begun = f", begun at commit {environment['commit']}" if "commit" in environment else ""
        here = f"{environment['name']}, threads {environment['threads']}, torch {environment['torch']}{begun}"
        lines += ["", f"{here}; {took}.", ""]
        silent = silent_scores(section)
        lines += [f"Without a signal at this budget: {', '.join(silent) or 'none of those that were judged'}.", ""]
        lines += ["Designs:", "", *(f"* {name}: `{text}`" for name, text in section["designs"].items()), ""]
    lines += [
        "*design*, *rate*, *design x rate*, *seed*: shares of the variance (random effects). *trust*: the share of "
        "the variance between single runs at the table's rate that designs make, with its 95 % interval (what a "
        "seed does to all designs alike counts as noise); below 0.5 seeds make more, and the score carries no "
        "signal, which is only *likely* where the interval holds 0.5. *flips*: share of the pairs of designs that "
        "swap places between two seeds of one rate, or between two rates (means over seeds); 50 % is luck. Rates "
        "are multiples of the table's; a run that diverged counts as the worst. Written by `python "
        "scripts/benchmark_signal.py`; every score and setting stands in the JSON file beside this one.",
        "",
    ]
    return "\n".join(lines)


def table_row(task: Record, metric: str, designs: Sequence[str]) -> str:
    """One score: where its variance comes from, as far as it is known."""
    found = scores_of(task, metric, designs)
    if found is None:
        return f"| {metric} |" + " |" * (len(HEAD) - 2) + " not judged yet |"
    scores, _ = found
    trust = reliability(scores[:, 0])
    shares = variance_shares(scores) if scores.shape[1] > 1 else None
    parts = [f"{share:.0%}" for share in asdict(shares).values()] if shares else [""] * 4
    between_rates = f"{flips_between_rates(scores):.0%}" if scores.shape[1] > 1 else ""
    low, high = reliability_interval(scores[:, 0])
    trusted = f"{trust:.2f} ({low:.2f} to {high:.2f})"
    cells = [metric, " x ".join(map(str, scores.shape)), *parts, trusted, f"{flips_between_seeds(scores):.0%}"]
    return "| " + " | ".join([*cells, between_rates, signal(trust, low, high)]) + " |"


def signal(trust: float, low: float, high: float) -> str:
    """The verdict; `likely` where the interval holds the other as well."""
    unsure = "likely " if low < TRUSTED <= high else ""
    return f"{unsure}yes" if trust >= TRUSTED else f"**{unsure}no**"


def tell_budget(section: Record, budget: str, update: bool) -> None:
    """Print the budget's line that names what carries no signal, and write it where that is asked for."""
    line = f"no_signal: [{', '.join(silent_scores(section))}]"
    path = CONF / "budget" / f"{budget}.yaml"
    if not update:
        print(f"budget {budget}: {line}   (--update-budget writes it into {path})")
        return
    text, replaced = re.subn(r"(?m)^( *)no_signal: \[[^\]]*\]", rf"\g<1>{line}", path.read_text())
    if replaced != 1:
        raise UserError(f"{path} must have one line `no_signal: [...]`, but it has {replaced}; add it, then run again.")
    path.write_text(text)
    print(f"{path}: {line}")


if __name__ == "__main__":
    main()
