"""Latency: how long the deployed network takes on the device at hand, each phase on its own.

Prefill and decode are never added up: they are bound by different things (arithmetic, memory bandwidth), and which of
them matters is the user's to say.
"""

from nas.measurement import Measurement
from nas.objectives.base import Candidate, Objective, lookup


def measured(name: str, unit: str, help: str) -> Objective:
    """An objective, less is better, that measuring gives under `name`."""

    def read(candidate: Candidate) -> Measurement:
        return lookup(name, candidate.measurements, "the measurements")

    return Objective(name=name, unit=unit, direction="minimize", stage="measure", help=help, read=read)


DECODE_LATENCY = measured("decode_latency_ms", "ms", "time of one decoding step (one new token) at the stated context")
PREFILL_LATENCY = measured("prefill_latency_ms", "ms", "time to read the stated prompt")
