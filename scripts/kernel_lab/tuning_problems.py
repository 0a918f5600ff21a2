"""What the launch configurations are tuned on: the documented list, in the order of what matters most.

The keys that these problems launch are the keys that are tuned. Each is timed at a size that fills a large GPU and
checked on a small one with a length that is no multiple of any block; neither size is part of a key.

A launch that is tuned serves its own key alone: a kernel in one form, at sizes that round up to the same powers of two,
and one doubling away where it was checked. Every form (`forms.py`) that launches kernels of its own is tuned, at one
size or two. These share launches with others:

* float16 with bfloat16, but for the kernels of the matrix recurrence that touch the states between chunks, which
  float16 keeps in float32: those are tuned for float16 too, for the layers in use and heads of 128;
* of whole sequences RetNet with simple GLA (a fixed decay is repeated for every token), and every erase and every bonus
  with its kind on a decay per channel: Comba with RWKV-7. Decode steps have a kernel for each;
* heads of all uneven sizes between two powers of two, not with those of the larger power; the mLSTM has V + 1;
* states given or left out, in the recurrences; groups of channels, in the selective scan, and of a norm;
* numbers of states of a selective scan, but in its steps.

Not tuned, and launched by default: float32; forms of norms wider than 8192 channels but the plain one; filters of other
widths than 3 and 4; matrix recurrences of heads up to 32, of uneven sizes but for four layers and the mLSTM, of 256 but
for two and the mLSTM, and at all sizes but 128 in combinations that no layer is made of.
"""

from dataclasses import asdict, replace

from scripts.kernel_lab import attention_problems, fused_problems, scan_problems, sparse_problems
from scripts.kernel_lab.forms import LAYERS, SETTINGS, Named
from scripts.kernel_lab.operations import GroupedMatmul, Mlstm, MlstmStep, Recurrence, RecurrenceStep
from scripts.kernel_lab.problem_lists import COMBINED
from scripts.kernel_lab.problems import Problem

_FIRST_LAYERS = ("gated_delta_rule", "simple_gla", "gla", "kda")


def tuning_problems(op: str | None = None) -> list[Problem]:
    """All of them, or those of one family such as `attention`."""
    families = {
        **attention_problems.tuning_sizes(),
        "matrix_recurrence": _recurrence(),
        "grouped_matmul": _experts(),
        **sparse_problems.tuning_sizes(),
        **fused_problems.tuning_sizes(),
        **scan_problems.tuning_sizes(),
    }
    named = [one for family, problems in families.items() if op in (None, family) for one in problems]
    problems = [Problem(name=name, operation=one, dtype="bfloat16", exact=False) for name, one in named]
    if op in (None, "matrix_recurrence"):
        problems += [Problem(name=name, operation=one, dtype="float16", exact=False) for name, one in _in_float16()]
    return problems


def _recurrence() -> Named:
    named: Named = []
    layers = [*_FIRST_LAYERS, *(layer for layer in LAYERS if layer not in _FIRST_LAYERS)]
    for D in (128, 64):
        for layer in layers:
            step = RecurrenceStep(B=16, Hqk=16, Hv=16, K=D, V=D, **asdict(LAYERS[layer]))
            named += [(f"{layer} D{D}", _sequence(layer, D)), (f"{layer} step D{D}", step)]
        if D == 128:
            mamba = Recurrence(B=1, T=8192, Hqk=1, Hv=32, K=128, V=64, gate="head", state=True)
            named += [
                ("mamba2 K128 V64", mamba),
                ("mamba2 step K128 V64", RecurrenceStep(B=16, Hqk=1, Hv=32, K=128, V=64, gate="head")),
            ]
        named += [
            (f"memories D{D}", Mlstm(B=2, T=4096, Hqk=12, Hv=12, K=D, V=D)),
            (f"memories step D{D}", MlstmStep(B=16, Hqk=16, Hv=16, K=D, V=D)),
        ]
    for layer in _FIRST_LAYERS:  # heads that fill a GPU, whose states stay in registers
        named.append((f"{layer} D128 of 64 heads", replace(_sequence(layer, 128), B=1, Hqk=64, Hv=64)))
    named.append(("memories D128 of 64 heads", Mlstm(B=1, T=4096, Hqk=64, Hv=64, K=128, V=128)))
    for layer in _FIRST_LAYERS:
        step = RecurrenceStep(B=16, Hqk=16, Hv=16, K=96, V=96, **asdict(LAYERS[layer]))
        named += [(f"{layer} D96", _sequence(layer, 96)), (f"{layer} step D96", step)]
    named += [(f"{layer} D256", replace(_sequence(layer, 256), Hqk=8, Hv=8)) for layer in _FIRST_LAYERS[:2]]
    named.append(("memories K256 V512", Mlstm(B=1, T=4096, Hqk=8, Hv=8, K=256, V=512)))
    for name, setting in SETTINGS.items():
        if name not in LAYERS:
            step = RecurrenceStep(B=16, Hqk=16, Hv=16, K=128, V=128, **asdict(setting))
            named.append((f"{name} step D128", step))
    return [*named, *((f"{name} D128", _sequence(name, 128)) for name in COMBINED)]


def _sequence(name: str, D: int) -> Recurrence:
    """On so few heads that no GPU of a hundred multiprocessors is full, where chunks run side by side."""
    return Recurrence(B=2, T=4096, Hqk=12, Hv=12, K=D, V=D, **asdict(SETTINGS[name]), state=True)


def _in_float16() -> Named:
    return [
        *((f"{layer} D128 in float16", _sequence(layer, 128)) for layer in LAYERS),
        ("memories D128 in float16", Mlstm(B=2, T=4096, Hqk=12, Hv=12, K=128, V=128)),
    ]


def _experts() -> Named:
    return [
        ("experts K2048 N1536", GroupedMatmul(M=32768, E=64, K=2048, N=1536)),
        ("experts K128 N1024", GroupedMatmul(M=32768, E=64, K=128, N=1024)),
    ]


def small(problem: Problem) -> Problem:
    """The same launches on little data, few tokens; heads stay, because kernels are compiled for them, and sequences of
    a matrix recurrence, because their number decides which kernels run."""
    one = problem.operation
    attention = attention_problems.small_size(one)
    if attention is not None:
        # Token by token, a few hundred queries take long on a GPU; a step is a single one.
        return replace(problem, operation=attention, exact=one.function == "attention_step")
    for one_file in (fused_problems, scan_problems, sparse_problems):
        smaller = one_file.small_size(one)
        if smaller is not None:
            return replace(problem, operation=smaller, exact=True)
    if isinstance(one, Recurrence | Mlstm):
        return replace(problem, operation=replace(one, T=330))
    if isinstance(one, RecurrenceStep | MlstmStep):
        return replace(problem, operation=replace(one, B=2), exact=True)
    assert isinstance(one, GroupedMatmul)
    fewer = replace(one, M=700, E=6, K=min(one.K, 320), N=min(one.N, 320))
    return replace(problem, operation=fewer, exact=True)
