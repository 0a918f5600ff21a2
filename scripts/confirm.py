"""Confirms the front of a finished study: trains it, and all within two standard errors of it, anew on fresh seeds.

    python scripts/confirm.py outputs/hybrid-cpu
    python scripts/confirm.py outputs/hybrid-cpu seeds=5 tune=false

    seeds=N         trainings of each design, fixed beforehand (default: 3)
    tune=BOOL       choose each design's learning rates from half, once and twice the table's (default: true)
    anew=BOOL       put an earlier confirmation away and take other seeds (default: false)
    device=NAME     where to train (default: as the search did)
    storage=URL     where the study is kept, if not in its folder

The search's scores are discarded: a front is chosen by them, so they are luck in part. Every training is stored as it
ends; the same command goes on. Writes confirmation.md and confirmation.json into the study's folder.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nas.architecture import diagram, did_you_mean
from nas.objectives import Requirement, parse_objectives, parse_requirements
from nas.study.events import Observer
from nas.tasks import Task, make_tasks
from nas.training.recipe import Recipe
from scripts.command_line import UserError, speaking_to_users
from scripts.recommend import read_config
from scripts.settings import fidelity_from, recipe_for, recipe_on_rungs, whole

if TYPE_CHECKING:
    from nas.study.judgement import Judged, Judgement
    from nas.study.rows import Row

DEFAULTS: dict[str, Any] = {"seeds": 3, "tune": True, "anew": False, "device": None, "storage": None}
FULL = {"shares": [1]}  # of studies from before there were rungs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of the study, such as outputs/hybrid-cpu")
    parser.add_argument("fields", nargs="*", help="field=value, see above")
    arguments = parser.parse_args()
    with speaking_to_users(interrupted="What is trained is stored; the same command goes on."):
        asked = read_fields(arguments.fields)
        config = read_config(arguments.study)
        judgement = confirm(arguments.study, asked, config)
        text = page(judgement, str(config["study"]))
        (arguments.study / "confirmation.md").write_text(text, encoding="utf-8")
        (arguments.study / "confirmation.json").write_text(json.dumps(as_data(judgement), indent=1) + "\n", "utf-8")
        print(text)


@dataclass(frozen=True)
class Asked:
    """The fields of the command line."""

    seeds: int
    tune: bool
    anew: bool
    device: str | None
    storage: str | None


def read_fields(given: Sequence[str]) -> Asked:
    """Raises UserError for an unknown field or a value that cannot be used."""
    fields = dict(DEFAULTS)
    for argument in given:
        name, equals, text = argument.partition("=")
        if not equals:
            raise UserError(f"The argument {argument!r} must be field=value, such as seeds=5.")
        if name not in DEFAULTS:
            raise UserError(f"There is no field {name!r}. {did_you_mean(name, DEFAULTS)}")
        fields[name] = yaml.safe_load(text)
    whole("seeds", fields["seeds"], minimum=2)
    for name in ("tune", "anew"):
        if not isinstance(fields[name], bool):
            raise UserError(f"{name} must be true or false, but got {fields[name]!r}.")
    return Asked(**fields)


def confirm(directory: Path, asked: Asked, config: Mapping[str, Any]) -> "Judgement":
    """Train what is missing, and judge. Raises one of the user errors."""
    from nas.measure import choose_device
    from nas.study.confirmation import confirmed_rows
    from nas.study.judgement import judge
    from nas.study.noise import stored_floors
    from nas.study.precision import near_front
    from nas.study.retrained import agree_on_plan, read_retrained
    from nas.study.retraining import alone, open_retrainer, retrain
    from nas.study.storage import close_study, load_study
    from nas.study.trials import rows_of

    tasks = make_tasks(config["task"])
    objectives = parse_objectives(config["optimize"])
    study = load_study(directory, str(config["study"]), storage=asked.storage)
    try:
        rows = confirmed_rows(study, rows_of(study))
        trained = [row for row in rows if row.state == "complete"]
        if not trained:
            raise UserError(f"The study in {directory} has no trained design yet; search first.")
        reference = next((r for r in trained if r.origin == f"reference: {config['baseline']}"), None)
        requirements = judged_requirements(config, trained, reference)
        relative = reference is not None and any(r.relative_to_reference for r in requirements)
        floors = {floor.name: floor for floor in stored_floors(study, reference, trained)}

        def chosen(known: "Sequence[Row]") -> "list[Row]":
            base = next((r for r in known if reference is not None and r.number == reference.number), None)
            near = near_front(known, objectives, requirements, base, floors)
            return [r for r in known if r in near or (relative and r is base and r.state == "complete")]

        for task in tasks.values():
            task.prepare()
        recipes = recipes_of(config, tasks)
        minutes = config["budget"].get("trial_minutes")
        device = choose_device(str(asked.device or config["device"]))
        with (
            alone(directory),
            open_retrainer(
                tasks,
                recipes,
                device=device,
                folder=directory / "checkpoints",
                seconds=None if minutes is None else 60 * float(minutes),
            ) as trainer,
        ):
            plan = agree_on_plan(
                *(study, rows),
                seeds=asked.seeds,
                tune=asked.tune,
                deciding=deciding(tasks, [objective.name for objective in objectives]),
                anew=asked.anew,
            )
            new = retrain(study, trainer, plan, rows, chosen, Printing())
        found = {row.number: read_retrained(study.user_attrs, plan, row.id) for row in rows}
        results = {number: result for number, result in found.items() if result is not None}
        if not any(row.state == "complete" and row.number in results for row in new):
            raise UserError("Every design near the front broke when it was trained anew, so there is nothing to judge.")
        return judge(
            *(plan, new, rows, results, objectives, requirements),
            reference=None if reference is None else reference.number,
        )
    finally:
        close_study(study)


def judged_requirements(
    config: Mapping[str, Any], trained: "Sequence[Row]", reference: "Row | None"
) -> tuple[Requirement, ...]:
    """The study's requirements whose numbers are known; relative ones need the reference."""
    known = {name for row in trained for name in row.values}
    required = parse_requirements(config["require"], str(config["baseline"]))
    return tuple(r for r in required if r.name in known and (reference is not None or not r.relative_to_reference))


