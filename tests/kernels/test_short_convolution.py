"""The short convolution: an exact example, both implementations against the definition, an outside oracle, refusals."""

import pytest
import torch
import torch.nn.functional as F

from kernels import short_convolution, short_convolution_step, use_backend
from tests.kernels.closeness import assert_close_relative

VALUES = {torch.float32: 1e-5, torch.float16: 2e-3}
GRADIENTS = {torch.float32: 1e-5, torch.float16: 4e-3}
BACKENDS = ["reference", "portable", "gpu"]


def problem(batch, length, channels, width, dtype=torch.float32, *, extras=True):
    """Inputs by name; without extras no bias and no initial state."""
    generator = torch.Generator().manual_seed(100 * length + width)

    def normal(*shape, of=dtype):
        return torch.randn(*shape, generator=generator).to(of)

    tensors = {"x": normal(batch, length, channels), "weight": normal(channels, width, of=torch.float32)}
    if extras:
        tensors |= {"bias": normal(channels), "initial_state": normal(batch, width - 1, channels)}
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def call(backend, inputs, activation="silu"):
    """Output and final state."""
    with use_backend(backend):
        return short_convolution(**inputs, activation=activation, return_state=True)


def with_gradients(backend, inputs, activation="silu", *, only_y=False):
    """Output, final state, and the gradients of all inputs under random gradients of both; or under a sum of y."""
    y, state = call(backend, inputs, activation)
    if only_y:
        return y, state, torch.autograd.grad(y.sum(), list(inputs.values()))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(one.shape, generator=generator) for one in (y, state)]
    loss = (y.float() * weights[0]).sum() + (state.float() * weights[1]).sum()
    return y, state, torch.autograd.grad(loss, list(inputs.values()))


