"""The selective scan: exact examples, portable and Triton against the definition, an outside oracle, and refusals."""

import pytest
import torch
import torch.nn.functional as F

from kernels import selective_scan, selective_scan_step, use_backend, vector_recurrence
from kernels._selective_scan import launches
from kernels.tuning import forget_tables
from tests.kernels.closeness import assert_close_relative

VALUES = {torch.float32: 1e-5, torch.float16: 2e-3}
GRADIENTS = {torch.float32: 1e-5, torch.float16: 5e-3}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "initial_state")


def problem(batch, length, channels, states, dtype=torch.float32, *, decay=1.0, extras=True):
    """Inputs by name; without extras no skip, gate and initial state. `decay` scales A: 30 forgets at once."""
    generator = torch.Generator().manual_seed(length + states)

    def normal(*shape, of=dtype):
        return torch.randn(*shape, generator=generator).to(of)

    tensors = {
        "u": normal(batch, length, channels),
        "delta": F.softplus(normal(batch, length, channels).float() - 1).to(dtype),
        "A": -decay * torch.exp(0.5 * normal(channels, states, of=torch.float32)),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
    }
    if extras:
        tensors["D"] = normal(channels, of=torch.float32)
        tensors["z"] = normal(batch, length, channels)
        tensors["initial_state"] = normal(batch, channels, states, of=torch.float32)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def call(backend, inputs):
    """Output and final state."""
    positional = [inputs[name] for name in NAMES[:5]]
    with use_backend(backend):
        return selective_scan(*positional, **{n: inputs[n] for n in NAMES[5:] if n in inputs}, return_state=True)


def with_gradients(backend, inputs):
    """Output, final state, and the gradients of all inputs under random gradients of both."""
    y, state = call(backend, inputs)
    return y, state, torch.autograd.grad(weighted(y, state), list(inputs.values()))


