"""WKV: exact examples, portable and Triton against the definition, an outside oracle, and refusals."""

import pytest
import torch

from kernels import use_backend, wkv, wkv_step
from kernels._wkv import launches, portable
from tests.kernels.closeness import assert_close_relative

VALUES = {torch.float32: 1e-5, torch.float16: 2e-3}
GRADIENTS = {torch.float32: 1e-5, torch.float16: 8e-3}
WEIGHT_GRADIENTS = {torch.float32: 1e-5, torch.float16: 2e-2}


def problem(batch, length, channels, dtype=torch.float32, *, state=True, spread=1.0):
    """Inputs by name; `spread` scales the keys: exp(30) of one key against another."""
    generator = torch.Generator().manual_seed(length + channels)
    k, v = torch.randn(2, batch, length, channels, generator=generator).unbind(0)
    a, m, u, time_decay = torch.randn(4, batch, channels, generator=generator).unbind(0)
    tensors = {"k": (spread * k).to(dtype), "v": v.to(dtype), "w": -torch.exp(2 * time_decay[0] - 1), "u": u[0]}
    if state:
        tensors["initial_state"] = torch.stack((a, torch.rand(batch, channels, generator=generator) + 0.5, m), dim=1)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def call(backend, inputs):
    """y and the final state."""
    with use_backend(backend):
        return wkv(**inputs, return_state=True)


def sums(state):
    """What a state means: a and b, here as b and a / b, which have no shift."""
    return torch.stack((state[:, 0] / state[:, 1], state[:, 1].log() + state[:, 2]), dim=1)


def with_gradients(backend, inputs):
    """y, the meaning of the final state, and the gradients of all inputs under random gradients of both."""
    y, state = call(backend, inputs)
    meaning = sums(state)
    return y, meaning, torch.autograd.grad(weighted(y, meaning), list(inputs.values()))


