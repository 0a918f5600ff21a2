"""The design that relative requirements refer to: what can be said of them before it is trained, and once it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.architecture import Architecture
from nas.objectives import Requirement
from nas.study.bars import Bars
from nas.study.candidate import Evaluator
from nas.study.errors import StudyError
from nas.study.events import Observer
from nas.study.guidance import keeps_limits
from nas.study.rows import Row
from search_spaces.picks import Given


def relative(bars: Bars) -> tuple[Requirement, ...]:
    """The requirements that refer to the baseline."""
    return tuple(requirement for requirement in bars.requirements if requirement.relative_to_reference)


def tell_of_baseline(bars: Bars, first: str, placed: Sequence[str], progress: Observer) -> None:
    """Say what relative requirements refer to where it is not the `first` of the references, and which of them cannot
    be judged, because no trial can be the baseline. placed: the reference designs that lie in the space."""
    if bars.reference in placed:
        if bars.reference != first and relative(bars):
            progress.message(f"{first} does not lie in this space: requirements are relative to {bars.reference}")
        return
    choice = f"choose baseline={'|'.join(placed)}" if placed else "add a design of this space to references"
    for requirement in relative(bars):
        progress.message(
            f"require.{requirement.name} is relative to {bars.reference}, which does not lie in this space: no design "
            f"will be said to meet it; {choice}, or set require.{requirement.name}=null"
        )


def refuse_excluded_baseline(
    bars: Bars,
    evaluator: Evaluator,
    space: Callable[[Any], Architecture],
    references: Sequence[tuple[str, Mapping[str, Any]]],
) -> None:
    """Raise StudyError where limits on what counting tells leave out the baseline that a requirement is relative to.

    references: names and parameters of the reference designs in the space.
    """
    params = dict(references).get(bars.reference)
    if params is None or not relative(bars):
        return
    architecture = space(Given(params))
    for limit in bars.limits:
        if limit.objective.stage == "count" and not keeps_limits(evaluator, [limit], architecture):
            name = relative(bars)[0].name
            raise StudyError(
                f"limits.{limit.name}={limit.bound:g} leaves out {bars.reference}, which require.{name} is relative "
                f"to, so that no design could be said to meet it; raise the limit, choose another baseline=..., or set "
                f"require.{name}=null."
            )


class OutOfReach(Observer):
    """Says, as soon as the baseline is trained, which bars on shares lie above 1, where nothing comes."""

    def __init__(self, bars: Bars, rows: Sequence[Row], progress: Observer) -> None:
        self.bars = bars
        self.progress = progress
        if (known := bars.reference_row(rows)) is not None:
            self._tell(known)

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        if self.bars.reference_row([row]) is not None:
            self._tell(row)

    def _tell(self, row: Row) -> None:
        for requirement in relative(self.bars):
            reached = row.values[requirement.name]
            level = requirement.level(reached)
            if requirement.objective.unit == "share" and level > 1:
                self.progress.message(
                    f"require.{requirement.name}={requirement.bound:g} asks for {level:.3g}, since "
                    f"{self.bars.reference} reaches {reached.value:.3g}, but a share is at most 1: no design can meet "
                    f"it; lower it to {1 / reached.value:.3g} or less"
                )
