"""What a CUDA graph asks of every function: nothing waits for the device, and a replay gives what was computed.

Decode steps of whole mixers: `tests/contract/test_steps.py`.
"""

import pytest
import torch

from scripts import check_kernels
from scripts.kernel_lab.problem_lists import tiny_problems
from tests.host_code import host_code_alone

NAMED = {"ids": lambda one: f"{one.op} {one.name}"}


@pytest.mark.parametrize("problem", tiny_problems(), **NAMED)
def test_no_host_code_reads_what_a_tensor_holds(problem, monkeypatch):
    inputs = problem.make_inputs("cpu")
    with host_code_alone(monkeypatch) as launched:
        problem.run(inputs)
    assert launched


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("problem", tiny_problems("bfloat16"), **NAMED)
def test_bfloat16_is_right_on_a_gpu_and_so_is_a_replayed_graph(problem):
    found = check_kernels.check_problem(problem, torch.device("cuda"))
    assert found.passes, check_kernels.describe(found)