def assert_equals_the_definition(backend, inputs, activation="silu", **how):
    dtype = inputs["x"].dtype
    y, state, grads = with_gradients(backend, inputs, activation, **how)
    expected_y, expected_state, expected_grads = with_gradients("reference", inputs, activation, **how)
    assert y.dtype == state.dtype == dtype
    assert_close_relative(y, expected_y, VALUES[dtype])
    assert torch.equal(state, expected_state)
    for name, grad, expected in zip(inputs, grads, expected_grads, strict=True):
        assert grad.dtype == inputs[name].dtype, name
        assert_close_relative(grad, expected, GRADIENTS[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_example(backend):
    inputs = {
        "x": torch.tensor([[[1.0], [2.0], [4.0]]]),
        "weight": torch.tensor([[100.0, 10.0, 1.0]]),
        "bias": torch.tensor([0.5]),
        "initial_state": torch.tensor([[[7.0], [8.0]]]),
    }
    y, state = call(backend, inputs, activation=None)
    torch.testing.assert_close(y.flatten(), torch.tensor([781.5, 812.5, 124.5]))
    torch.testing.assert_close(state.flatten(), torch.tensor([2.0, 4.0]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize(("length", "width"), [(1, 4), (2, 8), (15, 2), (63, 3), (100, 4), (130, 8), (5, 1)])
def test_portable_equals_the_definition(length, width, dtype):
    assert_equals_the_definition("portable", problem(3, length, 20, width, dtype))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width", "dtype", "extras"),
    [
        (2, 1, 20, 4, torch.float32, True),
        (1, 2, 5, 8, torch.float32, True),
        (2, 15, 3, 2, torch.float16, True),
        (1, 15, 300, 3, torch.float32, False),
        (1, 63, 33, 4, torch.float16, False),
        (1, 100, 5, 4, torch.float16, True),
        (1, 130, 7, 5, torch.float32, True),
        (1, 9, 7, 8, torch.float32, True),
        (1, 6, 7, 1, torch.float32, True),
    ],
)
def test_triton_equals_the_definition(batch, length, channels, width, dtype, extras):
    assert_equals_the_definition("gpu", problem(batch, length, channels, width, dtype, extras=extras))


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_without_an_activation_the_sum_itself_comes_out(backend):
    assert_equals_the_definition(backend, problem(2, 9, 5, 4), None)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_incoming_gradient_may_be_one_number_expanded(backend):
    assert_equals_the_definition(backend, problem(2, 9, 5, 3), only_y=True)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_a_slice_of_a_wider_tensor_is_read_where_it_lies(backend):
    inputs = problem(2, 9, 6, 4)
    wide = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs["x"] = wide[..., 3:9]
    assert not inputs["x"].is_contiguous()
    assert_equals_the_definition(backend, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 2, 20])
def test_two_parts_with_the_state_handed_on_equal_one_pass(backend, cut):
    inputs = problem(2, cut + 9, 4, 4)
    y, state = call(backend, inputs)
    y_first, middle = call(backend, inputs | {"x": inputs["x"][:, :cut]})
    y_second, last = call(backend, inputs | {"x": inputs["x"][:, cut:], "initial_state": middle})
    assert_close_relative(torch.cat([y_first, y_second], dim=1), y, 1e-6)
    assert torch.equal(last, state)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("extras", "width"), [(True, 4), (False, 2), (True, 1)])
def test_steps_equal_the_convolution(backend, extras, width, dtype):
    inputs = {name: tensor.detach() for name, tensor in problem(2, 5, 20, width, dtype, extras=extras).items()}
    y, final = call("reference", inputs)
    state = inputs.get("initial_state", torch.zeros(2, width - 1, 20, dtype=dtype))
    untouched = state.clone()
    for t in range(5):
        before = state
        with use_backend(backend):
            y_t, state = short_convolution_step(inputs["x"][:, t], state, inputs["weight"], bias=inputs.get("bias"))
        assert state is not before and y_t.dtype == state.dtype == dtype
        assert_close_relative(y_t, y[:, t], VALUES[dtype])
    assert torch.equal(state, final)
    assert extras is False or torch.equal(inputs["initial_state"], untouched)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_grouped_convolution_of_pytorch_with_its_gradients(backend):
    inputs = problem(2, 33, 12, 4)
    padded = torch.cat((inputs["initial_state"], inputs["x"]), dim=1).transpose(1, 2)
    expected = F.silu(F.conv1d(padded, inputs["weight"].unsqueeze(1), inputs["bias"], groups=12)).transpose(1, 2)
    y, _, grads = with_gradients(backend, inputs, only_y=True)
    assert_close_relative(y, expected, 1e-5)
    for grad, right in zip(grads, torch.autograd.grad(expected.sum(), list(inputs.values())), strict=True):
        assert_close_relative(grad, right, 1e-5)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_empty_sequence_hands_the_state_on(backend):
    inputs = problem(2, 0, 5, 4)
    y, state = call(backend, inputs)
    assert y.shape == (2, 0, 5)
    assert torch.equal(state, inputs["initial_state"])


def test_operators_keep_what_torch_asks_of_them():
    from kernels._short_convolution import gpu

    inputs = problem(1, 3, 4, 3)
    tensors = [inputs[name] for name in ("x", "weight", "bias", "initial_state")]
    torch.library.opcheck(gpu._forward, (*tensors, True))
    x, weight, bias, state = (tensor.detach() for tensor in tensors)
    torch.library.opcheck(gpu._backward, (torch.ones_like(x), x, weight, bias, state, True))
    torch.library.opcheck(gpu.short_convolution_step, (x[:, 0], state, weight, bias, True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(5, 4)}, r"x must be \[B, T, D\] and weight \[D, W\]"),
        ({"weight": torch.ones(4, 9)}, r"W from 1 to 8, but got x \[2, 5, 4\] and weight \[4, 9\]"),
        ({"weight": torch.ones(3, 3)}, r"weight must be \[4, 3\]"),
        ({"bias": torch.ones(3)}, r"bias must be \[4\]"),
        ({"initial_state": torch.ones(2, 3, 4)}, r"initial_state must be \[2, 2, 4\]"),
        ({"weight": torch.ones(4, 3, dtype=torch.float16)}, r"weight must be torch\.float32 on cpu"),
        ({"bias": torch.ones(4, device="meta")}, r"but got torch\.float32 on meta: convert it first"),
        ({"activation": "gelu"}, r"activation must be 'silu' or None, but got 'gelu'"),
        ({"x": torch.ones(2, 5, 4, dtype=torch.int64)}, r"x must be float32, .* but got torch\.int64"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        short_convolution(**(problem(2, 5, 4, 3) | change))


def test_a_step_names_its_own_shapes():
    x, weight = torch.ones(2, 4), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"x must be \[B, D\] and weight \[D, W\]"):
        short_convolution_step(x[None], torch.ones(2, 2, 4), weight)
    with pytest.raises(ValueError, match=r"state must be \[2, 2, 4\] .*but got \[2, 3, 4\]"):
        short_convolution_step(x, torch.ones(2, 3, 4), weight)
    with pytest.raises(TypeError, match=r"state must be a tensor \[B, W - 1, D\].*but got NoneType: start from zeros"):
        short_convolution_step(x, None, weight)
