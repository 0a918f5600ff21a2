"""Measures one architecture as it will be deployed: latency of prefill and decode, peak memory, bytes per sequence."""

import torch

from nas.architecture import Architecture
from nas.count import count
from nas.measure.clock import time_call
from nas.measure.device import choose_device, choose_dtype, pinned_threads
from nas.measure.memory import check_fits, out_of_memory_is_a_result, peak_bytes, storage_bytes
from nas.measure.random_model import random_model
from nas.measure.workloads import Phases
from nas.measurement import Measurement
from nas.workload import Deployment

SHARE_OF_A_PHASE = 0.4  # of the time for one candidate; building the model and weighing it take about the rest


def measure_model(architecture: Architecture, deployment: Deployment) -> dict[str, Measurement]:
    """Numbers of a deployed architecture (see `nas.count.deployed`), by the names of the objectives.

    prefill_latency_ms: one batch of prompts. decode_latency_ms: one token for each sequence of the batch, at the
    context. peak_memory_bytes: weights, state and activations at the peak of both. sequence_bytes: the state of one
    sequence at the context, as allocated. Raises DoesNotFit; leaves nothing on the device.
    """
    device = choose_device(deployment.device)
    dtype = choose_dtype(deployment.dtype, device)
    workload = deployment.workload
    counts = count(architecture, workload, dtype=dtype)
    check_fits(counts.weight_bytes + workload.batch * counts.sequence_bytes, "The weights and the state", device)
    with out_of_memory_is_a_result(device), pinned_threads(deployment.threads), torch.inference_mode():
        return _measure(Phases(random_model(architecture, device, dtype), workload, device), deployment.seconds)


def _measure(phases: Phases, seconds: float) -> dict[str, Measurement]:
    model, workload, device = phases.model, phases.workload, phases.device
    weights = storage_bytes([*model.parameters(), *model.buffers()])
    prefill = time_call(phases.read_prompt, device, seconds=seconds * SHARE_OF_A_PHASE)
    prefill_bytes = peak_bytes(phases.read_prompt, device)
    state = phases.read_context()
    decode_bytes = storage_bytes(state) + peak_bytes(phases.decoding(state), device)
    decode = time_call(phases.decoding(state), device, seconds=seconds * SHARE_OF_A_PHASE)
    sequence = storage_bytes(model.init_state(1, workload.context))
    return {
        "prefill_latency_ms": prefill,
        "decode_latency_ms": decode,
        "peak_memory_bytes": Measurement.exact(weights + max(prefill_bytes, decode_bytes), "bytes"),
        "sequence_bytes": Measurement.exact(sequence, "bytes"),
    }
