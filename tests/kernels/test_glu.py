"""The gate of a GLU: both implementations against the formula, an outside oracle, and refusals."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from kernels import glu, use_backend
from kernels._glu import GluActivation
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3}
ACTIVATIONS = get_args(GluActivation)


def problem(shape, dtype=torch.float32):
    """(gate, up): the halves of one tensor, as a projection gives them."""
    both = 2 * torch.randn(*shape[:-1], 2 * shape[-1], generator=torch.Generator().manual_seed(sum(shape)))
    return both.to(dtype).requires_grad_().chunk(2, dim=-1)


def with_gradients(backend, gate, up, activation, *, ones=False):
    with use_backend(backend):
        y = glu(gate, up, activation)
    weight = torch.ones(()) if ones else torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y, *torch.autograd.grad((y.float() * weight).sum() if not ones else y.sum(), (gate, up))


def assert_equals_the_definition(backend, gate, up, activation, **how):
    found, expected = (with_gradients(name, gate, up, activation, **how) for name in (backend, "reference"))
    for one, right in zip(found, expected, strict=True):
        assert one.dtype == gate.dtype
        assert_close_relative(one, right, LIMITS[gate.dtype])


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_exact_examples(backend):
    gate, up = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([10.0, 10.0, 10.0])
    with use_backend(backend):
        torch.testing.assert_close(glu(gate, up, "relu"), torch.tensor([0.0, 0.0, 20.0]))
        torch.testing.assert_close(glu(gate, up, "relu2"), torch.tensor([0.0, 0.0, 40.0]))
        torch.testing.assert_close(glu(gate, up, "sigmoid")[1], torch.tensor(5.0))
        torch.testing.assert_close(glu(gate, up, "silu")[1], torch.tensor(0.0))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_every_activation_equals_its_formula(backend, activation, dtype):
    assert_equals_the_definition(backend, *problem((2, 7, 20), dtype), activation)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("shape", [(1,), (1, 1), (130, 3), (3, 1100), (1, 100, 20), (2, 15, 3, 63)])
def test_triton_equals_the_definition_at_odd_sizes(shape):
    assert_equals_the_definition("gpu", *problem(shape), "silu")


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_incoming_gradient_may_be_one_number_expanded(backend):
    assert_equals_the_definition(backend, *problem((2, 9)), "gelu", ones=True)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_equals_the_activations_of_pytorch(backend):
    gate, up = (tensor.detach() for tensor in problem((3, 50)))
    known = {"silu": F.silu(gate), "gelu": F.gelu(gate), "gelu_tanh": F.gelu(gate, approximate="tanh")}
    with use_backend(backend):
        for activation, value in known.items():
            assert_close_relative(glu(gate, up, activation), value * up, 1e-6)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_nothing_to_open_is_nothing(backend):
    with use_backend(backend):
        assert glu(torch.ones(0, 8), torch.ones(0, 8)).shape == (0, 8)


def test_operators_keep_what_torch_asks_of_them():
    from kernels._glu import gpu

    gate, up = (tensor.detach().requires_grad_() for tensor in problem((3, 8)))
    torch.library.opcheck(gpu._forward, (gate, up, 1))
    torch.library.opcheck(gpu._backward, (torch.ones(3, 8), gate.detach(), up.detach(), 2))


@pytest.mark.parametrize(
    ("up", "activation", "message"),
    [
        (None, "silu", "up must be a tensor, but got None"),
        (torch.ones(2, 3), "silu", r"must both be \[\.\.\., D\], but got \[2, 4\] and \[2, 3\]"),
        (torch.ones(2, 4, dtype=torch.float16), "silu", "one type on one device"),
        (torch.ones(2, 4, device="meta"), "silu", r"one type on one device.*float32 on meta"),
        (torch.ones(2, 4), "tanh", "activation must be one of silu, gelu, gelu_tanh, relu, relu2, sigmoid, but got"),
    ],
)
def test_what_does_not_belong_together_is_refused(up, activation, message):
    with pytest.raises(ValueError, match=message):
        glu(torch.ones(2, 4), up, activation)
