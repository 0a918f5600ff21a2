"""Steps of the recurrences when gradients are asked for: right on every backend, and never from a kernel without any.

Their values are in the test of each operation. Here three steps, one after the other, have the gradients of the whole
sequence, whose backward pass is another code.
"""

import pytest
import torch

import kernels
from kernels import record_launches, use_backend
from tests.kernels.calls import calls
from tests.kernels.closeness import assert_close_relative

T = 3
FIXED = ("A", "D", "w", "weight", "bias", "bonus")  # what all tokens share
RECURRENCES = ("matrix_recurrence", "mlstm", "selective_scan", "vector_recurrence", "wkv", "short_convolution")


def inputs(operation):
    """Random arguments by name, those that tokens have for themselves [B, T, ...], and the state to begin with."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def rates(*shape):
        return -torch.rand(shape, generator=generator)

    heads = {name: normal(2, T, 2, 5) for name in ("q", "k", "v")}
    given = {
        "matrix_recurrence": lambda: heads | {"log_decay": rates(2, T, 2, 5), "beta": -rates(2, T, 2)},
        "mlstm": lambda: heads | {"input_gate": normal(2, T, 2), "forget_gate": rates(2, T, 2)},
        "selective_scan": lambda: {
            "u": normal(2, T, 4), "delta": -rates(2, T, 4), "A": rates(4, 3), "B": normal(2, T, 3),
            "C": normal(2, T, 3), "D": normal(4), "z": normal(2, T, 4),
        },
        "vector_recurrence": lambda: {"x": normal(2, T, 4), "log_decay": rates(2, T, 4)},
        "wkv": lambda: {"k": normal(2, T, 4), "v": normal(2, T, 4), "w": rates(4), "u": normal(4)},
        "short_convolution": lambda: {"x": normal(2, T, 4), "weight": normal(4, 3), "bias": normal(4)},
    }[operation]()  # fmt: skip
    state = {
        "matrix_recurrence": lambda: normal(2, 2, 5, 5),
        "mlstm": lambda: normal(2, 2, 5, 6),
        "selective_scan": lambda: normal(2, 4, 3),
        "vector_recurrence": lambda: normal(2, 4),
        "wkv": lambda: torch.stack((normal(2, 4), 0.5 - rates(2, 4), normal(2, 4)), dim=1),
        "short_convolution": lambda: normal(2, 2, 4),
    }[operation]()
    return {name: tensor.requires_grad_() for name, tensor in given.items()}, state.requires_grad_()


def as_given(operation, state):
    """The state as the door takes it: that of the mLSTM is a pair, whose second part has no gradient."""
    return (state, torch.zeros(2, 2)) if operation == "mlstm" else state


def in_steps(operation, given, state):
    """All outputs [B, T, ...], from one step after the other."""
    shared = {name for name in FIXED if name in given} | ({"u"} if operation == "wkv" else set())
    state, outputs = as_given(operation, state), []
    for t in range(T):
        token = {name: x if name in shared else x[:, t] for name, x in given.items()}
        output, state = getattr(kernels, f"{operation}_step")(**token, state=state)
        outputs.append(output)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("operation", RECURRENCES)
def test_steps_have_the_gradients_of_the_whole_sequence_on_the_gpu_backend_too(operation):
    given, state = inputs(operation)
    leaves = [*given.values(), state]
    with use_backend("gpu"), record_launches() as launched:
        outputs = in_steps(operation, given, state)
    assert not launched
    with use_backend("portable"):
        whole = getattr(kernels, operation)(**given, initial_state=as_given(operation, state))
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    assert_close_relative(outputs, whole, 1e-5)
    grads = [torch.autograd.grad((y * weight).sum(), leaves) for y in (outputs, whole)]
    for name, actual, expected in zip((*given, "state"), *grads, strict=True):
        try:
            assert_close_relative(actual, expected, 1e-5)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("operation", [name for name in RECURRENCES if name != "mlstm"])
def test_steps_without_gradients_run_the_kernel(operation):
    with use_backend("gpu"), record_launches() as launched:
        calls()[f"{operation}_step"]()
    assert list(launched) == [f"{operation}.step"]
