"""Every kernel compiles for every supported architecture, keeps its values in registers and fits in shared memory."""

import os
import subprocess
import sys

import pytest

from kernels.ahead_of_time import OPS, Case, Resources, complaint

CASE = Case("kernel", None, {}, {}, {"num_warps": 4})


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes where nothing is in the cache of the compiler
@pytest.mark.parametrize("op", OPS)
def test_kernels_compile_without_spills_and_within_shared_memory(op):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.ahead_of_time", "--op", op]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(finished.stdout.splitlines()) > 3, "no case was compiled"


def test_a_spill_is_a_complaint():
    assert "spills 48 bytes" in (complaint(CASE, 90, Resources(255, 48, 0)) or "")


def test_shared_memory_above_the_limit_of_the_architecture_is_a_complaint():
    between = Resources(128, 0, 200 * 1024)
    assert "shared memory" in (complaint(CASE, 80, between) or "")
    assert complaint(CASE, 90, between) is None


def test_interpreted_kernels_are_refused_with_the_way_out():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "kernels.ahead_of_time", "--op", OPS[0]]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 2
    assert "unset TRITON_INTERPRET" in finished.stderr
