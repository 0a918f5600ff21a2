"""Measures one block on the device at hand: the difference between networks that hold it once and many times.

What the rest of a network takes cancels in the difference. Every repeat has weights and state of its own, enough of
them that they do not all stay in a cache, as in a whole network.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kernels import record_launches
from nas.deployment import Busy
from nas.devices import DeviceSpec
from nas.measure.block_table import Entry
from nas.measure.child import in_child
from nas.measure.device import DTYPES, describe_device, device_name
from nas.measure.memory import out_of_memory_is_a_result, peak_bytes, storage_bytes
from nas.measure.phases import phase_call
from nas.measure.random_model import random_model
from nas.measure.rivals import library_versions
from nas.measure.roofline import ends_bound, part_bound
from nas.measure.sources import operations_of_part
from nas.measure.stacks import as_joined, built_ends
from nas.measure.table_parts import Ends, Layer, Part, bare, stack
from nas.measure.timing import Effort, Timing, time_difference, time_in_rotation
from nas.model import Model
from nas.workload import Decode, Phase, TrainStep

SMALL_VOCAB = 16
LEAST_REPEATS, MOST_REPEATS = 3, 64
CPU_CACHE_BYTES = 8_000_000  # of its own; the last level is shared with whatever else runs on the machine
CPU_NETWORK_BYTES = 256_000_000  # about the weights and the state of a network that a CPU serves


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where blocks are measured, in which type, and how carefully (the effort is for one block in one phase).

    busy: whether a block that would be measured beside others is flagged or not measured (`DeviceBusy`).
    """

    device: torch.device
    dtype: str
    spec: DeviceSpec
    effort: Effort
    threads: int | None = None
    busy: Busy = "flag"

    @property
    def cache_bytes(self) -> float:
        """More than stays in a cache between two blocks."""
        return 2 * (self.spec.cache_mb * 1e6 or CPU_CACHE_BYTES)

    @property
    def network_bytes(self) -> float:
        """What must lie between two visits to a block for its data to come from where a network's come from."""
        return CPU_NETWORK_BYTES if self.device.type == "cpu" else self.cache_bytes

    def dtype_of(self, phase: Phase) -> torch.dtype:
        """Weights are float32 in training and of the served type elsewhere."""
        return torch.float32 if isinstance(phase, TrainStep) else DTYPES[self.dtype]


def measure_block(part: Part, d_model: int, phase: Phase, bench: Bench) -> Entry:
    """Time and weigh a block; on a CPU in a process of its own, as whole networks are. Raises DoesNotFit."""
    if bench.device.type == "cpu":
        return in_child(measure_here, part, d_model, phase, bench)
    return measure_here(part, d_model, phase, bench)


def measure_here(part: Part, d_model: int, phase: Phase, bench: Bench) -> Entry:
    """Time and weigh a block in this process."""
    with out_of_memory_is_a_result(bench.device):
        if isinstance(part, Ends):
            return _measure_ends(part, d_model, phase, bench)
        return _measure_part(part, d_model, phase, bench)


def _measure_part(part: Layer, d_model: int, phase: Phase, bench: Bench) -> Entry:
    few = stack_of(part, d_model, 1, phase, bench)
    repeats = repeats_for(few, phase, bench)
    many = stack_of(part, d_model, 1 + repeats, phase, bench)
    timing = time_difference(few, many, repeats, phase, bench.device, bench.effort)
    calls = [phase_call(model, phase, bench.device) for model in (few, many)]
    with record_launches() as launches:
        for call in calls:
            call()
    less, more = (peak_bytes(call, bench.device) for call in calls)
    each = max(0, more - less) // repeats
    bound = part_bound(bare(part), d_model, phase, bench.spec, bench.dtype)
    return _entry(part, d_model, phase, bench, timing, (each, max(0, less - each)), how_launched(launches), bound)


def _measure_ends(part: Ends, d_model: int, phase: Phase, bench: Bench) -> Entry:
    def build() -> Model:
        with torch.no_grad(), torch.device(bench.device):
            return built_ends(part, d_model).to(bench.dtype_of(phase)).eval()

    first = build()
    copies = copies_for(storage_bytes(list(first.parameters())), bench.network_bytes)
    models = [first, *(build() for _ in range(copies - 1))]
    time = time_in_rotation(models, phase, bench.device, bench.effort)
    timing = Timing(own=time, best=time, best_by="own")
    call = phase_call(first, phase, bench.device)
    with record_launches() as launches:
        call()
    peak = peak_bytes(call, bench.device)
    bound = ends_bound(d_model, part.vocab_size, part.tied, phase, bench.spec, bench.dtype)
    return _entry(part, d_model, phase, bench, timing, (0, peak), how_launched(launches), bound)


def _entry(
    part: Part,
    d_model: int,
    phase: Phase,
    bench: Bench,
    timing: Timing,
    peak: tuple[int, int],
    launches: str,
    bound: float,
) -> Entry:
    return Entry(
        part=part,
        d_model=d_model,
        phase=phase,
        dtype=bench.dtype,
        own=timing.own,
        best=timing.best,
        best_by=timing.best_by,
        bytes_each=peak[0],
        bytes_once=peak[1],
        launches=launches,
        roofline_ms=bound,
        operations=operations_of_part(part, d_model, name_for_sources(bench.device)),
        environment=describe_device(bench.device) | library_versions(timing.best_by),
    )


def name_for_sources(device: torch.device) -> str:
    """What `operations_of_part` calls a device."""
    return "cpu" if device.type == "cpu" else device_name(device)


def stack_of(part: Layer, d_model: int, repeats: int, phase: Phase, bench: Bench) -> Model:
    """A network of one kind of block with hardly any vocabulary."""
    architecture = stack(part, d_model, SMALL_VOCAB, repeats)
    return as_joined(part, random_model(architecture, bench.device, bench.dtype_of(phase)))


def repeats_for(few: Model, phase: Phase, bench: Bench) -> int:
    """Blocks beyond the first: in decoding, which waits for memory, as many as fill what a whole network would."""
    size = storage_bytes(list(few.parameters()))
    if not isinstance(phase, Decode):
        return copies_for(size, bench.cache_bytes)
    mixer = few.blocks[-1].mixer
    state = 0 if mixer is None else phase.batch * mixer.state_bytes(phase.context, bench.dtype_of(phase))
    return copies_for(size + state, bench.network_bytes)


def copies_for(size: int, wanted: float) -> int:
    """So many copies of `size` bytes that they come to the wanted number, within limits."""
    return min(MOST_REPEATS, max(LEAST_REPEATS, round(wanted / max(1, size))))


def how_launched(launches: Mapping[str, str]) -> str:
    """The least certain of the ways in which the kernels' configurations were found; without a GPU kernel, portable."""
    for status in ("default", "nearest", "tuned"):
        if status in launches.values():
            return status
    return "portable"
