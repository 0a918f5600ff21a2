"""One phase of ready models timed in every way that matters, all ways in turn: ours and others' kernels, both ends.

* own: the time that our kernels take; best: that with the fastest verified implementation of each operation at hand:
  each is tried alone, and where those of several operations are faster than ours, then all of these together.
* A network whose cost depends on content is timed at both ends (`nas/measure/ends.py`); its time is that of the slower.
* On a GPU a phase of inference is replayed as a graph, as servers do; the eager time stands in the notes.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from kernels import use_substitutes
from nas.measure.clock import Call, time_together
from nas.measure.ends import ENDS, WORDS, Content, End, content_of, depends_on_content
from nas.measure.graph import CannotCapture, capture
from nas.measure.phases import phase_call
from nas.measure.rivals import Rival, first_to_accept
from nas.measurement import Measurement
from nas.model import Model
from nas.workload import Phase, TrainStep

Key = TypeVar("Key", bound=Hashable)
Way = tuple[str, End | None, str]
Functions = dict[Way, Callable[[], object]]
Rivals = Mapping[str, Sequence[Rival]]
OWN, EAGER, GRAPH = "own", "eager", "graph"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one phase: with our kernels, and with the fastest at hand, which `best_by` names."""

    own: Measurement
    best: Measurement
    best_by: str


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How carefully: seconds for one phase in all its ways, and the share to which medians are to be known.

    rivals: verified implementations by the public function that they stand for (`nas.measure.rivals`), for inference in
    the served type; training_rivals: those whose gradients were verified too, in the type of training.
    """

    seconds: float
    spread: float
    rivals: Rivals
    training_rivals: Rivals = field(default_factory=dict)

    def rivals_for(self, phase: Phase) -> Rivals:
        return self.training_rivals if isinstance(phase, TrainStep) else self.rivals

    def time(self, calls: Mapping[Key, Call | Sequence[Call]], device: torch.device) -> dict[Key, Measurement]:
        """The time of each call, all of them in turn."""
        return time_together(calls, device, seconds=self.seconds, precision=self.spread)


def time_phase(model: Model, phase: Phase, device: torch.device, effort: Effort) -> Timing:
    """Time one phase of a whole model."""
    with prepared(model, phase, device, effort.rivals_for(phase)) as calls:
        timed = effort.time(calls.functions, device)
        times = {key: timed[key] for key in calls.functions}
        joint = together(times, calls.rivals)
        if joint is not None:
            again = effort.time(calls.beside_own(joint), device)
            times |= relative_to_own(again, times)
    return summary(times, calls.notes)


def time_difference(
    few: Model, many: Model, repeats: int, phase: Phase, device: torch.device, effort: Effort
) -> Timing:
    """The time of one of the `repeats` blocks that `many` has beyond `few`.

    Every block has weights and state of its own, so none finds its data in a cache that another would have emptied.
    """

    def differences(first: Functions, second: Functions) -> dict[Way, Measurement]:
        both: dict[Any, Callable[[], object]] = {(0, key): call for key, call in first.items()}
        both |= {(1, key): call for key, call in second.items()}
        times = effort.time(both, device)
        return {
            key: per_block(times[0, key], times[1, key], repeats)
            for key in second
            if (0, key) in times and (1, key) in times
        }

    with (
        prepared(few, phase, device, effort.rivals_for(phase)) as first,
        prepared(many, phase, device, effort.rivals_for(phase)) as second,
    ):
        times = differences(first.functions, second.functions)
        joint = together(times, second.rivals)
        if joint is not None:
            times |= relative_to_own(differences(first.beside_own(joint), second.beside_own(joint)), times)
    return summary(times, second.notes)


def time_in_rotation(models: Sequence[Model], phase: Phase, device: torch.device, effort: Effort) -> Measurement:
    """The time of one of several equal models, run in turn so that each finds its weights where a new one would."""
    calls: list[Callable[[], object]] = [phase_call(model, phase, device) for model in models]
    notes: tuple[str, ...] = ()
    if device.type == "cuda" and not isinstance(phase, TrainStep):
        try:
            calls = [capture(call, device) for call in calls]
        except CannotCapture as error:
            notes = (f"no graph: {error}",)
    time = effort.time({OWN: calls}, device)[OWN]
    return replace(time, notes=(*time.notes, *notes))


def per_block(few: Measurement, many: Measurement, repeats: int) -> Measurement:
    """The difference of two times over `repeats` blocks, with the spread that both leave; never below 0, and told."""
    difference = many.value - few.value
    value = max(0.0, difference) / repeats
    width = ((few.high - few.low) ** 2 + (many.high - many.low) ** 2) ** 0.5 / repeats / 2
    lost = () if difference > 0 else (f"more blocks took no longer ({difference:.3g} ms): lost in the spread",)
    notes = (*many.notes, *lost)
    low = max(0.0, value - width)
    return replace(many, value=value, low=low, high=value + width, n=min(few.n, many.n), notes=notes)


@dataclass(frozen=True)
class Joint:
    """The fastest rivals of several functions at once, by their names joined."""

    way: str
    substitutes: Mapping[str, Callable[..., Any]]


@dataclass
class Calls:
    """What `prepared` made ready: one function for each way, the rivals among them, and notes about ways not open.

    opened: makes the functions of a further way.
    """

    functions: Functions
    rivals: Sequence[Rival]
    notes: list[str]
    opened: Callable[[str, Mapping[str, Callable[..., Any]]], Functions]

    def beside_own(self, joint: Joint) -> Functions:
        """The functions of our kernels, and those with these rivals together."""
        own = {key: call for key, call in self.functions.items() if key[0] == OWN}
        return own | self.opened(joint.way, joint.substitutes)


@contextmanager
def prepared(model: Model, phase: Phase, device: torch.device, rivals: Rivals) -> Iterator[Calls]:
    """Every way to run the phase on the model, ready to be timed while the context lasts."""
    with ExitStack() as stack:
        content = stack.enter_context(content_of(model))
        ends: tuple[End | None, ...] = ENDS if depends_on_content(model) else (None,)
        call = phase_call(model, phase, device)
        notes: list[str] = []

        def opened(way: str, substitutes: Mapping[str, Callable[..., Any]]) -> Functions:
            functions: Functions = {}
            for end in ends:
                eager = in_this_way(call, content, end, substitutes)
                functions[way, end, EAGER] = eager
                if device.type == "cuda" and not isinstance(phase, TrainStep):
                    try:
                        functions[way, end, GRAPH] = capture(eager, device)
                    except CannotCapture as error:
                        notes.append(f"no graph: {error}")
            return functions

        at_hand = rivals_of(call, rivals)
        functions = opened(OWN, {})
        for rival in at_hand:
            functions |= opened(rival.name, {rival.function: rival.call})
        yield Calls(functions, at_hand, notes, opened)


def together(times: Mapping[Way, Measurement], rivals: Sequence[Rival]) -> Joint | None:
    """Of every function the rivals that alone were faster than ours, the fastest first; None for fewer than two."""
    names = {way for way, _, _ in times}
    taken = {rival.name: slower_end(times, rival.name).value for rival in rivals if rival.name in names}
    own = slower_end(times, OWN).value
    faster: dict[str, list[Rival]] = {}
    for rival in sorted(rivals, key=lambda rival: taken.get(rival.name, own)):
        if taken.get(rival.name, own) < own:
            faster.setdefault(rival.function, []).append(rival)
    if len(faster) < 2:
        return None
    way = " + ".join(of_function[0].name for of_function in faster.values())
    return Joint(way, {function: first_to_accept(of_function) for function, of_function in faster.items()})


def relative_to_own(again: Mapping[Way, Measurement], first: Mapping[Way, Measurement]) -> dict[Way, Measurement]:
    """The times of a second round but ours, as they would have been in the first, by what ours took in both."""
    found: dict[Way, Measurement] = {}
    for (way, end, how), time in again.items():
        before, now = first.get((OWN, end, how)), again.get((OWN, end, how))
        if way != OWN and before is not None and now is not None and now.value > 0:
            factor = before.value / now.value
            found[way, end, how] = replace(
                time, value=time.value * factor, low=time.low * factor, high=time.high * factor
            )
    return found


def in_this_way(
    call: Callable[[], object], content: Content, end: End | None, substitutes: Mapping[str, Callable[..., Any]]
) -> Callable[[], object]:
    def run() -> object:
        content.end = end
        if not substitutes:
            return call()
        with use_substitutes(substitutes):
            return call()

    return run


def rivals_of(call: Callable[[], object], rivals: Rivals) -> list[Rival]:
    """The rivals of the operations that a call uses. Runs it once."""
    used: set[str] = set()

    def remember(operation: str) -> Callable[..., Any]:
        def note(*_: Any, **__: Any) -> Any:
            used.add(operation)
            return NotImplemented

        return note

    with use_substitutes({operation: remember(operation) for operation in rivals}):
        call()
    return [rival for operation in sorted(used) for rival in rivals[operation]]


def summary(times: Mapping[Way, Measurement], notes: Sequence[str]) -> Timing:
    """Own and best time of a phase from the times of all its ways."""
    by_way = {way: slower_end(times, way) for way in dict.fromkeys(way for way, _, _ in times)}
    best_by = min(by_way, key=lambda way: by_way[way].value)
    own = replace(by_way[OWN], notes=(*by_way[OWN].notes, *dict.fromkeys(notes)))
    best = replace(by_way[best_by], notes=(*by_way[best_by].notes, f"fastest: {best_by}"))
    return Timing(own=own, best=best, best_by=best_by)


def slower_end(times: Mapping[Way, Measurement], way: str) -> Measurement:
    """The time of the slower end of one way, replayed as a graph where there is one; the rest in the notes."""
    of_way: list[tuple[End | None, str, Measurement]] = [
        (end, how, time) for (w, end, how), time in times.items() if w == way
    ]
    eager: dict[End | None, Measurement] = {end: time for end, how, time in of_way if how == EAGER}
    graphs: dict[End | None, Measurement] = {end: time for end, how, time in of_way if how == GRAPH}
    found = eager | graphs
    slowest = max(found, key=lambda end: found[end].value)
    notes = list(found[slowest].notes)
    if found[slowest] is not eager[slowest]:
        notes.append(f"replayed as a graph; eager {eager[slowest].value:.4g} ms")
    notes += [f"{time.value:.4g} ms with {WORDS[end]}" for end, time in found.items() if end is not None]
    return replace(found[slowest], notes=tuple(notes))
