"""Latency: how long the deployed network takes, each phase on its own.

Phases are never added up: they are bound by different things (arithmetic, memory bandwidth, launches), and which of
them matters is the user's to say.
"""

from nas.measurement import Measurement
from nas.objectives.base import Candidate, Direction, Objective, lookup


def measured(name: str, unit: str, help: str, direction: Direction = "minimize") -> Objective:
    """An objective that measuring gives under `name`."""

    def read(candidate: Candidate) -> Measurement:
        return lookup(name, candidate.measurements, "the measurements")

    return Objective(name=name, unit=unit, direction=direction, stage="measure", help=help, read=read)


TIME_TO_FIRST_TOKEN = measured(
    "time_to_first_token_ms", "ms", "serve: reading one prompt, up to the logits of the first new token"
)
TIME_PER_OUTPUT_TOKEN = measured(
    "time_per_output_token_ms", "ms", "serve: one decoding step of all sequences, in the middle of their answers"
)
PREFILL_LATENCY = measured("prefill_latency_ms", "ms", "prefill: reading a batch of prompts")
DECODE_LATENCY = measured("decode_latency_ms", "ms", "decode: one new token of one sequence at the stated context")
BATCHED_DECODE_LATENCY = measured("batched_decode_latency_ms", "ms", "decode: the same for a batch of sequences")
TRAIN_STEP = measured("train_step_ms", "ms", "train_step: forward, backward and optimizer step on a batch")
