"""A fixed piece of work that is timed beside every measurement on a CPU, so that the machine's pace can be told apart.

Other guests of a host share its memory and its clock: the same network takes some percent more for seconds or minutes,
and no count that a guest can read shows it. The metronome slows down with it (`docs/benchmarks/measurement.md`), so
times are divided by the pace: what the metronome takes now over what it usually takes on this device.

It reads matrices for one vector, as decoding reads weights, more of them than a core's own cache holds. On a GPU there
is none: clocks are read there, and nobody shares the memory.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import torch

from nas.measure.clock import Call, time_call, time_together
from nas.measurement import Measurement

Key = TypeVar("Key", bound=Hashable)

MATRICES, ROWS, COLUMNS = 11, 640, 1136  # 32 MB
PASSES = 3  # some milliseconds: long enough to tell the pace, short beside what it is timed with
NOTICEABLE = 0.01
BEAT = "metronome"


@cache
def beat() -> Call:
    """The work, with its buffers, which live as long as the process."""
    matrices = [torch.full((ROWS, COLUMNS), 0.5) for _ in range(MATRICES)]
    vector = torch.ones(1, ROWS)

    def run() -> None:
        with torch.inference_mode():
            for matrix in matrices * PASSES:
                vector @ matrix

    return run


def usual_beat(seconds: float) -> float:
    """Milliseconds of the metronome, taken as the machine's usual pace."""
    return round(time_call(beat(), torch.device("cpu"), seconds=seconds, precision=0.001).value, 4)


def time_at_usual_pace(
    calls: Mapping[Key, Call | Sequence[Call]],
    device: torch.device,
    *,
    usual: float | None,
    seconds: float,
    precision: float,
) -> dict[Key, Measurement]:
    """`time_together` with the pace of the machine taken out; `usual` is the metronome's usual time, None for none."""
    if usual is None or device.type != "cpu":
        return time_together(calls, device, seconds=seconds, precision=precision)
    both: dict[Hashable, Call | Sequence[Call]] = {BEAT: beat()}
    both |= {(BEAT, key): call for key, call in calls.items()}
    times = time_together(both, device, seconds=seconds, precision=precision)
    pace = times[BEAT].value / usual
    return {key: at_pace(times[BEAT, key], pace) for key in calls}


def at_pace(time: Measurement, pace: float) -> Measurement:
    """A time as it would be at the usual pace; a note says so where it makes a difference."""
    notes = time.notes
    if abs(pace - 1) > NOTICEABLE:
        notes = (*notes, f"corrected for the machine's pace: it took {pace:.2f} times its usual time")
    return replace(time, value=time.value / pace, low=time.low / pace, high=time.high / pace, notes=notes)
