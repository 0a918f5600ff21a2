"""Which problems are benchmarked, tuned and checked.

* `benchmark_problems`: full sizes for a GPU (the six shapes of FLA's benchmark registry, decode steps, expert layers),
  or sizes that a CPU answers in a moment;
* `launch_problems`: small ones that between them reach every default launch configuration, for a check on a GPU;
* `tiny_problems`: a few for each function, for the interpreter.
"""

import itertools
from dataclasses import asdict, replace

from kernels.backend import OPERATIONS
from scripts.kernel_lab import attention_problems, fused_problems, scan_problems, sparse_problems
from scripts.kernel_lab.attention_problems import FLA_SHAPES
from scripts.kernel_lab.forms import LAYERS, SETTINGS, Named, in_all_forms
from scripts.kernel_lab.operations import (
    GroupedMatmul,
    Mlstm,
    MlstmStep,
    Operation,
    Recurrence,
    RecurrenceStep,
    Setting,
)
from scripts.kernel_lab.problems import DTYPES, Problem

FUNCTIONS = (*OPERATIONS, "mlstm", "mlstm_step")
"""The public functions that have problems: those with kernels of their own, and two that run on such kernels."""

HEAD_SIZES = (16, 20, 32, 64, 96, 128, 256)
# Layers whose steps are timed; linear attention and RetNet decode as simple GLA does.
STEPS = ("simple_gla", "gated_delta_rule", "gla", "kda", "rwkv7", "rwkv6", "delta_rule")
# Settings of no layer, yet with kernels of their own for whole sequences; others run on a decay per channel or head.
COMBINED = ("decay per channel, delta, bonus", "decay per channel, erase, bonus")


def benchmark_problems(device_type: str) -> list[Problem]:
    """The problems for `cuda`, in bfloat16, or those for `cpu`, in float32."""
    if device_type == "cpu":
        return [Problem(name=name, operation=one, dtype="float32", exact=True) for name, one in cpu_sizes()]
    named = [*attention_problems.benchmark_sizes(), *recurrence_sizes(), *expert_sizes()]
    named += [*sparse_problems.benchmark_sizes(), *fused_problems.benchmark_sizes(), *scan_problems.benchmark_sizes()]
    return [Problem(name=name, operation=one, dtype="bfloat16", exact=False) for name, one in named]


def recurrence_sizes() -> list[tuple[str, Operation]]:
    named: list[tuple[str, Operation]] = []
    for layer, setting in LAYERS.items():
        fixed = setting.gate == "fixed"
        for B, T, H, D in FLA_SHAPES:
            one = Recurrence(B=B, T=T, Hqk=H, Hv=H, K=D, V=D, **asdict(setting), constant_decay=fixed)
            named.append((f"{layer} B{B} T{T} H{H} D{D}", one))
    named += [
        ("mamba2 B2 T8192 H80/1 K128 V64", Recurrence(B=2, T=8192, Hqk=1, Hv=80, K=128, V=64, gate="head")),
        (
            "gated_delta_rule B1 T32768 H64/16 D128",
            Recurrence(B=1, T=32768, Hqk=16, Hv=64, K=128, V=128, gate="head", delta=True),
        ),
        (
            "gated_delta_rule B8 T4096 H64/16 D128",
            Recurrence(B=8, T=4096, Hqk=16, Hv=64, K=128, V=128, gate="head", delta=True),
        ),
        *((f"B{B} T{T} H{H} D{D}", Mlstm(B=B, T=T, Hqk=H, Hv=H, K=D, V=D)) for B, T, H, D in FLA_SHAPES),
        ("B4 T4096 H8 K256 V128", Mlstm(B=4, T=4096, Hqk=8, Hv=8, K=256, V=128)),
        ("kda B1 T8192 H64 D128", Recurrence(B=1, T=8192, Hqk=64, Hv=64, K=128, V=128, gate="channel", delta=True)),
    ]
    for B in (1, 64):
        for layer in STEPS:
            one = RecurrenceStep(B=B, Hqk=32, Hv=32, K=128, V=128, **asdict(LAYERS[layer]))
            named.append((f"{layer} step B{B} H32 D128", one))
        mamba = RecurrenceStep(B=B, Hqk=1, Hv=80, K=128, V=64, gate="head")
        named.append((f"mamba2 step B{B} H80/1 K128 V64", mamba))
    named += [(f"B{B} H32 D128", MlstmStep(B=B, Hqk=32, Hv=32, K=128, V=128)) for B in (1, 64)]
    return named


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
    recurrence = Recurrence(B=1, T=512, Hqk=4, Hv=4, K=64, V=64, gate="head")
    return [
        *attention_problems.cpu_sizes(),
        ("simple_gla B1 T512 H4 D64", recurrence),
        ("gated_delta_rule B1 T512 H4 D64", replace(recurrence, delta=True)),
        ("gla B1 T512 H4 D64", replace(recurrence, gate="channel")),
        ("rwkv7 B1 T512 H4 D64", replace(recurrence, gate="channel", erase=True)),
        ("B1 T512 H4 D64", Mlstm(B=1, T=512, Hqk=4, Hv=4, K=64, V=64)),
        ("B1 H4 D64", MlstmStep(B=1, Hqk=4, Hv=4, K=64, V=64)),
        ("gated_delta_rule step B1 H4 D64", RecurrenceStep(B=1, Hqk=4, Hv=4, K=64, V=64, gate="head", delta=True)),
        ("T256 E8 K256 N192", GroupedMatmul(M=512, E=8, K=256, N=192)),
        *sparse_problems.cpu_sizes(),
        *fused_problems.cpu_sizes(),
        *scan_problems.cpu_sizes(),
    ]


