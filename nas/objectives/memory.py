"""Memory: what one more sequence costs, and what the whole deployed network takes at its peak.

Bytes per sequence is the primary form. Parameters are matched, so the peak of one sequence is weights, equal for all,
plus a rest in which designs differ; the cache and state of a sequence hold that difference alone, are exact, and say
how many sequences fit on a device.
"""

from nas.measurement import Measurement
from nas.objectives.base import Candidate, Objective
from nas.objectives.latency import measured


def sequence_bytes(candidate: Candidate) -> Measurement:
    return Measurement.exact(candidate.counts.sequence_bytes, "bytes")


SEQUENCE_BYTES = Objective(
    name="sequence_bytes",
    unit="bytes",
    direction="minimize",
    stage="count",
    help="KV cache and recurrent state of one sequence at the stated context",
    read=sequence_bytes,
)
PEAK_MEMORY = measured("peak_memory_bytes", "bytes", "weights, state and activations at the peak of prefill and decode")