def weighted(y, state):
    """A loss: both under random gradients, always the same."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator) for x in (y, state)]
    return (y.float() * weights[0]).sum() + (state * weights[1]).sum()


def assert_equals_the_definition(backend, inputs):
    dtype = inputs["u"].dtype
    y, state, grads = with_gradients(backend, inputs)
    expected_y, expected_state, expected_grads = with_gradients("reference", inputs)
    assert y.dtype == dtype and state.dtype == torch.float32
    assert_close_relative(y, expected_y, VALUES[dtype])
    assert_close_relative(state, expected_state, VALUES[dtype])
    for name, grad, expected in zip(inputs, grads, expected_grads, strict=True):
        assert grad.dtype == inputs[name].dtype, name
        assert_close_relative(grad, expected, GRADIENTS[dtype])


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_exact_example(backend):
    half = torch.tensor(0.5).log()  # with delta 1 the state halves at every token
    inputs = {
        "u": torch.tensor([[[1.0], [2.0], [4.0]]]),
        "delta": torch.ones(1, 3, 1),
        "A": half.reshape(1, 1),
        "B": torch.ones(1, 3, 1),
        "C": torch.tensor([[[1.0], [1.0], [2.0]]]),
        "D": torch.tensor([10.0]),
        "initial_state": torch.tensor([[[8.0]]]),
    }
    y, state = call(backend, inputs)
    torch.testing.assert_close(y.flatten(), torch.tensor([5 + 10, 4.5 + 20, 12.5 + 40]))
    torch.testing.assert_close(state.flatten(), torch.tensor([6.25]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("length", [1, 15, 63, 100, 130])
def test_portable_equals_the_definition(length, dtype):
    assert_equals_the_definition("portable", problem(2, length, 20, 16 if length == 63 else 4, dtype))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(
    ("batch", "length", "channels", "states", "dtype", "extras"),
    [
        (2, 1, 20, 4, torch.float32, True),
        (1, 15, 3, 16, torch.float32, True),
        (1, 15, 3, 2, torch.float16, True),
        (1, 63, 5, 3, torch.float32, False),
        (1, 100, 4, 1, torch.float32, True),
        (1, 130, 3, 2, torch.float16, False),
    ],
)
def test_triton_equals_the_definition(batch, length, channels, states, dtype, extras):
    assert_equals_the_definition("gpu", problem(batch, length, channels, states, dtype, extras=extras))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("tile", [1, 2, 4])
def test_chunks_are_carried_over_in_tiles_of_any_length(tile, monkeypatch):
    """Five chunks, the last one short, in several tiles."""
    monkeypatch.setitem(launches._LAUNCHES, "carry", ((2, 1, tile),))
    forget_tables()
    assert_equals_the_definition("gpu", problem(2, 4 * launches.CHUNK + 2, 3, 1))
    forget_tables()


@pytest.mark.parametrize("decay", [1e-4, 30.0])
@pytest.mark.parametrize(("backend", "length"), [("portable", 130), ("gpu", 40)])
def test_extreme_decays_stay_exact(backend, length, decay):
    assert_equals_the_definition(backend, problem(1, length, 4, 2, decay=decay))


@pytest.mark.parametrize(("backend", "cut"), [("reference", 7), ("portable", 70), ("gpu", 33)])
def test_two_halves_with_the_state_handed_on_equal_one_pass(backend, cut):
    inputs = problem(2, cut + 9, 4, 2)
    y, state = call(backend, inputs)
    time = ("u", "delta", "B", "C", "z")
    first = {name: tensor[:, :cut] if name in time else tensor for name, tensor in inputs.items()}
    second = {name: tensor[:, cut:] if name in time else tensor for name, tensor in inputs.items()}
    y_first, middle = call(backend, first)
    y_second, last = call(backend, second | {"initial_state": middle})
    assert_close_relative(torch.cat([y_first, y_second], dim=1), y, 1e-5)
    assert_close_relative(last, state, 1e-5)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
@pytest.mark.parametrize("extras", [True, False])
def test_steps_equal_the_scan(backend, extras, dtype):
    inputs = {name: tensor.detach() for name, tensor in problem(2, 5, 20, 4, dtype, extras=extras).items()}
    y, final = call("reference", inputs)
    state = inputs.get("initial_state", torch.zeros(2, 20, 4))
    untouched = state.clone()
    for t in range(5):
        now = [x if name == "A" else x[:, t] for name, x in inputs.items() if name in NAMES[:5]]
        gate = inputs["z"][:, t] if extras else None
        before = state
        with use_backend(backend):
            y_t, state = selective_scan_step(*now, state=state, D=inputs.get("D"), z=gate)
        assert state is not before
        assert y_t.dtype == dtype and state.dtype == torch.float32
        assert_close_relative(y_t, y[:, t], VALUES[dtype])
    assert_close_relative(state, final, 1e-5)
    assert extras is False or torch.equal(inputs["initial_state"], untouched)


@pytest.mark.parametrize("backend", ["reference", "portable"])
def test_equals_the_scan_of_transformers_with_its_gradients(backend):
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    inputs = problem(2, 33, 12, 8)
    del inputs["initial_state"]
    u, delta, B, C, z = (inputs[name].transpose(1, 2) for name in ("u", "delta", "B", "C", "z"))
    y, state = mamba_selective_scan(u, delta, inputs["A"], B, C, inputs["D"], z, return_last_state=True)
    y = y.transpose(1, 2)
    expected = (y, state, *torch.autograd.grad(weighted(y, state), list(inputs.values())))
    y, state, grads = with_gradients(backend, inputs)
    for actual, right in zip((y, state, *grads), expected, strict=True):
        assert_close_relative(actual, right, 1e-5)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_inputs_may_be_views(backend):
    inputs = {name: tensor.detach() for name, tensor in problem(2, 9, 4, 2).items()}
    views = {name: torch.stack([x, -x], dim=-1)[..., 0] for name, x in inputs.items()}
    assert not views["u"].is_contiguous()
    assert_close_relative(call(backend, views)[0], call(backend, inputs)[0], 1e-6)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_each_input_may_have_its_own_type(backend):
    inputs = problem(1, 9, 4, 2, torch.float16)
    inputs["delta"] = inputs["delta"].detach().float().requires_grad_()
    assert_equals_the_definition(backend, inputs)


def test_operators_keep_what_torch_asks_of_them():
    from kernels._selective_scan import gpu, portable

    inputs = problem(1, 3, 2, 2)
    torch.library.opcheck(gpu._forward, tuple(inputs.values()))
    tensors = [tensor.detach() for name, tensor in inputs.items() if name != "initial_state"]
    y, state, starts = gpu._forward(*tensors, inputs["initial_state"].detach())
    torch.library.opcheck(gpu._backward, (torch.ones_like(y), torch.ones_like(state), *tensors, starts))
    u, delta, A, B, C, D, z = tensors
    state = inputs["initial_state"].detach()
    torch.library.opcheck(portable._forward, (u, delta, A, B, C, state))
    y, last, starts = portable._forward(u, delta, A, B, C, state)
    torch.library.opcheck(portable._backward, (y, last, u, delta, A, B, C, starts))
    torch.library.opcheck(
        gpu.selective_scan_step,
        (u[:, 0], delta[:, 0], A, B[:, 0], C[:, 0], inputs["initial_state"].detach(), D, z[:, 0]),
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("delta", (2, 5, 5), r"delta must be \[2, 5, 4\]"),
        ("B", (2, 5, 3), r"B must be \[2, 5, 2\]"),
        ("A", (2, 4), r"A must be \[4, 4\]"),
        ("D", (2,), r"D must be \[4\]"),
        ("z", (2, 4, 4), r"z must be \[2, 5, 4\]"),
        ("initial_state", (2, 2, 4), r"initial_state must be \[2, 4, 2\]"),
        ("u", (2, 0, 4), r"no empty axis, but got u \[2, 0, 4\]"),
        ("B", (2, 5, 3, 2), r"groups of B must divide the channels of u, but got 3 and 4"),
        ("u", (5, 4), r"u must be \[B, T, Dm\]"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        call("portable", problem(2, 5, 4, 2) | {name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": torch.ones(1, 3, 2).double()}, TypeError, "u must be float32, bfloat16 or float16.*float64"),
        ({"B": torch.ones(1, 3, 4).half()}, TypeError, "B must be torch.float32 like u.*float16"),
        ({"D": torch.ones(2).double()}, TypeError, "D must be torch.float32.*float64"),
        ({"initial_state": torch.ones(1, 2, 4).half()}, TypeError, "initial_state must be torch.float32"),
        ({"z": torch.ones(1, 3, 2, device="meta")}, ValueError, "u is on cpu and z on meta"),
    ],
)
def test_mixed_types_and_devices_are_refused_by_name(changed, error, message):
    with pytest.raises(error, match=message):
        call("portable", problem(1, 3, 2, 4, extras=False) | changed)


def test_a_step_names_its_own_state_and_shapes():
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"u must be \[B, Dm\] and A"):
        selective_scan_step(one[None], one[None], -torch.ones(2, 4), torch.ones(1, 4), torch.ones(1, 4), one)
    with pytest.raises(ValueError, match=r"^state must be \[1, 2, 4\]"):
        selective_scan_step(one, one, -torch.ones(2, 4), torch.ones(1, 4), torch.ones(1, 4), torch.ones(1, 4, 2))
    with pytest.raises(TypeError, match=r"state must be a tensor \[B, Dm, N\].*but got NoneType: start from zeros"):
        selective_scan_step(one, one, -torch.ones(2, 4), torch.ones(1, 4), torch.ones(1, 4), None)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_each_group_of_channels_has_its_own_projections(backend):
    """As the heads of Zamba."""
    inputs = problem(1, 9, 6, 2)
    generator = torch.Generator().manual_seed(5)
    for name in ("B", "C"):
        inputs[name] = torch.randn(1, 9, 3, 2, generator=generator).requires_grad_()
    assert_equals_the_definition(backend, inputs)
    y, state = call(backend, inputs)
    cut = {"u": -1, "delta": -1, "A": 0, "D": 0, "z": -1, "initial_state": 1}
    last = {name: inputs[name].narrow(dim, 4, 2) for name, dim in cut.items()}
    last |= {name: inputs[name][:, :, 2] for name in ("B", "C")}
    y_last, state_last = call("reference", last)
    assert_close_relative(y[..., 4:], y_last, 1e-5)
    assert_close_relative(state[:, 4:], state_last, 1e-5)
    now = [inputs["A"] if name == "A" else inputs[name][:, 0] for name in NAMES[:5]]
    with use_backend(backend):
        y_0, _ = selective_scan_step(*now, state=inputs["initial_state"], D=inputs["D"], z=inputs["z"][:, 0])
    assert_close_relative(y_0, y[:, 0], 1e-5)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_parameters_that_no_token_changes_may_be_expanded_and_gradients_have_stride_0(backend):
    """S4D-Real with projections that all channels share."""
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(2, 20, 3, generator=generator).requires_grad_()
    step = (0.1 + 0.2 * torch.rand(3, generator=generator)).requires_grad_()
    B, C = (torch.randn(2, generator=generator).requires_grad_() for _ in range(2))
    A = -torch.arange(1.0, 3.0).repeat(3, 1)
    y, _ = call(
        backend, {"u": u, "delta": step.expand(2, 20, 3), "A": A, "B": B.expand(2, 20, 2), "C": C.expand(2, 20, 2)}
    )
    grads = torch.autograd.grad(y.sum(), (u, step, B, C))
    # As a convolution: the response to an input t tokens ago.
    response = torch.exp(torch.arange(20.0)[:, None, None] * step[:, None] * A) * step[:, None] * B * C  # [T, Dm, N]
    kernel, padded = response.sum(-1).flip(0), F.pad(u, (0, 0, 19, 0))
    expected = torch.stack([(padded[:, t : t + 20] * kernel).sum(1) for t in range(20)], dim=1)
    assert_close_relative(y, expected, 1e-5)
    for grad, right in zip(grads, torch.autograd.grad(expected.sum(), (u, step, B, C)), strict=True):
        assert_close_relative(grad, right, 1e-5)


def test_a_complex_diagonal_is_two_real_vectors_in_the_frame_that_turns_with_it():
    """S4D as published, every channel with projections and frequencies of its own; see the door."""
    generator = torch.Generator().manual_seed(4)
    u, step = torch.randn(2, 15, 3, generator=generator), 0.1 + 0.2 * torch.rand(3, generator=generator)
    a, w, B, C = torch.rand(4, 3, 4, generator=generator).unbind(0)
    h, outputs = torch.zeros(2, 3, 4, dtype=torch.complex64), []
    for t in range(15):
        h = torch.exp(step[:, None] * torch.complex(-a, w)) * h + (step * u[:, t])[..., None] * B
        outputs.append((C * h).real.sum(-1))

    angle = torch.arange(1.0, 16.0)[:, None, None] * step[:, None] * w  # [T, Dm, N]
    x = (step * u)[..., None] * B
    turned = torch.cat([x * angle.cos(), -x * angle.sin()], dim=-1).flatten(2)
    log_decay = (-step[:, None] * a).repeat(1, 2).flatten().expand_as(turned)
    states = vector_recurrence(turned, log_decay)
    assert isinstance(states, torch.Tensor)
    r, s = states.unflatten(2, (3, 2, 4)).unbind(3)
    y = (C * (r * angle.cos() - s * angle.sin())).sum(-1)
    assert_close_relative(y, torch.stack(outputs, dim=1), 1e-5)