def launch_problems() -> list[Problem]:
    """Every head size and type of every kernel, a length that is no multiple of a block, every variant of a mask."""
    problems: list[Problem] = []
    for dtype, D in itertools.product(DTYPES, HEAD_SIZES):
        named = [*attention_problems.launch_sizes(D), *_recurrence_launches(D)]
        problems += [Problem(name=name, operation=one, dtype=dtype, exact="step" in name) for name, one in named]
    for dtype in DTYPES:
        latent = attention_problems.latent_launch_sizes()
        problems += [Problem(name=name, operation=one, dtype=dtype, exact="step" in name) for name, one in latent]
        named = [
            ("uneven head", Recurrence(B=1, T=130, Hqk=2, Hv=6, K=128, V=48, gate="head", delta=True, state=True)),
            *in_all_forms("memories", Mlstm(B=2, T=130, Hqk=2, Hv=4, K=64, V=48)),
            *in_all_forms("memories step", MlstmStep(B=2, Hqk=2, Hv=4, K=64, V=48)),
            ("multiples of 16", GroupedMatmul(M=700, E=6, K=96, N=160)),
            ("odd widths", GroupedMatmul(M=300, E=5, K=50, N=70, zipf=True)),
            ("more experts than rows", GroupedMatmul(M=8, E=64, K=128, N=64)),
            *sparse_problems.launch_sizes(),
            *fused_problems.launch_sizes(),
            *scan_problems.launch_sizes(),
        ]
        problems += [Problem(name=name, operation=one, dtype=dtype, exact=True) for name, one in named]
    return problems


def _recurrence_launches(D: int) -> Named:
    """Every setting at one head size; what has no kernels of its own for whole sequences, at two of them."""
    named: Named = []
    for name, setting in SETTINGS.items():
        if name not in (*LAYERS, *COMBINED) and D not in (20, 128):
            continue
        one = recurrence(setting, B=1, T=330, Hqk=1, Hv=2, K=D, V=D)
        step = RecurrenceStep(B=2, Hqk=1, Hv=2, K=D, V=D, **asdict(setting))
        named += [(f"{name} D{D}", one), (f"{name} step D{D}", step)]
        if name in (*LAYERS, *COMBINED):  # with heads that fill a GPU, whose states stay in registers
            named.append((f"{name} of 256 heads D{D}", replace(one, T=70, Hqk=8, Hv=256)))
    return named


def recurrence(setting: Setting, **sizes: int) -> Recurrence:
    """Where the decay depends on the token, from a state and to the last one."""
    return Recurrence(**sizes, **asdict(setting), state=setting.gate in ("head", "channel"))


def tiny_problems(dtype: str = "float32") -> list[Problem]:
    """Seconds in the interpreter, all together."""
    steps = [(f"step of {name}", setting) for name, setting in SETTINGS.items()]
    named: Named = [
        *attention_problems.tiny_sizes(),
        # The first of them has several chunks.
        *(
            (name, recurrence(one, B=1, T=70 if name == "simple_gla" else 20, Hqk=1, Hv=2, K=16, V=16))
            for name, one in SETTINGS.items()
        ),
        ("kda of 4 heads", recurrence(LAYERS["kda"], B=1, T=20, Hqk=2, Hv=4, K=16, V=16)),  # which fill an interpreter
        *((name, RecurrenceStep(B=1, Hqk=1, Hv=2, K=16, V=16, **asdict(one))) for name, one in steps),
        *in_all_forms("memories", Mlstm(B=1, T=20, Hqk=1, Hv=2, K=16, V=15)),
        ("step of memories", MlstmStep(B=1, Hqk=1, Hv=2, K=16, V=15)),
        ("experts", GroupedMatmul(M=40, E=3, K=32, N=16)),
        *sparse_problems.tiny_sizes(),
        *fused_problems.tiny_sizes(),
        *scan_problems.tiny_sizes(),
    ]
    return [Problem(name=name, operation=one, dtype=dtype, exact=True) for name, one in named]
