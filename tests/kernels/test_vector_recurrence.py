"""The vector recurrence: exact examples, portable and Triton against the definition, outside oracles, and refusals."""

import pytest
import torch
import torch.nn.functional as F

from kernels import use_backend, vector_recurrence, vector_recurrence_step
from kernels._vector_recurrence import launches, portable
from tests.fla_naive import naive
from tests.kernels.closeness import assert_close_relative

VALUES = {torch.float32: 1e-5, torch.float16: 2e-3}
GRADIENTS = {torch.float32: 1e-5, torch.float16: 8e-3}
DECAY_GRADIENTS = {torch.float32: 1e-5, torch.float16: 2e-2}


def problem(batch, length, channels, dtype=torch.float32, *, decay=1.0, decay_dtype=None):
    """Inputs by name; `decay` scales the logarithm: 1e-4 keeps nearly everything, 100 forgets at once."""
    generator = torch.Generator().manual_seed(length + channels)
    log_decay = -decay * torch.rand(batch, length, channels, generator=generator)
    tensors = {
        "x": torch.randn(batch, length, channels, generator=generator).to(dtype),
        "log_decay": log_decay.to(dtype if decay_dtype is None else decay_dtype),
        "initial_state": torch.randn(batch, channels, generator=generator),
    }
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def call(backend, inputs, *, reverse=False):
    """h and the state after the scan."""
    with use_backend(backend):
        return vector_recurrence(**inputs, return_state=True, reverse=reverse)


def scanned(x, log_decay):
    """h alone, from a state of zero."""
    h = vector_recurrence(x, log_decay)
    assert isinstance(h, torch.Tensor)
    return h


def with_gradients(backend, inputs, *, reverse):
    """h, the state, and the gradients of all inputs under random gradients of both."""
    h, state = call(backend, inputs, reverse=reverse)
    return h, state, torch.autograd.grad(weighted(h, state), list(inputs.values()))


