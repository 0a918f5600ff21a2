"""Small networks, a described device and entries of a table, for tests of measuring."""

import time
from collections.abc import Callable

import torch

from nas.architecture import Architecture, Attention, Block, BlockSparseAttention, Glu, Mamba2, Moe
from nas.devices import DeviceSpec, spec_from
from nas.measure.block_table import Entry
from nas.measure.blocks import Bench
from nas.measure.device import describe_device, pinned_threads
from nas.measure.sources import operations_of_part
from nas.measure.table_parts import Ends, Part
from nas.measure.timing import Effort
from nas.measurement import Measurement
from nas.workload import Decode, Phase

CPU = torch.device("cpu")
D = 64
VOCAB = 32
ATTENTION = Attention(num_heads=2, head_dim=32)
MAMBA2 = Mamba2(num_heads=2, head_dim=32, state_dim=16)
SPARSE = BlockSparseAttention(num_heads=2, head_dim=32, block_size=4, top_k=2)
GLU = Glu(d_ff=64)
MOE = Moe(num_experts=4, top_k=1, d_ff=16)
ENDS = Ends(vocab_size=VOCAB, tied=True)
DECODE = Decode(batch=1, context=64)

SPEC: DeviceSpec = spec_from(
    {"name": "toy device", "tflops": {"float32": 1.0, "bfloat16": 2.0}, "bandwidth": 100, "memory": 1, "cache_mb": 1}
)
QUICK = Effort(seconds=0.05, spread=0.05, rivals={})


def network(*blocks: Block) -> Architecture:
    return Architecture(name="small", d_model=D, vocab_size=VOCAB, blocks=blocks)


def bench(seconds: float = 0.05) -> Bench:
    """The CPU, one thread, no rivals."""
    return Bench(
        device=CPU, dtype="float32", spec=SPEC, effort=Effort(seconds=seconds, spread=0.05, rivals={}), threads=1
    )


def ms(value: float, spread: float = 0.0) -> Measurement:
    return Measurement(value=value, unit="ms", low=value - spread, high=value + spread, n=9, notes=("steady",))


def entry(
    part: Part, own: float, *, best: float | None = None, phase: Phase = DECODE, each: int = 0, once: int = 0
) -> Entry:
    """An entry as if it had just been measured here on one thread; `own` and `best` in milliseconds."""
    with pinned_threads(1):
        environment = describe_device(CPU)
    return Entry(
        part=part,
        d_model=D,
        phase=phase,
        dtype="float32",
        own=ms(own),
        best=ms(own if best is None else best),
        best_by="own" if best is None else "other",
        bytes_each=each,
        bytes_once=once,
        launches="portable",
        roofline_ms=own / 10,
        operations=operations_of_part(part, D, "cpu"),
        environment=environment,
    )


def seconds_of(call: Callable[[], object]) -> float:
    """Of this thread on a processor, so that other processes do not count."""
    start = time.thread_time()
    call()
    return time.thread_time() - start
