"""Which implementation runs: automatic, overridden, refused; and backward uses what forward used."""

import os
import subprocess
import sys

import pytest
import torch

from kernels import grouped_matmul, use_backend
from kernels.backend import BACKENDS, choose_backend


def test_cpu_tensors_choose_portable_even_with_the_interpreter_on():
    assert choose_backend(torch.zeros(1)) == "portable"


@pytest.mark.parametrize("name", BACKENDS)
def test_the_override_holds_inside_the_block_and_ends_with_it(name):
    with use_backend(name):
        assert choose_backend(torch.zeros(1)) == name
    assert choose_backend(torch.zeros(1)) == "portable"


def test_overrides_nest():
    with use_backend("reference"):
        with use_backend("gpu"):
            assert choose_backend(torch.zeros(1)) == "gpu"
        assert choose_backend(torch.zeros(1)) == "reference"


def test_an_error_inside_the_block_ends_the_override():
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert choose_backend(torch.zeros(1)) == "portable"


def test_an_unknown_backend_is_refused_with_the_valid_names():
    with pytest.raises(ValueError, match=r"reference, portable, gpu, but got 'cuda'"), use_backend("cuda"):
        pass


def test_gpu_on_cpu_tensors_is_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match="needs CUDA tensors, but got a tensor on cpu"), use_backend("gpu"):
        choose_backend(torch.zeros(1))


def test_backward_runs_on_the_backend_of_forward():
    x, w = torch.ones(2, 3, requires_grad=True), torch.ones(1, 3, 4, requires_grad=True)
    with use_backend("gpu"):
        out = grouped_matmul(x, w, torch.tensor([2]))
    with use_backend("reference"):
        assert "grouped_matmul" in type(out.grad_fn).__name__
        out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full((2, 3), 4.0))


def test_importing_the_kernels_imports_no_triton():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = (
        "import kernels, sys; assert 'kernels._grouped_matmul.gpu' not in sys.modules, 'Triton kernels were imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
