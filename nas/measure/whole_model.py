"""Measures one architecture as it will be deployed: every wanted phase, and memory in inference and in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from nas.architecture import Architecture
from nas.count import count_parameters, count_state_bytes, longest_context
from nas.deployment import CostModel, Deployment
from nas.devices import DeviceSpec
from nas.measure.conditions import check_idle, watch
from nas.measure.device import DTYPES, choose_device, choose_dtype, pinned_threads
from nas.measure.memory import (
    DoesNotFit,
    available_bytes,
    out_of_memory_is_a_result,
    peak_memory,
    saved_for_backward_bytes,
)
from nas.measure.phases import phase_call, training_loss
from nas.measure.random_model import random_model
from nas.measure.roofline import roofline
from nas.measure.timing import Effort, Timing, time_phase
from nas.measurement import Measurement
from nas.model import Model
from nas.workload import Decode, Phase, Prefill, TrainStep, describe_phase

SHARE_OF_TIMING = 0.8  # of the time for one candidate; building the model and weighing it take about the rest
OPTIMIZER_BYTES = 8  # of AdamW per weight: two moments in float32
WEIGHT_BYTES = 4  # in training
TOKEN_BYTES = 8  # of an id
TRAINING_BYTES = 2 * WEIGHT_BYTES + OPTIMIZER_BYTES  # weight, gradient and moments


@dataclass(kw_only=True)
class Measured:
    """What measuring gave: numbers by the names of the objectives, and each timed quantity under every cost model."""

    numbers: dict[str, Measurement]
    costs: dict[CostModel, dict[str, Measurement]] = field(default_factory=dict)

    def __or__(self, other: "Measured") -> "Measured":
        """Both together; a number that both give is the other's."""
        models = dict.fromkeys((*self.costs, *other.costs))
        costs: dict[CostModel, dict[str, Measurement]] = {
            model: self.costs.get(model, {}) | other.costs.get(model, {}) for model in models
        }
        return Measured(numbers=self.numbers | other.numbers, costs=costs)


def measure_model(architecture: Architecture, deployment: Deployment, spec: DeviceSpec, effort: Effort) -> Measured:
    """Time and weigh a deployed architecture (see `nas.count.deployed`) on the device at hand; leaves nothing on it.

    spec: the device's description, for the roofline and for how many sequences fit. effort: for each phase. Raises
    DoesNotFit, and DeviceBusy where the deployment refuses a busy device.
    """
    device = choose_device(deployment.device)
    dtype = choose_dtype(deployment.dtype, device)
    phases = deployment.phases(architecture)
    check_fits(architecture, set(phases.values()), dtype, available_bytes(device), str(device))
    if deployment.busy == "refuse":
        check_idle(device)
    with out_of_memory_is_a_result(device), pinned_threads(deployment.threads), watch(device) as conditions:
        timings, numbers = _measure(architecture, set(phases.values()), device, dtype, effort)
    flagged = {q: with_notes(timings[phase], conditions.flags) for q, phase in phases.items()}
    costs: dict[CostModel, dict[str, Measurement]] = {
        "own": {quantity: timing.own for quantity, timing in flagged.items()},
        "best": {quantity: timing.best for quantity, timing in flagged.items()},
        "roofline": rooflines(architecture, phases, spec, name_of(dtype)),
    }
    numbers |= fitting(architecture, deployment, spec, dtype, numbers)
    return Measured(numbers=numbers | costs[deployment.cost_model], costs=costs)


def rooflines(
    architecture: Architecture, phases: Mapping[str, Phase], spec: DeviceSpec, dtype: str
) -> dict[str, Measurement]:
    """The bound for each quantity."""
    return {quantity: roofline(architecture, phase, spec, dtype) for quantity, phase in phases.items()}


def _measure(
    architecture: Architecture, phases: set[Phase], device: torch.device, dtype: torch.dtype, effort: Effort
) -> tuple[dict[Phase, Timing], dict[str, Measurement]]:
    timings: dict[Phase, Timing] = {}
    numbers: dict[str, Measurement] = {}
    served = [phase for phase in phases if not isinstance(phase, TrainStep)]
    if served:
        model, allocated, reserved = random_model(architecture, device, dtype), [], []
        for phase in served:
            timings[phase] = time_phase(model, phase, device, effort)
            call = phase_call(model, phase, device)
            peak = peak_memory(call, device)
            allocated.append(state_bytes(architecture, phase, dtype) + peak.allocated)
            reserved.append(peak.reserved)
            del call
        weights = count_parameters(architecture) * dtype.itemsize
        numbers["peak_memory_bytes"] = weighed(weights + max(allocated))
        numbers |= taken_from_device("peak_reserved_bytes", reserved)
        del model
    for phase in phases:
        if isinstance(phase, TrainStep):
            model = random_model(architecture, device, torch.float32)
            timings[phase] = time_phase(model, phase, device, effort)
            numbers |= training_memory(model, phase, device)
    return timings, numbers


