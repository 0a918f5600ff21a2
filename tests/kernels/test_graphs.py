"""What a CUDA graph asks of every function: nothing waits for the device, and a replay gives what was computed."""

import pytest
import torch

import kernels
from kernels.tuning import watch_launches
from scripts import check_kernels
from scripts.kernel_lab.problem_lists import tiny_problems

# What Python reads of a tensor's contents.
READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__contains__")
NAMED = {"ids": lambda one: f"{one.op} {one.name}"}


@pytest.mark.parametrize("problem", tiny_problems(), **NAMED)
def test_no_host_code_reads_what_a_tensor_holds(problem, monkeypatch):
    """The kernels themselves are left out: their interpreter reads what it likes."""
    inputs, launched = problem.make_inputs("cpu"), []

    def refuse(name):
        def read(*args, **kwargs):
            raise AssertionError(f"Tensor.{name} waits for the device, which no CUDA graph can record")

        return read

    def zeros(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).zero_()  # no kernel writes it

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, refuse(name))
    for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(place, name, zeros(getattr(place, name)))
    with kernels.use_backend("gpu"), watch_launches(lambda key, launch: launched.append(key)):
        problem.run(inputs)
    assert launched


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("problem", tiny_problems("bfloat16"), **NAMED)
def test_bfloat16_is_right_on_a_gpu_and_so_is_a_replayed_graph(problem):
    found = check_kernels.check_problem(problem, torch.device("cuda"))
    assert found.passes, check_kernels.describe(found)
