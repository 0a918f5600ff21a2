"""Every operation is one graph to torch.compile, with its gradients, in PyTorch and in Triton."""

from dataclasses import replace

import pytest
import torch

import kernels
from kernels.tuning import leave_out_launches
from nas.measure.rival_cases import as_called
from scripts.kernel_lab.forms import FORMS
from scripts.kernel_lab.operations import Mlstm, Recurrence
from scripts.kernel_lab.problem_lists import tiny_problems
from scripts.kernel_lab.problems import Inputs, Problem, Result, as_tuple, worst


def problems() -> list[Problem]:
    """The first of each function, or that with a state or a sum; recurrences on no more tokens than their interpreted
    kernels take a moment for and with all the arguments that go together; and steps over some of the slots, of which
    PyTorch reads on the host how many they are where it can."""
    first = {problem.op: problem for problem in reversed(tiny_problems())}
    first |= {one.op: one for one in tiny_problems() if one.name.endswith((", from a state", ", of a sum"))}
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


def in_one_graph(function: str, problems: list[Problem], inputs: list[Inputs]) -> list[Result]:
    """The results of all problems of a function, whose calls are compiled as one graph without a break."""
    torch.compiler.reset()
    call = getattr(kernels, function)

    def call_all(arguments):
        return [call(**one) for one in arguments]

    compiled = torch.compile(call_all, fullgraph=True, backend="aot_eager")
    answers = [as_tuple(one) for one in compiled([as_called(one.arguments) for one in inputs])]
    # All at once, as the calls have one backward pass.
    leaves = [one.arguments[name] for problem, one in zip(problems, inputs, strict=True) for name in names_of(problem)]
    taken = [one for answer in answers for one in answer if one.requires_grad]
    cotangents = [cotangent for one in inputs for cotangent in one.cotangents]
    gradients = iter(torch.autograd.grad(taken, leaves, cotangents) if leaves else ())
    return [
        Result(tuple(one.detach() for one in answer), {name: next(gradients) for name in names_of(problem)})
        for problem, answer in zip(problems, answers, strict=True)
    ]


def names_of(problem: Problem) -> tuple[str, ...]:
    return problem.operation.differentiable


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch itself
@pytest.mark.parametrize("function", FORMS)
def test_every_form_compiles_as_one_graph_on_the_kernels(function):
    problems = [one for one in tiny_problems() if one.op == function]
    inputs = [one.make_inputs("cpu") for one in problems]
    with leave_out_launches(multiprocessors=3) as launched:
        in_one_graph(function, problems, inputs)
    assert launched


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("function", FORMS)
def test_every_form_compiles_as_one_graph_on_a_gpu(function):
    problems = [one for one in tiny_problems("bfloat16") if one.op == function]
    inputs = [one.make_inputs("cuda") for one in problems]
    results = in_one_graph(function, problems, inputs)
    for problem, one, result in zip(problems, inputs, results, strict=True):
        found = worst(problem.errors(result, problem.reference(one)))
        assert found.passes, (problem.name, found)