def recipes_of(config: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Recipe]:
    """The recipes that the search trained with."""
    rungs = config.get("fidelity", FULL)
    fidelity = fidelity_from(rungs)
    return {name: recipe_on_rungs(recipe_for(name, config["budget"]["train"]), rungs, fidelity) for name in tasks}


def deciding(tasks: Mapping[str, Task], objectives: Sequence[str]) -> dict[str, str]:
    """By task, the score that chooses its learning rate: an objective where it has one, else its first."""
    found = {}
    for name, task in tasks.items():
        scores = [metric.name for metric in task.metrics]
        found[name] = next((score for score in objectives if score in scores), scores[0])
    return found


class Printing(Observer):
    """Prints messages and nothing else."""

    def message(self, text: str) -> None:
        print(text, flush=True)


def page(judgement: "Judgement", study: str) -> str:
    """What the fresh seeds say, as Markdown."""
    plan = judgement.plan
    rates = "" if plan.tuning_seed is None else f"; learning rates chosen on seed {plan.tuning_seed}"
    lines = [
        f"# {study}, confirmed on fresh seeds",
        "",
        f"{len(judgement.designs)} designs, each trained anew on seeds {', '.join(map(str, plan.seeds))}{rates}. The "
        "search's scores are discarded. Mean with Student's 95 % interval; in brackets the rank at tuned rates, and at "
        "the table's.",
        "",
    ]
    heads = ["trial", "layers", *judgement.scores, "on the front"]
    with_bars = any(one.meets is not None for one in judgement.designs)
    heads += ["meets the requirements", "on the front among those"] if with_bars else []
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(cells(one, judgement.scores, with_bars))} |" for one in judgement.designs]
    lines += ["", "| score | sd over seeds | smallest difference it could have seen | ranks at fixed and tuned rates |"]
    lines += ["|---|---|---|---|"]
    for name in judgement.scores:
        tau = judgement.agreement[name]
        agree = "not known" if tau is None else f"Kendall's tau {tau:.2f}"
        lines.append(f"| {name} | {judgement.sd[name]:.3g} | {judgement.detectable[name]:.3g} | {agree} |")
    failures = [f"* trial {one.row.number}: {text}" for one in judgement.designs for text in one.result.failures]
    lines += ["", "Trainings that broke:", "", *failures] if failures else []
    lines += ["", "Written by `python scripts/confirm.py`; every number stands in confirmation.json.", ""]
    return "\n".join(lines)


def cells(one: "Judged", scores: Sequence[str], with_bars: bool) -> list[str]:
    """A design's line."""
    found = [str(one.row.number), diagram(one.row.architecture)]
    for name in scores:
        mean = one.tuned.get(name)
        rank = f"({one.rank_tuned[name]}, {one.rank_fixed[name]})"
        found.append("broke" if mean is None else f"{mean.mean:.4g} ({mean.low:.4g} to {mean.high:.4g}) {rank}")
    found.append(f"{one.on_front:.0%}")
    if with_bars:
        found += ["" if share is None else f"{share:.0%}" for share in (one.meets, one.on_required_front)]
    return found


def as_data(judgement: "Judgement") -> dict[str, Any]:
    """All numbers, as JSON holds them."""
    return {
        "plan": judgement.plan.to_dict(),
        "sd": dict(judgement.sd),
        "detectable": dict(judgement.detectable),
        "agreement": dict(judgement.agreement),
        "designs": [
            {
                "trial": one.row.number,
                "id": one.row.id,
                "layers": diagram(one.row.architecture),
                "factors": dict(one.result.factors),
                "searched": {name: number.value for name, number in one.searched.items()},
                "tuned": {name: asdict(mean) for name, mean in one.tuned.items()},
                "fixed": {name: asdict(mean) for name, mean in one.fixed.items()},
                "rank_tuned": dict(one.rank_tuned),
                "rank_fixed": dict(one.rank_fixed),
                "on_front": one.on_front,
                "meets": one.meets,
                "on_required_front": one.on_required_front,
                "failures": list(one.result.failures),
            }
            for one in judgement.designs
        ],
    }


if __name__ == "__main__":
    main()
