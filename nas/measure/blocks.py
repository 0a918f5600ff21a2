"""Measures one block on the device at hand: the difference between networks that hold it once and many times.

What the rest of a network takes cancels in the difference. Every repeat has weights and state of its own, enough of
them that they do not all stay in a cache, as in a whole network.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kernels import record_launches
from nas.architecture import Architecture, Block, FfnOptions, MixerOptions
from nas.devices import DeviceSpec
from nas.measure.block_table import Ends, Entry, Part
from nas.measure.device import DTYPES, describe_device, device_name
from nas.measure.memory import out_of_memory_is_a_result, peak_bytes, storage_bytes
from nas.measure.phases import phase_call
from nas.measure.random_model import random_model
from nas.measure.roofline import ends_bound, part_bound
from nas.measure.sources import operations_of_part
from nas.measure.timing import Effort, Timing, time_difference, time_in_rotation
from nas.model import Model
from nas.workload import Decode, Phase, TrainStep

SMALL_VOCAB = 16
MOST_REPEATS = 12
CACHE_BYTES = 8_000_000  # assumed of a device that does not say


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where blocks are measured, in which type, and how carefully (the effort is for one block in one phase)."""

    device: torch.device
    dtype: str
    spec: DeviceSpec
    effort: Effort
    threads: int | None = None

    def dtype_of(self, phase: Phase) -> torch.dtype:
        """Weights are float32 in training and of the served type elsewhere."""
        return torch.float32 if isinstance(phase, TrainStep) else DTYPES[self.dtype]


def measure_block(part: Part, d_model: int, phase: Phase, bench: Bench) -> Entry:
    """Time and weigh a block. Raises DoesNotFit."""
    with out_of_memory_is_a_result(bench.device):
        if isinstance(part, Ends):
            return _measure_ends(part, d_model, phase, bench)
        return _measure_part(part, d_model, phase, bench)


def _measure_part(part: MixerOptions | FfnOptions, d_model: int, phase: Phase, bench: Bench) -> Entry:
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
    bound = part_bound(part, d_model, phase, bench.spec, bench.dtype)
    return _entry(part, d_model, phase, bench, timing, (each, max(0, less - each)), how_launched(launches), bound)


def _measure_ends(part: Ends, d_model: int, phase: Phase, bench: Bench) -> Entry:
    def build() -> Model:
        with torch.no_grad(), torch.device(bench.device):
            model = Model(d_model=d_model, vocab_size=part.vocab_size, tie_embeddings=part.tied, blocks=[])
            return model.to(bench.dtype_of(phase)).eval()

    first = build()
    copies = copies_for(storage_bytes(list(first.parameters())), bench)
    models = [first, *(build() for _ in range(copies - 1))]
    time = time_in_rotation(models, phase, bench.device, bench.effort)
    timing = Timing(own=time, best=time, best_by="own")
    peak = peak_bytes(phase_call(first, phase, bench.device), bench.device)
    bound = ends_bound(d_model, part.vocab_size, part.tied, phase, bench.spec, bench.dtype)
    return _entry(part, d_model, phase, bench, timing, (0, peak), "portable", bound)


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
        environment=describe_device(bench.device),
    )


def name_for_sources(device: torch.device) -> str:
    """What `operations_of_part` calls a device."""
    return "cpu" if device.type == "cpu" else device_name(device)


def stack_of(part: MixerOptions | FfnOptions, d_model: int, repeats: int, phase: Phase, bench: Bench) -> Model:
    """A network of one kind of block with hardly any vocabulary."""
    block = Block(mixer=part) if isinstance(part, MixerOptions) else Block(ffn=part)
    architecture = Architecture(name="stack", d_model=d_model, vocab_size=SMALL_VOCAB, blocks=(block,) * repeats)
    return random_model(architecture, bench.device, bench.dtype_of(phase))


def repeats_for(few: Model, phase: Phase, bench: Bench) -> int:
    """As many blocks as overflow the cache, up to a limit, so that each finds its data in memory."""
    weights = storage_bytes(list(few.parameters()))
    state = 0
    if isinstance(phase, Decode):
        meta = few.blocks[0].mixer
        state = 0 if meta is None else phase.batch * meta.state_bytes(phase.context, bench.dtype_of(phase))
    return copies_for(weights + state, bench)


def copies_for(size: int, bench: Bench) -> int:
    cache = bench.spec.cache_mb * 1e6 or CACHE_BYTES
    return min(MOST_REPEATS, max(3, round(2 * cache / max(1, size))))


def how_launched(launches: Mapping[str, str]) -> str:
    """The least certain of the ways in which the kernels' configurations were found; without a GPU kernel, portable."""
    for status in ("default", "nearest", "tuned"):
        if status in launches.values():
            return status
    return "portable"
