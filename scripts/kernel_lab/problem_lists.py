"""Which problems are benchmarked, tuned and checked.

* `benchmark_problems`: full sizes for a GPU (the six shapes of FLA's benchmark registry, decode steps, expert layers),
  or sizes that a CPU answers in a moment;
* `launch_problems`: small ones that between them reach every default launch configuration, for a check on a GPU;
* `tiny_problems`: a few for each function, for the interpreter.
"""

import itertools
from dataclasses import asdict, replace

from scripts.kernel_lab import fused_problems, scan_problems, sparse_problems
from scripts.kernel_lab.operations import (
    Attention,
    AttentionStep,
    GroupedMatmul,
    Operation,
    Recurrence,
    RecurrenceStep,
    SelectiveScan,
    SelectiveScanStep,
    Setting,
)
from scripts.kernel_lab.problems import DTYPES, Problem

# Sequences, tokens, heads, head size: benchmarks/ops/registry.py of flash-linear-attention, for comparable numbers.
FLA_SHAPES = (
    (1, 8192, 96, 128),
    (2, 16384, 16, 128),
    (4, 2048, 16, 128),
    (4, 4096, 64, 128),
    (8, 2048, 32, 256),
    (8, 1024, 8, 64),
)
# The published layer of each setting of the recurrence; the settings beyond the first four on two shapes alone.
LAYERS: dict[str, Setting] = {
    "simple_gla": Setting("head"),
    "gated_delta_rule": Setting("head", delta=True),
    "gla": Setting("channel"),
    "kda": Setting("channel", delta=True),
    "rwkv7": Setting("channel", erase=True),
    "rwkv6": Setting("channel", bonus=True),
    "linear_attention": Setting("none"),
    "retention": Setting("fixed"),
    "delta_rule": Setting("none", delta=True),
}
EVERY_SHAPE = ("simple_gla", "gated_delta_rule", "gla")
HEAD_SIZES = (16, 20, 32, 64, 96, 128, 256)


def benchmark_problems(device_type: str) -> list[Problem]:
    """The problems for `cuda`, in bfloat16, or those for `cpu`, in float32."""
    if device_type == "cpu":
        return [Problem(name=name, operation=one, dtype="float32", exact=True) for name, one in cpu_sizes()]
    named = [*attention_sizes(), *recurrence_sizes(), *scan_sizes(), *expert_sizes()]
    named += [*sparse_problems.benchmark_sizes(), *fused_problems.benchmark_sizes(), *scan_problems.benchmark_sizes()]
    return [Problem(name=name, operation=one, dtype="bfloat16", exact=False) for name, one in named]


def attention_sizes() -> list[tuple[str, Operation]]:
    named: list[tuple[str, Operation]] = [
        (f"causal B{B} T{T} H{H} D{D}", Attention(B=B, T=T, Hq=H, Hkv=H, D=D)) for B, T, H, D in FLA_SHAPES
    ]
    grouped = Attention(B=4, T=4096, Hq=32, Hkv=8, D=128)
    step = AttentionStep(B=64, S=8192, Hq=32, Hkv=8, D=128)
    named += [
        ("causal B4 T4096 H32/8 D128", grouped),
        ("full B4 T4096 H32 D128", Attention(B=4, T=4096, Hq=32, Hkv=32, D=128, causal=False)),
        ("window 512 B4 T4096 H32/8 D128", replace(grouped, window=512)),
        ("window 1024 B2 T16384 H32/8 D128", replace(grouped, B=2, T=16384, window=1024)),
        ("16 of 64-blocks B1 T8192 H32/2 D128", replace(grouped, B=1, T=8192, Hkv=2, block_size=64, chosen_blocks=16)),
    ]
    for B, S in ((1, 8192), (1, 65536), (64, 2048), (64, 8192)):
        named.append((f"step B{B} S{S} H32/8 D128", replace(step, B=B, S=S)))
    named.append(("step B64 S8192 kept 1024 H32/8 D128", replace(step, kept=1024)))
    return named


