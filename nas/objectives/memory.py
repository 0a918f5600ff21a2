"""Memory: what one more sequence costs, and what the whole deployed network takes at its peak.

Bytes per sequence, and how many sequences fit, are the primary forms. Parameters are matched, so the peak of one
sequence is weights, equal for all, plus a rest in which designs differ; the cache and state of a sequence hold that
difference alone, are exact, and say how many sequences fit on a device.
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
SEQUENCES_THAT_FIT = measured(
    "sequences_that_fit",
    "sequences",
    "sequences of the stated context that the device holds beside weights and work space",
    "maximize",
)
PEAK_MEMORY = measured(
    "peak_memory_bytes", "bytes", "inference: weights, state and work space allocated at the peak of the phases"
)
PEAK_RESERVED = measured(
    "peak_reserved_bytes",
    "bytes",
    "inference: what the process takes from the system at its peak: reserved on a GPU, resident on a CPU",
)
TRAIN_PEAK_MEMORY = measured(
    "train_peak_memory_bytes", "bytes", "train_step: weights, gradients, optimizer and activations at the peak"
)
TRAIN_PEAK_RESERVED = measured(
    "train_peak_reserved_bytes",
    "bytes",
    "train_step: what the process takes from the system at its peak: reserved on a GPU, resident on a CPU",
)
OPTIMIZER_BYTES = measured("optimizer_bytes", "bytes", "train_step: the state of the optimizer")
SAVED_FOR_BACKWARD = measured("saved_for_backward_bytes", "bytes", "train_step: activations kept for the backward pass")
