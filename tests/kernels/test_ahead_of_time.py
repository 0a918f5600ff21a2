"""Every kernel compiles for every supported architecture, keeps its values in registers and fits in shared memory."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from kernels import ahead_of_time
from kernels.ahead_of_time import OPS, Case, Resources, cases_of, compile_all, compile_on, complaint, distinct

CASE = Case("kernel", None, {}, {}, {"num_warps": 4})


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes under a version of Triton that recorded nothing
def test_kernels_compile_without_spills_and_within_shared_memory():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.ahead_of_time", "--sparing", "--jobs", "2"]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr
    for op in OPS:
        for case in distinct(cases_of(op)).values():
            assert f"\n{case.name:<56}" in finished.stdout, f"{case.name} of {op} was not looked at"


def test_a_spill_is_a_complaint():
    assert "spills 48 bytes" in (complaint(CASE, 90, Resources(255, 48, 0)) or "")


def test_shared_memory_above_the_limit_of_the_architecture_is_a_complaint():
    between = Resources(128, 0, 200 * 1024)
    assert "shared memory" in (complaint(CASE, 80, between) or "")
    assert complaint(CASE, 90, between) is None


@pytest.mark.parametrize(
    ("resources", "archs"),
    [
        (Resources(191, 0, 1024, matrix_units=False), [80]),
        (Resources(200, 0, 1024, matrix_units=False), [80, 90, 100]),
        (Resources(96, 0, 100 * 1024, matrix_units=False), [80, 90, 100]),
    ],
)
def test_what_is_far_from_every_limit_may_be_compiled_once_for_all_architectures(resources, archs, monkeypatch):
    monkeypatch.setattr(ahead_of_time, "compile_case", lambda case, arch: resources)
    assert list(compile_on(CASE, [80, 90, 100], turn=3)) == archs
    assert list(compile_on(CASE, [80, 90, 100])) == [80, 90, 100]


def test_what_uses_matrix_units_may_take_turns_with_the_architectures(monkeypatch):
    monkeypatch.setattr(ahead_of_time, "compile_case", lambda case, arch: Resources(200, 0, 1024, matrix_units=True))
    assert [list(compile_on(CASE, [80, 90, 100], turn=turn)) for turn in range(4)] == [[80], [90], [100], [80]]
    assert list(compile_on(CASE, [80, 90, 100])) == [80, 90, 100]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # from Python 3.12 on
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_compiles_to_the_same_code_is_compiled_once_under_its_first_name(jobs, monkeypatch):
    monkeypatch.setattr(ahead_of_time, "compile_case", lambda case, arch: Resources(len(case.name), 0, 0))
    forward, *_, backward = cases_of("glu")
    cases = [replace(forward, name="one"), replace(backward, name="of another kernel"), replace(forward, name="as one")]
    found = list(compile_all(list(distinct(cases).values()), [90], jobs=jobs))
    assert [(case.name, by_arch[90].registers) for case, by_arch in found] == [("one", 3), ("of another kernel", 17)]


def test_interpreted_kernels_are_refused_with_the_way_out():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "kernels.ahead_of_time", "--op", OPS[0]]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 2
    assert "unset TRITON_INTERPRET" in finished.stderr