def weighted(y, meaning):
    """A loss of a and b alone, always the same: a quotient and, with the shift as the constant it is, a logarithm."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator) for x in (y, meaning)]
    return (y.float() * weights[0]).sum() + (meaning * weights[1]).sum()


def assert_equals_the_definition(backend, inputs):
    dtype = inputs["k"].dtype
    y, state, grads = with_gradients(backend, inputs)
    expected_y, expected_state, expected_grads = with_gradients("reference", inputs)
    assert y.dtype == dtype and state.dtype == torch.float32
    assert_close_relative(y, expected_y, VALUES[dtype])
    assert_close_relative(state, expected_state, VALUES[dtype])
    for name, grad, expected in zip(inputs, grads, expected_grads, strict=True):
        assert grad.dtype == inputs[name].dtype, name
        assert_close_relative(grad, expected, (WEIGHT_GRADIENTS if name in ("w", "u") else GRADIENTS)[dtype])


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_exact_example(backend):
    """Weights 1, 2, 4 for values 1, 2, 4; sums halve with every token; a token counts its own weight threefold."""
    log = torch.tensor([0.5, 3.0]).log()
    weights = torch.tensor([[[1.0], [2.0], [4.0]]])
    y, state = call(backend, {"k": weights.log(), "v": weights, "w": log[:1], "u": log[1:]})
    # Sums before the tokens: 0 and 0, then 1 and 1, then 1/2 + 4 and 1/2 + 2.
    expected = torch.tensor([1.0, (1 + 12) / (1 + 6), (4.5 + 48) / (2.5 + 12)])
    torch.testing.assert_close(y.flatten(), expected)
    torch.testing.assert_close(state[:, :2] * state[:, 2:].exp(), torch.tensor([[[2.25 + 16], [1.25 + 4]]]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("length", [1, 15, 63, 100, 130])
def test_portable_equals_the_definition(length, dtype):
    assert_equals_the_definition("portable", problem(2, length, 20, dtype, state=length != 63))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(
    ("batch", "length", "channels", "dtype", "state"),
    [
        (2, 1, 20, torch.float32, True),
        (1, 15, 3, torch.float32, False),
        (2, 16, 3, torch.float16, True),
        (1, 63, 2, torch.float16, True),
        (1, 100, 2, torch.float32, True),
        (1, 130, 1, torch.float32, False),
    ],
)
def test_triton_equals_the_definition_with_many_segments(batch, length, channels, dtype, state):
    assert launches.segments(batch, length, channels) == (-(-(length + 1) // 16), 1)
    assert_equals_the_definition("gpu", problem(batch, length, channels, dtype, state=state))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("length", [31, 50])
def test_triton_equals_the_definition_with_whole_sequences_in_a_program(length, monkeypatch):
    monkeypatch.setattr("kernels._wkv.gpu.segments", lambda batch, length, channels: (1, -(-(length + 1) // 16)))
    assert_equals_the_definition("gpu", problem(1, length, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("batch", "length", "channels"), [(8, 1000, 1000), (1, 5000, 100)])
def test_bfloat16_on_a_gpu_is_near_float32(batch, length, channels):
    given = problem(batch, length, channels, torch.bfloat16, state=False)
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in given.items()}
    exact = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    y, right = call("gpu", inputs)[0], call("portable", exact)[0]
    assert_close_relative(y, right, 5e-3)
    weight = torch.linspace(-1, 1, y.numel(), device="cuda").view(y.shape)
    grads = torch.autograd.grad((y.float() * weight).sum(), list(inputs.values()))
    right_grads = torch.autograd.grad((right * weight).sum(), list(exact.values()))
    for name, grad, one in zip(inputs, grads, right_grads, strict=True):
        assert_close_relative(grad, one, 8e-3 if name in ("k", "v") else 2e-2)


@pytest.mark.parametrize(("backend", "length"), [("portable", 60), ("gpu", 30)])
def test_keys_far_apart_neither_overflow_nor_vanish(backend, length):
    inputs = problem(1, length, 4, spread=100.0)
    assert float(inputs["k"].detach().max()) > 100
    y, state, grads = with_gradients(backend, inputs)
    expected_y, expected_state, expected_grads = with_gradients("reference", inputs)
    assert_close_relative(y, expected_y, 1e-4)  # exponents of 200 are exact to 1e-5
    assert_close_relative(state, expected_state, 1e-4)
    for grad, expected in zip(grads, expected_grads, strict=True):
        assert_close_relative(grad, expected, 1e-3)


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_two_halves_with_the_state_handed_on_equal_one_pass_with_its_gradients(backend):
    inputs = problem(1, 30, 3, state=False)
    whole, _ = call(backend, inputs)
    cuts = (slice(17), slice(17, None))
    parts = [{name: x[:, cut] if x.ndim == 3 else x for name, x in inputs.items()} for cut in cuts]
    first, middle = call(backend, parts[0])
    second, _ = call(backend, parts[1] | {"initial_state": middle})
    halves = torch.cat([first, second], dim=1)
    assert_close_relative(halves, whole, 1e-5)
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
    grads = [torch.autograd.grad((y * weight).sum(), list(inputs.values())) for y in (halves, whole)]
    for grad, expected in zip(*grads, strict=True):
        assert_close_relative(grad, expected, 1e-5)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_steps_equal_the_scan(backend, dtype):
    inputs = {name: x.detach() for name, x in problem(2, 5, 20, dtype).items()}
    y, last = call("reference", inputs)
    state, untouched = inputs["initial_state"], inputs["initial_state"].clone()
    for t in range(5):
        with use_backend(backend):
            y_t, state = wkv_step(inputs["k"][:, t], inputs["v"][:, t], inputs["w"], inputs["u"], state)
        assert y_t.dtype == dtype and state.dtype == torch.float32
        assert_close_relative(y_t, y[:, t], VALUES[dtype])
    assert_close_relative(state, last, 1e-5)
    assert torch.equal(inputs["initial_state"], untouched)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_gradients_of_stride_0_are_read_as_they_are(backend):
    inputs = problem(1, 20, 3, state=False)
    grads = torch.autograd.grad(call(backend, inputs)[0].sum(), list(inputs.values()))
    y, _ = call("reference", inputs)
    expected = torch.autograd.grad((y * torch.ones_like(y)).sum(), list(inputs.values()))
    for grad, right in zip(grads, expected, strict=True):
        assert_close_relative(grad, right, 1e-5)


def test_operators_keep_what_torch_asks_of_them():
    from kernels._wkv import gpu

    inputs = problem(1, 3, 2)
    k, v, w, u, state = (tensor.detach() for tensor in inputs.values())
    for implementation in (gpu, portable):
        torch.library.opcheck(implementation._forward, tuple(inputs.values()))
    y, last, tile_sums = gpu._forward(k, v, w, u, state)
    torch.library.opcheck(gpu._backward, (y, state, k, v, w, u, last, tile_sums))
    torch.library.opcheck(portable._backward, (y, state, k, v, w, u, state))
    torch.library.opcheck(gpu.wkv_step, (k[:, 0], v[:, 0], w, u, state))


@pytest.mark.parametrize("given", ["a state", "nothing"])
@pytest.mark.parametrize("backend", ["reference", "portable"])
def test_equals_the_attention_of_rwkv_in_transformers_with_its_gradients(backend, given):
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    inputs = problem(2, 33, 12, state=given == "a state")
    start = list(inputs["initial_state"].unbind(1)) if given == "a state" else None
    expected, state = rwkv_linear_attention_cpu(
        torch.log(-inputs["w"]), inputs["u"], inputs["k"], inputs["v"], start, return_state=True
    )
    meaning = sums(torch.stack(state, dim=1))
    y, last, grads = with_gradients(backend, inputs)
    expected_grads = torch.autograd.grad(weighted(expected, meaning), list(inputs.values()))
    for actual, right in zip((y, last, *grads), (expected, meaning, *expected_grads), strict=True):
        assert_close_relative(actual, right, 1e-5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"k": torch.zeros(5, 4)}, ValueError, r"k must be \[B, T, D\] with no empty axis, but got \[5, 4\]"),
        ({"v": torch.zeros(2, 5, 3)}, ValueError, r"v must be \[2, 5, 4\] beside k \[2, 5, 4\], but got \[2, 5, 3\]"),
        ({"w": torch.zeros(2, 4)}, ValueError, r"w must be \[4\]"),
        ({"u": torch.zeros(3)}, ValueError, r"u must be \[4\]"),
        ({"initial_state": torch.zeros(2, 4, 3)}, ValueError, r"initial_state must be \[2, 3, 4\]"),
        ({"v": torch.zeros(2, 5, 4).half()}, TypeError, "share one dtype.*torch.float32 and torch.float16"),
        ({"w": torch.zeros(4).half()}, TypeError, "w must be torch.float32"),
        ({"u": torch.zeros(4, device="meta")}, ValueError, "k is on cpu and u on meta"),
        (
            {"k": torch.zeros(2, 5, 4).double(), "v": torch.zeros(2, 5, 4).double()},
            TypeError,
            "float32, bfloat16 and float16, but got torch.float64",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, error, message):
    given = {"k": torch.zeros(2, 5, 4), "v": torch.zeros(2, 5, 4), "w": torch.zeros(4), "u": torch.zeros(4)}
    with pytest.raises(error, match=message):
        wkv(**(given | changed))


def test_a_step_names_the_state_and_its_own_shapes():
    k, w = torch.zeros(2, 4), torch.zeros(4)
    with pytest.raises(ValueError, match=r"k must be \[B, D\] with no empty axis, but got \[1, 2, 4\]"):
        wkv_step(k[None], k[None], w, w, torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"^state must be \[2, 3, 4\] beside k \[2, 4\], but got \[3, 4\]"):
        wkv_step(k, k, w, w, torch.zeros(3, 4))
    with pytest.raises(TypeError, match=r"state must be a tensor \[B, 3, D\].*start from \(0, 0, -1e38\)"):
        wkv_step(k, k, w, w, None)
