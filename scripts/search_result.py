"""What a search leaves: the result that reports show, and the files of it in the study's folder."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.architecture import Loss
from nas.deployment import Deployment
from nas.measure import choose_device, describe_device, device_name
from nas.objectives import OBJECTIVES, Objective
from nas.report import write_front, write_page, write_plot, write_trials
from nas.study.errors import StudyError
from nas.study.events import Observer
from nas.study.front import hypervolume, losses
from nas.study.loop import Loop
from nas.study.robust import robust_members
from nas.study.rows import NoiseFloor, Row, StudyResult
from scripts.settings import SearchSettings

LOSSES: Mapping[Loss, str] = {
    "causal": "causal",
    "masked_diffusion": "masked diffusion: losses on text are bounds from above, a token costs a pass over the text",
}


def make_result(
    settings: SearchSettings, loop: Loop, noise: tuple[NoiseFloor, ...], costs: Mapping[str, Any], start: float
) -> StudyResult:
    """Everything that a report shows."""
    rows = tuple(loop.rows)
    front, required = loop.bars.fronts(rows)
    reference = loop.bars.reference_row(rows)
    seconds = time.perf_counter() - start
    return StudyResult(
        study=settings.study,
        rows=rows,
        front=front,
        front_required=required,
        robust=robust_members(rows, settings.objectives),
        reference=None if reference is None else reference.number,
        noise=noise,
        hypervolume=dominated_volume(rows, settings.objectives),
        settings={
            "loss": LOSSES[settings.space.loss],
            "sampler": settings.sampler["name"],
            "trials": settings.trials,
            "rungs": list(settings.fidelity.shares) if settings.fidelity.top else "none, full trainings",
            "tasks": {name: task.describe() for name, task in settings.tasks.items()},
            "training": {name: settings.definition["train"][name] for name in settings.tasks},
            "proxy parameters": settings.parameters or "not matched",
            "deployment": {k: v for k, v in settings.definition["measure"].items() if v is not None},
            "costs": dict(costs),
            "seed": settings.seed,
        },
        environment=describe_device(choose_device(settings.device)) | {"measured on": measured_on(settings.deployment)},
        seconds=seconds,
        tool_seconds=seconds - loop.work_seconds,
    )


def dominated_volume(rows: Sequence[Row], objectives: Sequence[Objective]) -> float | None:
    """Hypervolume of the trained rows, each objective scaled so that the reference designs span 0 to 1.

    The bounding point lies a tenth beyond their worst. None with fewer than two reference designs. An objective in
    which all rows are equal (the memory of a sequence, where nothing of it is kept) is left out.
    """
    references = [row for row in rows if row.is_reference and row.state == "complete"]
    if len(references) < 2:
        return None
    complete = losses([row for row in rows if row.state == "complete"], objectives)
    differ = np.ptp(complete, axis=0) > 0
    anchors, complete = losses(references, objectives)[:, differ], complete[:, differ]
    low, span = anchors.min(axis=0), np.ptp(anchors, axis=0)
    if np.any(span == 0) or not differ.any():
        return None
    return hypervolume((complete - low) / span, np.full(differ.sum(), 1.1))


def shown(settings: SearchSettings) -> tuple[Objective, ...]:
    """Objectives, then required, limited, timed and scored numbers that are no objectives."""
    names = [o.name for o in settings.objectives] + [r.name for r in settings.requirements]
    names += [limit.name for limit in settings.limits] + list(settings.deployment.quantities)
    names += [metric.name for task in settings.tasks.values() for metric in task.metrics]
    return tuple(OBJECTIVES[name] for name in dict.fromkeys(names))


def measured_on(deployment: Deployment) -> str:
    """The name of the device whose costs count."""
    return device_name(choose_device(deployment.device)) if deployment.spec is None else deployment.spec.name


def write_files(directory: Path, result: StudyResult, settings: SearchSettings, loop: Loop) -> tuple[Path, ...]:
    """trials.csv, front.csv, front.png and front.html."""
    quantities = shown(settings)
    names = ("trials.csv", "front.csv", "front.png", "front.html")
    trials, front, plot, page = (directory / name for name in names)
    requirements = loop.bars.applicable(loop.rows)
    with writing(directory):
        write_trials(trials, result.rows, quantities)
        write_front(front, result, quantities)
        write_plot(plot, result, settings.objectives, requirements)
        write_page(page, result, settings.objectives, requirements)
    return trials, front, plot, page


@dataclass
class TrialsTable(Observer):
    """Keeps trials.csv up to date, so that a killed run leaves it behind; says so where it cannot."""

    path: Path
    quantities: Sequence[Objective]
    loop: Loop

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        try:
            write_trials(self.path, self.loop.rows, self.quantities)
        except OSError as error:
            self.loop.observer.message(
                f"{self.path} could not be brought up to date ({error.strerror or error}); trial {row.number} is kept"
            )


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Around what writes into the study's folder: a disk that is full or gone is one sentence."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"A file could not be written into {directory} ({error.strerror or error}); every finished trial is kept: "
            "make room, and the same command goes on."
        ) from None