def recurrence_sizes() -> list[tuple[str, Operation]]:
    named: list[tuple[str, Operation]] = []
    for layer, setting in LAYERS.items():
        fixed = setting.gate == "fixed"
        for B, T, H, D in FLA_SHAPES if layer in EVERY_SHAPE else (FLA_SHAPES[0], FLA_SHAPES[2]):
            one = Recurrence(B=B, T=T, Hqk=H, Hv=H, K=D, V=D, **asdict(setting), constant_decay=fixed)
            named.append((f"{layer} B{B} T{T} H{H} D{D}", one))
    named += [
        ("mamba2 B2 T8192 H80/1 K128 V64", Recurrence(B=2, T=8192, Hqk=1, Hv=80, K=128, V=64, gate="head")),
        (
            "gated_delta_rule B1 T32768 H64/16 D128",
            Recurrence(B=1, T=32768, Hqk=16, Hv=64, K=128, V=128, gate="head", delta=True),
        ),
    ]
    for layer, B in itertools.product(("simple_gla", "gated_delta_rule", "gla", "kda", "rwkv7"), (1, 64)):
        one = RecurrenceStep(B=B, Hqk=32, Hv=32, K=128, V=128, **asdict(LAYERS[layer]))
        named.append((f"{layer} step B{B} H32 D128", one))
    return named


def scan_sizes() -> list[tuple[str, Operation]]:
    return [
        ("B1 T8192 D4096 N16", SelectiveScan(B=1, T=8192, Dm=4096, N=16)),
        ("B8 T2048 D4096 N16", SelectiveScan(B=8, T=2048, Dm=4096, N=16)),
        ("step B1 D4096 N16", SelectiveScanStep(B=1, Dm=4096, N=16)),
        ("step B64 D4096 N16", SelectiveScanStep(B=64, Dm=4096, N=16)),
    ]


def expert_sizes() -> list[tuple[str, Operation]]:
    """The two products of an expert layer, model 2048, expert 768, 8 experts a token (Liger's published rows)."""
    return [
        ("in T8192 E128 K2048 N1536", GroupedMatmul(M=65536, E=128, K=2048, N=1536)),
        ("out T8192 E128 K768 N2048", GroupedMatmul(M=65536, E=128, K=768, N=2048)),
        ("in T8192 E128 K2048 N1536 zipf", GroupedMatmul(M=65536, E=128, K=2048, N=1536, zipf=True)),
        ("in T8192 E8 K2048 N1536", GroupedMatmul(M=65536, E=8, K=2048, N=1536)),
        ("in T1 E128 K2048 N1536", GroupedMatmul(M=8, E=128, K=2048, N=1536)),
    ]


def cpu_sizes() -> list[tuple[str, Operation]]:
    """Sizes whose right answer, token by token, takes a few seconds on a CPU core."""
    attention = Attention(B=1, T=256, Hq=8, Hkv=2, D=64)
    recurrence = Recurrence(B=1, T=512, Hqk=4, Hv=4, K=64, V=64, gate="head")
    return [
        ("causal B1 T256 H8 D64", replace(attention, Hkv=8)),
        ("causal B1 T256 H8/2 D64", attention),
        ("window 64 B1 T256 H8/2 D64", replace(attention, window=64)),
        ("step B1 S8192 H8/2 D64", AttentionStep(B=1, S=8192, Hq=8, Hkv=2, D=64)),
        ("simple_gla B1 T512 H4 D64", recurrence),
        ("gated_delta_rule B1 T512 H4 D64", replace(recurrence, delta=True)),
        ("gla B1 T512 H4 D64", replace(recurrence, gate="channel")),
        ("rwkv7 B1 T512 H4 D64", replace(recurrence, gate="channel", erase=True)),
        ("gated_delta_rule step B1 H4 D64", RecurrenceStep(B=1, Hqk=4, Hv=4, K=64, V=64, gate="head", delta=True)),
        ("B1 T512 D512 N16", SelectiveScan(B=1, T=512, Dm=512, N=16)),
        ("step B1 D512 N16", SelectiveScanStep(B=1, Dm=512, N=16)),
        ("T256 E8 K256 N192", GroupedMatmul(M=512, E=8, K=256, N=192)),
        *sparse_problems.cpu_sizes(),
        *fused_problems.cpu_sizes(),
        *scan_problems.cpu_sizes(),
    ]


