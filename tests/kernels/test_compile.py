"""Every operation is one graph to torch.compile, with its gradients, in PyTorch and in Triton."""

from dataclasses import replace

import pytest
import torch

import kernels
from scripts.kernel_lab.operations import Mlstm, Recurrence
from scripts.kernel_lab.problem_lists import tiny_problems
from scripts.kernel_lab.problems import Problem, worst


def problems() -> list[Problem]:
    """The first of each function, recurrences on no more tokens than their interpreted kernels take a moment for and
    with all the arguments that go together, and steps over some of the slots, of which PyTorch reads on the host how
    many they are where it can."""
    first = {problem.op: problem for problem in reversed(tiny_problems())}
    short = {
        "matrix_recurrence": Recurrence(
            B=1, T=5, Hqk=1, Hv=1, K=16, V=16, gate="channel", erase=True, bonus=True, state=True
        ),
        "mlstm": Mlstm(B=1, T=5, Hqk=1, Hv=2, K=16, V=15),
    }
    first |= {op: replace(first[op], name="few tokens", operation=one) for op, one in short.items()}
    step = first["attention_step"]
    kept = replace(step, name="kept slots", operation=replace(step.operation, kept=9))
    return [*first.values(), kept, replace(step, name="listed slots", operation=replace(step.operation, listed=9))]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch itself
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("problem", problems(), ids=lambda one: f"{one.op} {one.name}")
def test_a_call_compiles_as_one_graph_with_its_gradients(problem, backend, monkeypatch):
    torch.compiler.reset()  # others' calls of the same function count towards a limit
    inputs = problem.make_inputs("cpu")
    reference = problem.reference(inputs)
    compiled = torch.compile(getattr(kernels, problem.op), fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(kernels, problem.op, compiled)
    with kernels.use_backend(backend):
        found = worst(problem.errors(problem.run(inputs), reference))
    assert found.passes, found
