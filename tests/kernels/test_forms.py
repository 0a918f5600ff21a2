"""One list of forms: every option of a door is in it, and what is in it is checked, tuned, compiled ahead of time."""

import importlib
import inspect
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import kernels
from kernels.ahead_of_time import Case, cases_of
from kernels.backend import OPERATIONS
from kernels.tuned_table import Key
from nas.measure.rival_cases import as_called
from scripts.kernel_lab.forms import FORMS
from scripts.kernel_lab.problem_lists import launch_problems, tiny_problems
from scripts.kernel_lab.problems import DTYPES, Problem
from scripts.kernel_lab.tuning_bench import launch_candidates, launched_keys
from scripts.kernel_lab.tuning_problems import small, tuning_problems

FAMILIES = {
    "matrix_recurrence": ("matrix_recurrence", "matrix_recurrence_step", "mlstm", "mlstm_step"),
    "selective_scan": ("selective_scan", "selective_scan_step"),
    "vector_recurrence": ("vector_recurrence", "vector_recurrence_step"),
    "wkv": ("wkv", "wkv_step"),
    "short_convolution": ("short_convolution", "short_convolution_step"),
    "rms_norm": ("rms_norm", "l2_norm"),
    "glu": ("glu",),
}
NUMBERS = ("eps", "scale")  # which kernels take as they come
WHOLE = ("DECAY", "DELTA", "BEFORE")  # constants whose combination counts, not each value
MULTIPROCESSORS = 132


def of(functions: tuple[str, ...], problems: list[Problem]) -> list[Problem]:
    return [one for one in problems if one.op in functions]


def test_every_recurrence_and_fused_neighbour_has_forms():
    others = ("attention", "block_sparse", "grouped", "moe", "route", "rope", "linear_cross_entropy")
    expected = {name for name in OPERATIONS if not name.startswith(others)} | {"mlstm", "mlstm_step"}
    assert set(FORMS) == expected == {function for functions in FAMILIES.values() for function in functions}


@pytest.mark.parametrize("function", FORMS)
def test_every_option_of_a_door_is_given_and_left_out_by_some_form(function):
    door = getattr(kernels, function)
    called = [as_called(one.make_inputs("cpu").arguments) for one in of((function,), tiny_problems())]
    for name, parameter in inspect.signature(door).parameters.items():
        if name in NUMBERS or parameter.default is inspect.Parameter.empty:
            continue
        given = [arguments.get(name, parameter.default) for arguments in called]
        shown = {one if isinstance(one, NoneType | bool | str) else "given" for one in given}
        assert choices(get_type_hints(door)[name]) | {parameter.default} <= shown, f"{name}: {shown}"
        assert len(shown) > 1, f"{name} is always {shown}"


def choices(annotation: Any) -> set[object]:
    """The words that an argument may be."""
    parts = (annotation, *get_args(annotation))
    return {word for part in parts if get_origin(part) is Literal for word in get_args(part)}


@pytest.mark.parametrize("function", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_form_is_checked_at_its_launches_and_as_a_graph(function, dtype):
    fields = sorted({field for form in FORMS[function].values() for field in form})
    for problems in (tiny_problems(dtype), launch_problems()):
        shown = of((function,), [one for one in problems if one.dtype == dtype])
        seen = {tuple(getattr(one.operation, field) for field in fields) for one in shown}
        plain = type(shown[0].operation)
        for form in FORMS[function].values():
            wanted = {field: form.get(field, getattr(plain, field, None)) for field in fields}
            assert tuple(wanted.values()) in seen, f"{function} {form}"


@cache
def tiny_keys(family: str) -> dict[str, set[Key]]:
    """What the forms launch, by type."""
    problems = {dtype: of(FAMILIES[family], tiny_problems(dtype)) for dtype in DTYPES}
    return {dtype: {key for one in of_dtype for key in launched_keys(one, 3)} for dtype, of_dtype in problems.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kernel_is_compiled_ahead_of_time_with_all_that_forms_switch_on(family):
    shown = {feature for case in cases_of(family) for feature in features(case)}
    launch_case = importlib.import_module(f"kernels._{family}.gpu").launch_case
    keys = {key for keys in tiny_keys(family).values() for key in keys}
    wide = [one for one in of(FAMILIES[family], launch_problems()) if "D9000" in one.name and one.dtype == "float32"]
    for key in keys.union(*(launched_keys(one, MULTIPROCESSORS) for one in wide)):
        case = launch_case(key, launch_candidates(key)[0])
        assert features(case) <= shown, f"{key.label}: {features(case) - shown}"


def features(case: Case) -> set[object]:
    """Each kernel with each tensor that may be left out and each constant that is not a size."""
    switches = {
        name: value
        for name, value in case.constexprs.items()
        if value is None or isinstance(value, bool) or name in ("GATE", "ACT", *WHOLE)
    }
    together = tuple(switches.pop(name) for name in WHOLE if name in switches)
    pointers = {name: "given" for name, kind in case.signature.items() if kind.startswith("*")}
    return {(case.kernel, together), *((case.kernel, *one) for one in (switches | pointers).items())}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kernel_is_tuned_in_every_form_in_bfloat16(family):
    # What is tuned at other head sizes or for float16 is tuned for these first.
    problems = [one for one in tuning_problems(family) if one.dtype == "bfloat16" and "D64" not in one.name]
    tuned = {form_of(key) for one in problems for key in launched_keys(small(one), MULTIPROCESSORS)}
    assert {form_of(key) for key in tiny_keys(family)["bfloat16"]} <= tuned


def form_of(key: Key) -> tuple[object, ...]:
    return key.kernel, key.element_bytes, tuple(flag for flag in key.flags if flag[0] != "padded")


def test_kernels_of_the_matrix_recurrence_are_compiled_for_uneven_sizes_and_for_queries_that_heads_share():
    cases = cases_of("matrix_recurrence")
    kernels_with = {name: {one.kernel for one in cases if name in one.constexprs} for name in ("K", "V", "GROUP")}
    assert kernels_with["K"] | kernels_with["V"] == {one.kernel for one in cases if is_uneven(one)}
    assert kernels_with["GROUP"] == {one.kernel for one in cases if one.constexprs.get("GROUP", 1) != 1}


def is_uneven(case: Case) -> bool:
    """Whether a head size is no power of two."""
    sizes = [size for name in "KV" if isinstance(size := case.constexprs.get(name), int)]
    return any(size & (size - 1) for size in sizes)
