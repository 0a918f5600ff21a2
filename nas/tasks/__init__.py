"""Tasks by name, and the one way from plain options to a task."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches

from nas.tasks.base import Batch as Batch
from nas.tasks.base import Metric as Metric
from nas.tasks.base import Score as Score
from nas.tasks.base import Task as Task
from nas.tasks.base import TaskError as TaskError
from nas.tasks.compression import CompressionTask as CompressionTask
from nas.tasks.fuzzy_recall import FuzzyRecallTask as FuzzyRecallTask
from nas.tasks.in_context_recall import InContextRecallTask as InContextRecallTask
from nas.tasks.memorisation import MemorisationTask as MemorisationTask
from nas.tasks.mixed import MixedTask as MixedTask
from nas.tasks.noisy_recall import NoisyRecallTask as NoisyRecallTask
from nas.tasks.parity import ParityTask as ParityTask
from nas.tasks.recall import RecallTask as RecallTask
from nas.tasks.recall_capacity import RecallCapacityTask as RecallCapacityTask
from nas.tasks.s3 import S3Task as S3Task
from nas.tasks.selective_copying import SelectiveCopyingTask as SelectiveCopyingTask
from nas.tasks.text import TextTask as TextTask
from nas.tasks.text import cache_folder as cache_folder

TASKS: dict[str, type[Task]] = {
    "text": TextTask,
    "recall": RecallTask,
    "mixed": MixedTask,
    "recall_capacity": RecallCapacityTask,
    "in_context_recall": InContextRecallTask,
    "fuzzy_recall": FuzzyRecallTask,
    "noisy_recall": NoisyRecallTask,
    "selective_copying": SelectiveCopyingTask,
    "compression": CompressionTask,
    "memorisation": MemorisationTask,
    "parity": ParityTask,
    "s3": S3Task,
}


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """A task from its name and options. Raises TaskError, one sentence, for what does not hold."""
    if name not in TASKS:
        raise TaskError(f"Unknown task {name!r}. {_nearest(str(name), list(TASKS))}")
    cls = TASKS[name]
    check_options(cls, options, f"task {name!r}")
    given = dict(options)
    if cls is MixedTask:
        for part in ("text", "recall"):
            given[part] = _part_of_mixed(part, options.get(part))
    return cls(**given)  # type: ignore[arg-type]


def make_tasks(config: Mapping[str, object]) -> dict[str, Task]:
    """The tasks of a `conf/task` file, each of which gets its own training run.

    Raises TaskError for what does not hold, and for two tasks that give the same metric: a row of a study holds each
    number once.
    """
    tasks = {key: _from_run(run) for key, run in task_configs(config).items()}
    first: dict[str, str] = {}
    for key, task in tasks.items():
        for metric in task.metrics:
            if metric.name in first:
                raise TaskError(
                    f"Tasks that run together must score different numbers, but {first[metric.name]!r} and {key!r} "
                    f"both score {metric.name}; keep one of them, or search them one after the other."
                )
            first[metric.name] = key
    return tasks


def task_configs(config: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The plain configuration of each task of a `conf/task` file, by the key it is shown with.

    The file either is one task (`name` and its options) or holds several under `runs`. Each configuration is such a
    file of one task again, so it can be stored with what the task trained.
    """
    if "runs" not in config:
        return {str(config.get("name")): dict(config)}
    runs = config["runs"]
    if not isinstance(runs, Mapping) or not runs or not all(isinstance(run, Mapping) for run in runs.values()):
        raise TaskError(f"task.runs must hold at least one task by name, but got {runs!r}.")
    return {str(key): dict(run) for key, run in runs.items()}


def check_options(cls: type, options: Mapping[str, object], where: str) -> None:
    """Raise TaskError for an option that the constructor of `cls` does not know."""
    valid = list(inspect.signature(cls).parameters)
    for name in options:
        if name not in valid:
            raise TaskError(f"Unknown option {name!r} of {where}. {_nearest(str(name), valid)}")


def _from_run(run: Mapping[str, object]) -> Task:
    if "name" not in run:
        raise TaskError(f"A task needs a name, one of {', '.join(TASKS)}, but got only {', '.join(map(str, run))}.")
    return make_task(str(run["name"]), {key: value for key, value in run.items() if key != "name"})


def _part_of_mixed(part: str, options: object) -> dict[str, object]:
    """The options of one half of the mixed task; the file of that task, which carries its name, serves as it is."""
    if not isinstance(options, Mapping):
        raise TaskError(f"task 'mixed' needs the options of {part!r} as a mapping, but got {options!r}.")
    given = {key: value for key, value in options.items() if key != "name"}
    check_options(TASKS[part], given, f"{part!r} of task 'mixed'")
    return given


def _nearest(name: str, valid: list[str]) -> str:
    near = get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Valid: {', '.join(sorted(valid))}."
