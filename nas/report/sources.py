"""What a report says of where its numbers come from, and of what disturbed them.

* A measured, counted or scored number stands bare. An estimate or a prediction is never shown as one of those: heads
  and axes name it, and each value has a tilde before it.
* A time taken on a busy machine looks like any other, so the disturbed ones are counted in sentences.
"""

from collections.abc import Iterable, Sequence

from nas.measurement import Measurement
from nas.study.rows import Row

LABELS = {"estimate": "estimate", "table": "predicted"}
APPROXIMATE = "~"

FLAGS = {
    "busy: other processes": "taken while other processes used the CPU",
    "busy:": "taken while others used the GPU",
    "throttled: the control group": "taken while a limit on CPU time held this process back",
    "throttled:": "taken while the clocks of the GPU were held down",
    "swapping:": "taken while memory was short",
    "short of memory:": "taken while memory was short",
    "conditions unknown:": "taken under conditions that could not be read",
    "stopped by the time limit": "stopped by the time limit before the median was known as well as asked",
}
"""How the notes of `nas.measure` begin that a reader must not miss, and what a sentence says of such times."""


def source_label(measurements: Iterable[Measurement]) -> str:
    """What stands beside a name: `estimate` or `predicted`, `partly predicted` where only some of the numbers are.

    Empty where all were measured, counted or scored.
    """
    found = dict.fromkeys(LABELS.get(m.source, "") for m in measurements)
    words = " and ".join(filter(None, found))
    return f"partly {words}" if words and "" in found else words


def labelled(name: str, label: str) -> str:
    """`time_per_output_token_ms (estimate)`, or the bare name."""
    return f"{name} ({label})" if label else name


def tilde(measurement: Measurement) -> str:
    """`~` before a value that was not measured, counted or scored."""
    return APPROXIMATE if measurement.source in LABELS else ""


def flags(measurement: Measurement) -> tuple[str, ...]:
    """The notes that say what disturbed a measurement or stopped it early."""
    return tuple(note for note in measurement.notes if note.startswith(tuple(FLAGS)))


def flag_sentences(rows: Sequence[Row]) -> list[str]:
    """How many of the measured times were disturbed, one sentence for each way; none where none was."""
    times = [m for row in rows for m in row.values.values() if m.unit == "ms" and m.source == "measured"]
    counts = dict.fromkeys(FLAGS.values(), 0)
    for time in times:
        for what in {_what_happened(note) for note in flags(time)}:
            counts[what] += 1
    noun = "time" if len(times) == 1 else "times"
    return [
        f"{count} of {len(times)} measured {noun} {'was' if count == 1 else 'were'} {what}."
        for what, count in counts.items()
        if count
    ]


def _what_happened(note: str) -> str:
    return next(sentence for beginning, sentence in FLAGS.items() if note.startswith(beginning))
