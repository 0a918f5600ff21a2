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
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import did_you_mean
from nas.objectives import parse_objectives, parse_requirements
from nas.study.events import Observer
from nas.tasks import Task, make_tasks
from nas.training.recipe import Recipe
from scripts.command_line import UserError, speaking_to_users
from scripts.config_values import minutes, whole
from scripts.settings import fidelity_from, recipe_for, recipe_on_rungs
from scripts.study_config import field_value, read_study_config

if TYPE_CHECKING:
    from nas.report import Progress
    from nas.study.bars import Bars
    from nas.study.confirmation.judgement import Judgement
    from nas.study.loop import Loop
    from nas.study.training.evaluator import ProxyEvaluator
    from scripts.settings import SearchSettings

DEFAULTS: dict[str, Any] = {"seeds": 3, "tune": True, "anew": False, "device": None, "storage": None}
READ = ("task", "budget", "device", "require", "baseline", "optimize")
FULL = {"shares": [1]}  # of studies from before there were rungs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of the study, such as outputs/hybrid-cpu")
    parser.add_argument("fields", nargs="*", help="field=value, see above")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Every finished training is kept; the same command goes on from here."):
        asked = read_fields(arguments.fields)
        config = read_study_config(arguments.study, READ)
        report(arguments.study, str(config["study"]), confirm(arguments.study, asked, config), print)


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
        name, equals, _ = argument.partition("=")
        if not equals:
            raise UserError(f"The argument {argument!r} must be field=value, such as seeds=5.")
        if name not in DEFAULTS:
            raise UserError(f"There is no field {name!r}. {did_you_mean(name, DEFAULTS)}")
        fields[name] = field_value(argument)
    whole("seeds", fields["seeds"], minimum=2)
    for name in ("tune", "anew"):
        if not isinstance(fields[name], bool):
            raise UserError(f"{name} must be true or false, but got {fields[name]!r}.")
    return Asked(**fields)


def give_up(reason: str) -> None:
    """End this process, in which a training hangs. To be called in another thread."""
    print(f"error: {reason}; what was trained is kept, and the same command goes on.", file=sys.stderr, flush=True)
    os._exit(1)


def confirm(directory: Path, asked: Asked, config: Mapping[str, Any]) -> "Judgement":
    """Train what is missing, and judge. Raises one of the user errors."""
    tasks = make_tasks(config["task"])
    recipes = recipes_of(config, tasks)
    time_limit = minutes("budget.trial_minutes", config["budget"].get("trial_minutes"))

    from nas.measure import choose_device
    from nas.study.confirmation.confirming import confirm_study, deciding_scores
    from nas.study.confirmation.retraining import alone, open_retrainer
    from nas.study.gpu_claim import claimed_gpus
    from nas.study.storage.studies import close_study, load_study

    bars = bars_of(config, tasks)
    device = str(asked.device or config["device"])
    study = load_study(directory, str(config["study"]), storage=asked.storage)
    try:
        devices = int(config.get("devices_per_trial", 1))
        with alone(directory), claimed_gpus(device, int(config.get("workers_per_gpu", 1)), devices):
            for task in tasks.values():
                task.prepare()
            with open_retrainer(
                tasks,
                recipes,
                device=choose_device(device),
                folder=directory / "checkpoints",
                seconds=None if time_limit is None else 60 * time_limit,
                devices=devices,
                strategy=str(config.get("strategy", "auto")),
                on_hang=give_up,
            ) as trainer:
                return confirm_study(
                    study,
                    trainer,
                    bars,
                    seeds=asked.seeds,
                    tune=asked.tune,
                    deciding=deciding_scores(tasks, bars.objectives, [r.objective for r in bars.requirements]),
                    anew=asked.anew,
                    observer=Printing(),
                )
    finally:
        close_study(study)


def confirm_at_end(settings: "SearchSettings", loop: "Loop", evaluator: "ProxyEvaluator", progress: "Progress") -> None:
    """Confirm what a search has found, with what it has open; a confirmation that was begun before goes on as it began.

    The search is over and reported: what keeps it from being confirmed is told and breaks nothing.
    """
    from nas.study.confirmation.confirming import confirm_study, deciding_scores
    from nas.study.confirmation.retrained import current_plan
    from nas.study.confirmation.retraining import Retrainer, alone
    from nas.study.errors import StorageLost, StudyError
    from nas.study.training.evaluator import forget

    begun = current_plan(loop.study)
    try:
        with alone(settings.directory):
            judgement = confirm_study(
                loop.study,
                Retrainer.of(evaluator),
                loop.bars,
                seeds=settings.confirm_seeds if begun is None else len(begun.seeds),
                tune=begun is None or begun.tuning_seed is not None,
                deciding=deciding_scores(
                    settings.tasks, settings.objectives, [r.objective for r in settings.requirements]
                ),
                anew=False,
                observer=progress,
            )
    except StorageLost:
        raise
    except StudyError as error:
        progress.message(f"not confirmed: {error}")
        return
    forget(evaluator.checkpoints)

    def say(text: str) -> None:
        progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    report(settings.directory, settings.study, judgement, say)


def bars_of(config: Mapping[str, Any], tasks: Mapping[str, Task]) -> "Bars":
    """What the study optimises and requires; a required score that no task of it gives is left out."""
    from nas.study.bars import Bars

    scored = {metric.name for task in tasks.values() for metric in task.metrics}
    required = parse_requirements(config["require"], str(config["baseline"]))
    return Bars(
        objectives=parse_objectives(config["optimize"]),
        requirements=tuple(r for r in required if r.objective.stage != "train" or r.name in scored),
        limits=(),
        reference=str(config["baseline"]),
    )


def recipes_of(config: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Recipe]:
    """The recipes that the search trained with."""
    rungs = config.get("fidelity", FULL)
    fidelity = fidelity_from(rungs)
    return {name: recipe_on_rungs(recipe_for(name, config["budget"]["train"]), rungs, fidelity) for name in tasks}


class Printing(Observer):
    """Prints messages and nothing else."""

    def message(self, text: str) -> None:
        print(text, flush=True)


def report(directory: Path, study: str, judgement: "Judgement", say: Callable[[str], None]) -> None:
    """Write the confirmation into the study's folder and tell it."""
    from nas.report import confirmation_text, write_confirmation

    say(confirmation_text(study, judgement))
    for path in write_confirmation(directory, study, judgement):
        say(f"written {path}")


if __name__ == "__main__":
    main()