def training_memory(model: Model, phase: TrainStep, device: torch.device) -> dict[str, Measurement]:
    """Bytes of a training step: at its peak, and of those the optimizer's and what the backward pass needs."""
    step = phase_call(model, phase, device)
    step()  # the optimizer makes its state in its first step
    weights = sum(p.numel() for p in model.parameters())
    saved = saved_for_backward_bytes(training_loss(model, phase, device))
    peak = peak_memory(step, device)
    return {
        "train_peak_memory_bytes": weighed(weights * (WEIGHT_BYTES + OPTIMIZER_BYTES) + peak.allocated),
        **taken_from_device("train_peak_reserved_bytes", [peak.reserved]),
        "optimizer_bytes": Measurement.exact(weights * OPTIMIZER_BYTES, "bytes"),
        "saved_for_backward_bytes": weighed(saved),
    }


def taken_from_device(name: str, peaks: Sequence[int | None]) -> dict[str, Measurement]:
    """The largest of what phases reserved on a device; nothing on a CPU, where whoever started the process sees it."""
    known = [peak for peak in peaks if peak is not None]
    return {name: weighed(max(known))} if known else {}


def weighed(size: int) -> Measurement:
    """Bytes that an allocator's record gave: exact, and measured once."""
    return replace(Measurement.exact(size, "bytes"), source="measured")


def fitting(
    architecture: Architecture,
    deployment: Deployment,
    spec: DeviceSpec,
    dtype: torch.dtype,
    numbers: Mapping[str, Measurement],
) -> dict[str, Measurement]:
    """How many sequences of the deployment's length the device's memory holds beside weights and work space.

    Where nothing of a sequence is kept, its tokens are, to be read again.
    """
    weights = count_parameters(architecture) * dtype.itemsize
    work = 0.0
    if "peak_memory_bytes" in numbers:
        states = [
            state_bytes(architecture, phase, dtype)
            for phase in deployment.phases(architecture).values()
            if not isinstance(phase, TrainStep)
        ]
        work = max(0.0, numbers["peak_memory_bytes"].value - weights - max(states, default=0))
    each = count_state_bytes(architecture, deployment.workload.length, dtype=dtype)
    each = each or TOKEN_BYTES * deployment.workload.length
    room = max(0, int((spec.memory_bytes - weights - work) // each))
    source = numbers["peak_memory_bytes"].source if "peak_memory_bytes" in numbers else "counted"
    return {"sequences_that_fit": replace(Measurement.exact(room, "sequences"), source=source)}


def state_bytes(architecture: Architecture, phase: Phase, dtype: torch.dtype) -> int:
    """Bytes of the state of all sequences of a phase."""
    if isinstance(phase, TrainStep):
        return 0
    length = phase.context + 1 if isinstance(phase, Decode) else phase.prompt
    return phase.batch * count_state_bytes(architecture, length, dtype=dtype)


def check_fits(
    architecture: Architecture, phases: set[Phase], dtype: torch.dtype, free: int | None, device: str
) -> None:
    """Raise DoesNotFit where a phase needs more than the free bytes of a device; a CPU would kill the process instead.

    free: None where the system does not say. device: its name, for the sentence.
    """
    if free is None:
        return
    parameters = count_parameters(architecture)
    needed, phase = max(
        ((bytes_needed(architecture, parameters, phase, dtype), phase) for phase in phases), key=lambda found: found[0]
    )
    if needed > free:
        raise DoesNotFit(
            f"{architecture.name} needs {needed:,} bytes for {describe_phase(phase)}, {needed - free:,} more than "
            f"{device} has free; {what_fits(architecture, phase, free, dtype)}."
        )


def bytes_needed(architecture: Architecture, parameters: int, phase: Phase, dtype: torch.dtype) -> int:
    """Weights and state, in training gradients and the optimizer's state: the least that a phase takes."""
    if isinstance(phase, TrainStep):
        return parameters * TRAINING_BYTES
    return parameters * dtype.itemsize + state_bytes(architecture, phase, dtype)


def what_fits(architecture: Architecture, phase: Phase, free: int, dtype: torch.dtype) -> str:
    """What to do about a phase that needs more than the free bytes."""
    longest = 0
    if isinstance(phase, Decode):  # which needs room for the token that is decoded
        longest = longest_context(architecture, phase.batch, free, dtype=dtype) - 1
    elif isinstance(phase, Prefill):
        longest = longest_context(architecture, phase.batch, free, dtype=dtype)
    if longest < 1:
        return "fewer parameters fit"
    return f"the longest {'context' if isinstance(phase, Decode) else 'prompt'} that fits is {longest:,} tokens"


def with_notes(timing: Timing, notes: tuple[str, ...]) -> Timing:
    return replace(
        timing,
        own=replace(timing.own, notes=(*timing.own.notes, *notes)),
        best=replace(timing.best, notes=(*timing.best.notes, *notes)),
    )


def name_of(dtype: torch.dtype) -> str:
    """`bfloat16` for torch.bfloat16."""
    return next(name for name, value in DTYPES.items() if value == dtype)
