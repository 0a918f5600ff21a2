"""The mLSTM on the matrix recurrence: its equations, an outside oracle, gates of any size, and refusals."""

import pytest
import torch

from kernels import mlstm, mlstm_step, use_backend
from tests.kernels.closeness import assert_close_relative

BACKENDS = ["reference", "portable", "gpu"]


def problem(length, *, batch=1, heads=(1, 2), sizes=(20, 24), spread=1.0, state=True):
    """Inputs by name, ready for gradients; `spread` scales the logarithm of the input gate."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    made = {
        "q": normal(batch, length, heads[0], sizes[0]),
        "k": normal(batch, length, heads[0], sizes[0]),
        "v": normal(batch, length, heads[1], sizes[1]),
        "input_gate": spread * normal(batch, length, heads[1]),
        "forget_gate": torch.nn.functional.logsigmoid(2 * normal(batch, length, heads[1]) + 1),
    }
    if state:
        made["S"] = normal(batch, heads[1], sizes[0], sizes[1] + 1)
        made["m"] = normal(batch, heads[1])
    return {name: tensor.requires_grad_(name != "m") for name, tensor in made.items()}


def call(backend, given):
    """h and S exp(m), which is C beside n."""
    given = dict(given)
    start = (given.pop("S"), given.pop("m")) if "S" in given else None
    with use_backend(backend):
        h, (matrix, m) = mlstm(**given, initial_state=start, return_state=True)
    return h, matrix * m[..., None, None].exp()


def by_its_equations(given):
    """Equations 19 to 27 as they stand, token by token in float64: h and C beside n."""
    x = {name: tensor.double() for name, tensor in given.items()}
    group = x["v"].shape[2] // x["q"].shape[2]
    q, k = (x[name].repeat_interleave(group, dim=2) for name in ("q", "k"))
    batch, length, heads, size = q.shape
    c, n = q.new_zeros(batch, heads, size, x["v"].shape[3]), q.new_zeros(batch, heads, size)
    if "S" in x:
        both = x["S"] * x["m"][..., None, None].exp()
        c, n = both[..., :-1], both[..., -1]
    outputs = []
    for t in range(length):
        write, keep = x["input_gate"][:, t, :, None].exp(), x["forget_gate"][:, t, :, None].exp()
        c = keep[..., None] * c + (write * k[:, t])[..., None] * x["v"][:, t, :, None]
        n = keep * n + write * k[:, t]
        query = q[:, t] * size**-0.5
        bound = (n * query).sum(-1).abs().clamp_min(1.0)
        outputs.append((c * query[..., None]).sum(-2) / bound[..., None])
    return torch.stack(outputs, 1), torch.cat((c, n[..., None]), -1)


def assert_equals_its_equations(backend, given, limit=1e-5, grad_limit=1e-5, gate_limit=1e-5):
    """The gradient of a gate is a difference of large sums, and in half precision has a limit of its own."""
    names = [name for name in given if name != "m"]
    found, expected = call(backend, given), by_its_equations(given)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(one.shape, generator=generator) for one in expected]
    grads = [
        torch.autograd.grad(
            sum((one * weight).sum() for one, weight in zip(both, weights, strict=True)),
            [given[name] for name in names],
        )
        for both in (found, expected)
    ]
    assert found[0].dtype == given["v"].dtype
    for one, right in zip(found, expected, strict=True):
        assert_close_relative(one, right, limit)
    for name, grad, right in zip(names, *grads, strict=True):
        try:
            assert grad.dtype == given[name].dtype
            assert_close_relative(grad, right, gate_limit if "gate" in name else grad_limit)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("length", [1, 15, 63, 100, 130])
def test_portable_equals_its_equations(length):
    assert_equals_its_equations("portable", problem(length, batch=2, state=length != 63))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(
    ("length", "heads", "sizes"),
    [
        (1, (1, 2), (16, 16)),
        (5, (1, 1), (16, 512)),
        (63, (1, 1), (20, 24)),
        (100, (1, 2), (16, 15)),
        (130, (1, 1), (12, 15)),
    ],
)
def test_kernels_equal_its_equations(length, heads, sizes):
    assert_equals_its_equations("gpu", problem(length, heads=heads, sizes=sizes))


@pytest.mark.parametrize(("backend", "length"), [("portable", 130), ("gpu", 70)])
def test_float16_is_near_its_equations_with_its_gradients(backend, length):
    given = problem(length, heads=(1, 1))
    halves = {name: x.detach().half() if name in ("q", "k", "v") else x.detach() for name, x in given.items()}
    halves = {name: x.requires_grad_(name != "m") for name, x in halves.items()}
    assert_equals_its_equations(backend, halves, limit=5e-3, grad_limit=8e-3, gate_limit=2e-2)


@pytest.mark.parametrize(("backend", "length"), [("portable", 130), ("gpu", 20)])
def test_gates_of_a_hundred_and_more_neither_overflow_nor_vanish(backend, length):
    """exp(100) has no float32, and of tokens between, exp(-100) next to it has none either."""
    given = {name: x.detach() for name, x in problem(length, spread=100.0, state=False).items()}
    assert float(given["input_gate"].max()) > 100
    given = {name: x.requires_grad_() for name, x in given.items()}
    names = ("q", "v", "input_gate")
    with use_backend(backend):
        h = mlstm(**given)
    assert isinstance(h, torch.Tensor)
    expected, _ = by_its_equations(given)
    assert_close_relative(h, expected, 1e-3)  # exponents of 200 are exact to 1e-5, and some denominators nearly vanish
    for name in names:
        grad, right = (torch.autograd.grad(one.sum(), given[name], retain_graph=True)[0] for one in (h, expected))
        assert_close_relative(grad, right, 1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_cell_of_xlstm_in_transformers(backend):
    from transformers.models.xlstm.modeling_xlstm import mlstm_recurrent_sequence_native

    given = {name: x.detach() for name, x in problem(20, batch=2, heads=(2, 2)).items()}
    preactivation = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(5))
    given["forget_gate"] = torch.nn.functional.logsigmoid(preactivation)
    rows = [given[name].transpose(1, 2) for name in ("q", "k", "v", "input_gate")]
    start = {"c_initial": given["S"][..., :-1], "n_initial": given["S"][..., -1], "m_initial": given["m"][..., None]}
    h, (c, n, m) = mlstm_recurrent_sequence_native(
        *rows, preactivation.transpose(1, 2), **start, eps=0.0, return_last_states=True
    )
    with use_backend(backend):
        ours, (matrix, ours_m) = mlstm(
            *(given[name] for name in ("q", "k", "v", "input_gate", "forget_gate")),
            initial_state=(given["S"], given["m"]), return_state=True,
        )  # fmt: skip
    assert_close_relative(ours, h.transpose(1, 2), 1e-5)
    assert_close_relative(matrix, torch.cat((c, n[..., None]), -1), 1e-5)
    torch.testing.assert_close(ours_m, m.squeeze(-1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_halves_equal_the_whole_sequence(backend):
    given = {name: x.detach() for name, x in problem(6, batch=2).items()}
    state = given.pop("S"), given.pop("m")
    untouched = [x.clone() for x in state]
    with use_backend(backend):
        h, (last, m) = mlstm(**given, initial_state=state, return_state=True)
        _, middle = mlstm(**{name: x[:, :4] for name, x in given.items()}, initial_state=state, return_state=True)
        rest, (end, _) = mlstm(**{name: x[:, 4:] for name, x in given.items()}, initial_state=middle, return_state=True)
        now = state
        for t in range(6):
            h_t, now = mlstm_step(**{name: x[:, t] for name, x in given.items()}, state=now)
            assert_close_relative(h_t, h[:, t], 1e-5)
    assert_close_relative(rest, h[:, 4:], 1e-5)
    assert_close_relative(end, last, 1e-5)
    assert_close_relative(now[0], last, 1e-5)
    torch.testing.assert_close(now[1], m)
    assert all(torch.equal(one, before) for one, before in zip(state, untouched, strict=True))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 5e-3)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_equal_its_equations(backend, dtype, limit):
    given = {name: x.detach() for name, x in problem(5, batch=2).items()}
    given |= {name: given[name].to(dtype) for name in ("q", "k", "v")}
    h, last = by_its_equations(given)
    matrix, m = given.pop("S"), given.pop("m")
    for t in range(5):
        with use_backend(backend):
            h_t, (matrix, m) = mlstm_step(**{name: x[:, t] for name, x in given.items()}, state=(matrix, m))
        assert h_t.dtype == dtype and matrix.dtype == m.dtype == torch.float32
        assert_close_relative(h_t, h[:, t], limit)
    assert_close_relative(matrix * m[..., None, None].exp(), last, limit)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"q": torch.zeros(1, 5, 16)}, ValueError, r"q must have 4 axes \[B, T, H, D\], but got shape \[1, 5, 16\]"),
        ({"v": torch.zeros(1, 6, 4, 8)}, ValueError, r"v must agree with q in every axis before the heads.*6, 4, 8\]"),
        ({"v": torch.zeros(1, 5, 4, 8, device="meta")}, ValueError, "q is on cpu and v on meta"),
        ({"k": torch.zeros(1, 5, 2, 16, device="meta")}, ValueError, "q is on cpu and k on meta"),
        ({"initial_state": torch.zeros(1, 4, 16, 9)}, TypeError, r"pair of tensors \(S, m\), but got Tensor"),
        ({"initial_state": (torch.zeros(1, 4, 16, 9),)}, TypeError, r"initial_state .*but got a tuple of 1 \(Tensor\)"),
        ({"k": torch.zeros(1, 5, 2, 8)}, ValueError, "q and k must have one shape"),
        ({"v": torch.zeros(1, 5, 3, 8)}, ValueError, "multiple of those of q and k, but got 3 and 2"),
        ({"v": torch.zeros(1, 5, 4, 1024)}, ValueError, "V must be at most 1023, because the normaliser.*V=1024"),
        ({"input_gate": torch.zeros(1, 5, 2)}, ValueError, r"input_gate must be \[1, 5, 4\].*but got \[1, 5, 2\]"),
        ({"forget_gate": torch.zeros(1, 5, 4).double()}, TypeError, "forget_gate must be torch.float32.*float64"),
        ({"forget_gate": torch.zeros(1, 5, 4, device="meta")}, ValueError, "q is on cpu and forget_gate on meta"),
        ({"v": torch.zeros(1, 5, 4, 8).half()}, TypeError, "share one dtype"),
        (
            {"initial_state": (torch.zeros(1, 4, 16, 8), torch.zeros(1, 4))},
            ValueError,
            r"S of the state must be \[1, 4, 16, 9\].*but got \[1, 4, 16, 8\]",
        ),
        (
            {"initial_state": (torch.zeros(1, 4, 16, 9), torch.zeros(1, 4, 1))},
            ValueError,
            r"m of the state must be \[1, 4\]",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, error, message):
    given = {"q": torch.zeros(1, 5, 2, 16), "k": torch.zeros(1, 5, 2, 16), "v": torch.zeros(1, 5, 4, 8)}
    given |= {"input_gate": torch.zeros(1, 5, 4), "forget_gate": torch.zeros(1, 5, 4)}
    with pytest.raises(error, match=message):
        mlstm(**(given | changed))


def test_a_step_names_its_own_shapes_and_wants_a_state():
    q, v, gate = torch.zeros(1, 2, 16), torch.zeros(1, 4, 8), torch.zeros(1, 4)
    with pytest.raises(TypeError, match=r"^state must be a pair of tensors \(S, m\), but got NoneType"):
        mlstm_step(q, q, v, gate, gate, None)
    with pytest.raises(ValueError, match=r"m of the state must be \[1, 4\] .*but got \[1, 2\]"):
        mlstm_step(q, q, v, gate, gate, (torch.zeros(1, 4, 16, 9), torch.zeros(1, 2)))
    with pytest.raises(ValueError, match=r"input_gate must be \[1, 4\] beside q \[1, 2, 16\]"):
        mlstm_step(q, q, v, gate[:, :3], gate, (torch.zeros(1, 4, 16, 9), gate))
