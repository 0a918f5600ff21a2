"""What the launch configurations are tuned on: the documented list, in the order of what matters most.

The keys that these problems launch are the keys that are tuned. Each is timed at a size that fills a large GPU and
checked on a small one with a length that is no multiple of any block; neither size is part of a key.
"""

from dataclasses import asdict, replace

from scripts.kernel_lab import attention_problems, fused_problems, scan_problems, sparse_problems
from scripts.kernel_lab.operations import (
    GroupedMatmul,
    Operation,
    Recurrence,
    RecurrenceStep,
    SelectiveScan,
    SelectiveScanStep,
)
from scripts.kernel_lab.problem_lists import LAYERS
from scripts.kernel_lab.problems import Problem

_FIRST_LAYERS = ("gated_delta_rule", "simple_gla", "gla", "kda")


def tuning_problems(op: str | None = None) -> list[Problem]:
    """All of them, or those of one family such as `attention`; in bfloat16, whose launches float16 shares."""
    families = {
        **attention_problems.tuning_sizes(),
        "matrix_recurrence": _recurrence(),
        "grouped_matmul": _experts(),
        "selective_scan": _scan(),
        **sparse_problems.tuning_sizes(),
        **fused_problems.tuning_sizes(),
        **scan_problems.tuning_sizes(),
    }
    named = [one for family, problems in families.items() if op in (None, family) for one in problems]
    return [Problem(name=name, operation=one, dtype="bfloat16", exact=False) for name, one in named]


def _recurrence() -> list[tuple[str, Operation]]:
    named: list[tuple[str, Operation]] = []
    layers = [*_FIRST_LAYERS, *(layer for layer in LAYERS if layer not in _FIRST_LAYERS)]
    for D in (128, 64):
        for layer in layers:
            setting = asdict(LAYERS[layer])
            one = Recurrence(B=2, T=4096, Hqk=16, Hv=16, K=D, V=D, **setting, state=True)
            step = RecurrenceStep(B=16, Hqk=16, Hv=16, K=D, V=D, **setting)
            named += [(f"{layer} D{D}", one), (f"{layer} step D{D}", step)]
        if D == 128:
            mamba = Recurrence(B=2, T=4096, Hqk=1, Hv=32, K=128, V=64, gate="head", state=True)
            named += [
                ("mamba2 K128 V64", mamba),
                ("mamba2 step K128 V64", RecurrenceStep(B=16, Hqk=1, Hv=32, K=128, V=64, gate="head")),
            ]
    for layer in _FIRST_LAYERS:  # heads that fill a GPU, whose states stay in registers
        many = Recurrence(B=1, T=4096, Hqk=64, Hv=64, K=128, V=128, **asdict(LAYERS[layer]), state=True)
        named.append((f"{layer} D128 of 64 heads", many))
    for layer in _FIRST_LAYERS[:2]:
        wide = Recurrence(B=2, T=4096, Hqk=8, Hv=8, K=256, V=256, **asdict(LAYERS[layer]), state=True)
        named.append((f"{layer} D256", wide))
    return named


def _experts() -> list[tuple[str, Operation]]:
    return [
        ("experts K2048 N1536", GroupedMatmul(M=32768, E=64, K=2048, N=1536)),
        ("experts K128 N1024", GroupedMatmul(M=32768, E=64, K=128, N=1024)),
    ]


def _scan() -> list[tuple[str, Operation]]:
    return [
        ("scan N16", SelectiveScan(B=2, T=4096, Dm=2048, N=16, state=True)),
        ("scan step N16", SelectiveScanStep(B=16, Dm=4096, N=16)),
    ]


def small(problem: Problem) -> Problem:
    """The same launches on little data: few sequences and tokens; heads stay, because kernels are compiled for them."""
    one = problem.operation
    attention = attention_problems.small_size(one)
    if attention is not None:
        # Token by token, a few hundred queries take long on a GPU; a step is a single one.
        return replace(problem, operation=attention, exact=one.function == "attention_step")
    for one_file in (fused_problems, scan_problems, sparse_problems):
        smaller = one_file.small_size(one)
        if smaller is not None:
            return replace(problem, operation=smaller, exact=True)
    if isinstance(one, Recurrence | SelectiveScan):
        # Of a scan, more chunks than any tile has of those that its carry takes at once.
        return replace(problem, operation=replace(one, B=1, T=330 if isinstance(one, Recurrence) else 1100))
    if isinstance(one, RecurrenceStep | SelectiveScanStep):
        return replace(problem, operation=replace(one, B=2), exact=True)
    assert isinstance(one, GroupedMatmul)
    fewer = replace(one, M=700, E=6, K=min(one.K, 320), N=min(one.N, 320))
    return replace(problem, operation=fewer, exact=True)