def launch_problems() -> list[Problem]:
    """Every head size and type of every kernel, a length that is no multiple of a block, every variant of a mask."""
    problems: list[Problem] = []
    for dtype, D in itertools.product(DTYPES, HEAD_SIZES):
        few = Attention(B=1, T=333, Hq=4, Hkv=2, D=D)
        named: list[tuple[str, Operation]] = [
            (f"causal D{D}", replace(few, B=2)),
            (f"full D{D}", replace(few, Tq=200, causal=False)),
            (f"later queries D{D}", replace(few, Tq=70)),
            (f"window D{D}", replace(few, window=50)),
            (f"blocks of 64 D{D}", replace(few, block_size=64, chosen_blocks=2)),
            (f"blocks of 24 D{D}", replace(few, block_size=24, chosen_blocks=3)),
            (f"step D{D}", AttentionStep(B=2, S=1300, Hq=4, Hkv=2, D=D)),
            (f"step of many heads, kept D{D}", AttentionStep(B=1, S=300, Hq=32, Hkv=1, D=D, kept=70)),
        ]
        for layer, setting in LAYERS.items():
            with_state = setting.gate in ("head", "channel")
            one = Recurrence(B=1, T=330, Hqk=1, Hv=2, K=D, V=D, **asdict(setting), state=with_state)
            step = RecurrenceStep(B=2, Hqk=1, Hv=2, K=D, V=D, **asdict(setting))
            many = replace(one, T=70, Hqk=8, Hv=256)  # heads that fill a GPU, whose states stay in registers
            named += [(f"{layer} D{D}", one), (f"{layer} step D{D}", step), (f"{layer} of 256 heads D{D}", many)]
        problems += [Problem(name=name, operation=one, dtype=dtype, exact="step" in name) for name, one in named]
    for dtype in DTYPES:
        named = [
            ("uneven head", Recurrence(B=1, T=130, Hqk=2, Hv=6, K=128, V=48, gate="head", delta=True, state=True)),
            ("channels", SelectiveScan(B=2, T=200, Dm=72, N=16, state=True)),
            ("odd channels", SelectiveScan(B=1, T=77, Dm=21, N=10)),
            ("channels step", SelectiveScanStep(B=3, Dm=72, N=16)),
            ("multiples of 16", GroupedMatmul(M=700, E=6, K=96, N=160)),
            ("odd widths", GroupedMatmul(M=300, E=5, K=50, N=70, zipf=True)),
            ("more experts than rows", GroupedMatmul(M=8, E=64, K=128, N=64)),
            *sparse_problems.launch_sizes(),
            *fused_problems.launch_sizes(),
            *scan_problems.launch_sizes(),
        ]
        problems += [Problem(name=name, operation=one, dtype=dtype, exact=True) for name, one in named]
    return problems


def tiny_problems(dtype: str = "float32") -> list[Problem]:
    """Seconds in the interpreter, all together."""
    attention = Attention(B=1, T=20, Hq=2, Hkv=1, D=16)
    recurrence = Recurrence(B=1, T=20, Hqk=1, Hv=2, K=16, V=16, gate="head")
    named: list[tuple[str, Operation]] = [
        ("causal", attention),
        ("window", replace(attention, window=5)),
        ("blocks", replace(attention, T=40, block_size=16, chosen_blocks=2)),
        ("step", AttentionStep(B=1, S=40, Hq=2, Hkv=1, D=16)),
        ("simple_gla", replace(recurrence, T=70)),
        ("gated_delta_rule", replace(recurrence, delta=True, state=True)),
        ("gla", replace(recurrence, gate="channel")),
        ("rwkv7", replace(recurrence, gate="channel", erase=True)),
        ("rwkv6", replace(recurrence, gate="channel", bonus=True)),
        ("step of gated_delta_rule", RecurrenceStep(B=1, Hqk=1, Hv=2, K=16, V=16, gate="head", delta=True)),
        ("scan", SelectiveScan(B=1, T=20, Dm=16, N=4)),
        ("step of scan", SelectiveScanStep(B=1, Dm=16, N=4)),
        ("experts", GroupedMatmul(M=40, E=3, K=32, N=16)),
        *sparse_problems.tiny_sizes(),
        *fused_problems.tiny_sizes(),
        *scan_problems.tiny_sizes(),
    ]
    return [Problem(name=name, operation=one, dtype=dtype, exact=True) for name, one in named]
