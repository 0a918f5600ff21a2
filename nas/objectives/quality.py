"""Quality: what a trained proxy scores on its tasks. Each task trains its own copy of the architecture.

Every metric of every task is an objective, with the unit, direction and meaning that the task gives it.
"""

from nas.measurement import Measurement
from nas.objectives.base import Candidate, Objective, lookup
from nas.tasks import TASKS, Metric


def score(metric: Metric) -> Objective:
    """The objective that reads what a task's evaluation gives under the metric's name."""

    def read(candidate: Candidate) -> Measurement:
        return lookup(metric.name, candidate.scores, "the tasks")

    return Objective(
        name=metric.name, unit=metric.unit, direction=metric.direction, stage="train", help=metric.help, read=read
    )


QUALITY: dict[str, Objective] = {metric.name: score(metric) for task in TASKS.values() for metric in task.metrics}
"""By name; a metric that two tasks share stands once."""