def weighted(h, state):
    """A loss: both under random gradients, always the same."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator) for x in (h, state)]
    return (h.float() * weights[0]).sum() + (state * weights[1]).sum()


def assert_equals_the_definition(backend, inputs, *, reverse=False):
    dtype = inputs["x"].dtype
    h, state, grads = with_gradients(backend, inputs, reverse=reverse)
    expected_h, expected_state, expected_grads = with_gradients("reference", inputs, reverse=reverse)
    assert h.dtype == dtype and state.dtype == torch.float32
    assert_close_relative(h, expected_h, VALUES[dtype])
    assert_close_relative(state, expected_state, VALUES[dtype])
    for name, grad, expected in zip(inputs, grads, expected_grads, strict=True):
        assert grad.dtype == inputs[name].dtype, name
        assert_close_relative(grad, expected, (DECAY_GRADIENTS if name == "log_decay" else GRADIENTS)[dtype])


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_exact_example(backend):
    half = torch.full((1, 3, 1), 0.5).log()
    inputs = {"x": torch.tensor([[[1.0], [2.0], [4.0]]]), "log_decay": half, "initial_state": torch.tensor([[8.0]])}
    h, state = call(backend, inputs)
    torch.testing.assert_close(h.flatten(), torch.tensor([5.0, 4.5, 6.25]))
    torch.testing.assert_close(state.flatten(), torch.tensor([6.25]))
    h, state = call(backend, inputs, reverse=True)
    torch.testing.assert_close(h.flatten(), torch.tensor([4.0, 6.0, 8.0]))
    torch.testing.assert_close(state.flatten(), torch.tensor([4.0]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("length", [1, 15, 63, 100, 130])
def test_portable_equals_the_definition(length, dtype, reverse):
    assert_equals_the_definition("portable", problem(2, length, 20, dtype), reverse=reverse)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("length", "dtype"), [(1, torch.float32), (63, torch.float16), (100, torch.float32)])
def test_triton_equals_the_definition_with_whole_sequences_in_a_program(length, dtype, reverse, monkeypatch):
    monkeypatch.setattr(
        "kernels._vector_recurrence.gpu.segments", lambda batch, length, channels: (1, -(-length // 16))
    )
    assert_equals_the_definition("gpu", problem(2, length, 3, dtype), reverse=reverse)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "dtype"),
    [(2, 15, 37, torch.float32), (2, 100, 4, torch.float16), (1, 130, 3, torch.float32)],
)
def test_triton_equals_the_definition_with_many_segments(batch, length, channels, dtype, reverse):
    assert launches.segments(batch, length, channels) == (-(-length // 16), 1)
    assert_equals_the_definition("gpu", problem(batch, length, channels, dtype), reverse=reverse)


@pytest.mark.parametrize(("batch", "length", "channels"), [(8, 8192, 4096), (1, 131072, 1536), (2, 100, 5), (1, 1, 1)])
def test_segments_cover_the_sequence_and_none_is_empty(batch, length, channels):
    count, tiles = launches.segments(batch, length, channels)
    assert (count - 1) * tiles * launches.TILE < length <= count * tiles * launches.TILE
    assert count * batch * channels < 2 * launches._ENOUGH_PROGRAMS * launches._CHANNELS_A_PROGRAM or count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("batch", "length", "channels"), [(8, 1000, 1000), (1, 5000, 100)])
def test_bfloat16_on_a_gpu_is_near_float32(batch, length, channels, reverse):
    given = problem(batch, length, channels, torch.bfloat16)
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in given.items()}
    h, state, grads = with_gradients_on_gpu("gpu", inputs, reverse)
    exact = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    right_h, right_state, right_grads = with_gradients_on_gpu("portable", exact, reverse)
    assert_close_relative(h, right_h, 5e-3)
    assert_close_relative(state, right_state, 5e-3)
    for name, grad, right in zip(inputs, grads, right_grads, strict=True):
        assert_close_relative(grad, right, 2e-2 if name == "log_decay" else 8e-3)


def with_gradients_on_gpu(backend, inputs, reverse):
    h, state = call(backend, inputs, reverse=reverse)
    weights = [torch.linspace(-1, 1, x.numel(), device="cuda").view(x.shape).to(x.dtype) for x in (h, state)]
    return h, state, torch.autograd.grad((h, state), list(inputs.values()), weights)


@pytest.mark.parametrize("decay", [0.0, 1e-4, 100.0, float("inf")])
@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_extreme_decays_stay_exact(backend, decay):
    inputs = problem(1, 40, 2)
    log_decay = -decay * torch.ones_like(inputs["log_decay"]) if decay else torch.zeros_like(inputs["log_decay"])
    assert_equals_the_definition(backend, inputs | {"log_decay": log_decay.requires_grad_()})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_two_halves_with_the_state_handed_on_equal_one_pass(backend, reverse):
    inputs = {name: x.detach() for name, x in problem(1, 40, 3).items()}
    h, state = call(backend, inputs, reverse=reverse)
    parts = [{name: x[:, part] for name, x in inputs.items() if x.ndim == 3} for part in (slice(21), slice(21, None))]
    if reverse:
        parts.reverse()
    first, middle = call(backend, parts[0] | {"initial_state": inputs["initial_state"]}, reverse=reverse)
    second, last = call(backend, parts[1] | {"initial_state": middle}, reverse=reverse)
    assert_close_relative(torch.cat([second, first] if reverse else [first, second], dim=1), h, 1e-5)
    assert_close_relative(last, state, 1e-5)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_steps_equal_the_scan(backend, dtype):
    inputs = {name: x.detach() for name, x in problem(2, 5, 20, dtype).items()}
    h, last = call("reference", inputs)
    state, untouched = inputs["initial_state"], inputs["initial_state"].clone()
    for t in range(5):
        with use_backend(backend):
            h_t, state = vector_recurrence_step(inputs["x"][:, t], inputs["log_decay"][:, t], state)
        assert h_t.dtype == dtype and state.dtype == torch.float32
        assert_close_relative(h_t, h[:, t], VALUES[dtype])
    assert_close_relative(state, last, 1e-5)
    assert torch.equal(inputs["initial_state"], untouched)


def test_without_a_state_the_scan_starts_from_zero_and_returns_none():
    inputs = {name: x.detach() for name, x in problem(1, 9, 3).items()}
    expected, _ = call("reference", inputs | {"initial_state": torch.zeros(1, 3)})
    torch.testing.assert_close(scanned(inputs["x"], inputs["log_decay"]), expected)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_expanded_inputs_and_gradients_of_stride_0_are_read_as_they_are(backend):
    inputs = problem(2, 20, 4)
    fixed = (-torch.rand(4)).requires_grad_()  # one decay for all tokens
    with use_backend(backend):
        h = scanned(inputs["x"], fixed.expand(2, 20, 4))
    grads = torch.autograd.grad(h.sum(), (inputs["x"], fixed))
    with use_backend("reference"):
        h = scanned(inputs["x"], fixed.expand(2, 20, 4).contiguous())
    expected = torch.autograd.grad((h * torch.ones_like(h)).sum(), (inputs["x"], fixed))
    for grad, right in zip(grads, expected, strict=True):
        assert_close_relative(grad, right, 1e-5)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_the_decay_may_stay_in_float32(backend):
    assert_equals_the_definition(backend, problem(1, 20, 4, torch.float16, decay_dtype=torch.float32))


def test_operators_keep_what_torch_asks_of_them():
    from kernels._vector_recurrence import gpu

    inputs = problem(1, 3, 2)
    x, log_decay, state = (tensor.detach() for tensor in inputs.values())
    for implementation in (gpu, portable):
        torch.library.opcheck(implementation._forward, (*inputs.values(), True))
        torch.library.opcheck(implementation._backward, (x, state, log_decay, x, state, False))
    torch.library.opcheck(gpu.vector_recurrence_step, (x[:, 0], log_decay[:, 0], state))


def test_equals_the_scan_of_recurrent_gemma():
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    inputs = {name: x.detach() for name, x in problem(2, 33, 12).items()}
    no_reset = torch.zeros(2, 33, 1, dtype=torch.bool)
    rnn_scan = vars(RecurrentGemmaRglru)["_rnn_scan"]  # it uses nothing of its module
    h, state = rnn_scan(None, inputs["x"], inputs["log_decay"].exp(), no_reset, inputs["initial_state"])
    for backend in ("reference", "portable"):
        ours, last = call(backend, inputs)
        assert_close_relative(ours, h, 1e-5)
        assert_close_relative(last, state, 1e-5)


def min_gru(k, candidate):
    """Feng et al. (arXiv 2410.01201), section 3.1, token by token."""
    h, outputs = torch.zeros_like(k[:, 0]), []
    for t in range(k.shape[1]):
        z = torch.sigmoid(k[:, t])
        h = (1 - z) * h + z * candidate[:, t]
        outputs.append(h)
    return torch.stack(outputs, 1)


def min_lstm(f, i, candidate):
    """Section 3.2 there."""
    h, outputs = torch.zeros_like(f[:, 0]), []
    for t in range(f.shape[1]):
        forget, write = torch.sigmoid(f[:, t]), torch.sigmoid(i[:, t])
        h = (forget * h + write * candidate[:, t]) / (forget + write)
        outputs.append(h)
    return torch.stack(outputs, 1)


def test_the_minimal_networks_are_what_the_door_says():
    f, i, candidate = torch.randn(3, 2, 20, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    gru = scanned(i.sigmoid() * candidate, F.logsigmoid(-i))
    assert_close_relative(gru, min_gru(i, candidate), 1e-5)
    d = F.softplus(-f) - F.softplus(-i)
    assert_close_relative(scanned(d.sigmoid() * candidate, -F.softplus(d)), min_lstm(f, i, candidate), 1e-5)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("backend", ["reference", "portable"])
def test_equals_the_naive_hgrn_of_flash_linear_attention_with_its_gradients(backend, reverse):
    inputs = problem(2, 20, 6)
    h, state, grads = with_gradients(backend, inputs, reverse=reverse)
    leaves = list(inputs.values())
    x, log_decay = (one.flip(1) if reverse else one for one in leaves[:2])
    expected, expected_state = naive("hgrn").naive_recurrent_hgrn(x, log_decay, leaves[2], output_final_state=True)
    expected = expected.flip(1) if reverse else expected
    expected_grads = torch.autograd.grad(weighted(expected, expected_state), leaves)
    for actual, right in zip((h, state, *grads), (expected, expected_state, *expected_grads), strict=True):
        assert_close_relative(actual, right, 1e-5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(5, 4)}, ValueError, r"x must be \[B, T, D\] with no empty axis, but got \[5, 4\]"),
        ({"x": torch.zeros(2, 0, 4)}, ValueError, r"no empty axis, but got \[2, 0, 4\]"),
        ({"log_decay": torch.zeros(2, 5, 3)}, ValueError, r"log_decay must have the shape of x \[2, 5, 4\].*5, 3\]"),
        ({"initial_state": torch.zeros(4)}, ValueError, r"initial_state must be \[B, D\] = \[2, 4\].*but got \[4\]"),
        ({"x": torch.zeros(2, 5, 4).double()}, TypeError, "x must be float32, bfloat16 or float16.*float64"),
        ({"log_decay": torch.zeros(2, 5, 4).half()}, TypeError, "log_decay must be torch.float32 like x.*float16"),
        ({"initial_state": torch.zeros(2, 4).half()}, TypeError, "initial_state must be torch.float32"),
        ({"log_decay": torch.zeros(2, 5, 4, device="meta")}, ValueError, "x is on cpu and log_decay on meta"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, error, message):
    given = {"x": torch.zeros(2, 5, 4), "log_decay": torch.zeros(2, 5, 4)}
    with pytest.raises(error, match=message):
        vector_recurrence(**(given | changed))


def test_a_step_names_the_state_and_its_own_shapes():
    with pytest.raises(ValueError, match=r"x must be \[B, D\]"):
        vector_recurrence_step(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"state must be \[B, D\] = \[2, 3\]"):
        vector_recurrence_step(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(TypeError, match=r"state must be a tensor \[B, D\].*but got NoneType: start from zeros"):
        vector_recurrence_step(torch.zeros(2, 3), torch.zeros(2, 3), None)
