"""The matrix recurrence: every implementation against the definition (test_matrix_recurrence_oracles.py checks that).

Gates are named by what they are: none, fixed ([Hv]), per head ([B, T, Hv]), per channel ([B, T, Hv, K]); kinds by what
a token does beside writing: nothing (plain), erase with beta (delta), erase freely (erase), or read before it (bonus).
"""

import itertools

import pytest
import torch

from kernels._matrix_recurrence import matrix_recurrence, matrix_recurrence_step
from kernels._matrix_recurrence.plan import Plan
from kernels.backend import use_backend
from tests.kernels.closeness import assert_close_relative

GATES = ("none", "fixed", "per head", "per channel")
HALF_SETTINGS = (
    ("per head", "plain"),
    ("per head", "delta"),
    ("per channel", "plain"),
    ("per channel", "delta"),
    ("per channel", "erase and bonus"),
)
KINDS = ("plain", "delta", "erase", "bonus", "delta and bonus", "erase and bonus")


def inputs(length, key_size, value_size, gate, kind, *, batch=1, heads=(1, 2), initial=True, seed=0, strongest=1.0):
    """Tensors by name, ready for gradients, a and b of erase apart; keys have length one, as erasing wants them."""
    torch.manual_seed(seed)
    tokens, written = (batch, length, heads[0], key_size), (batch, length, heads[1], value_size)
    per_head = (batch, length, heads[1])
    given = {
        "q": torch.randn(tokens),
        "k": torch.nn.functional.normalize(torch.randn(tokens), dim=-1),
        "v": torch.randn(written),
    }
    shapes = {"fixed": (heads[1],), "per head": per_head, "per channel": (*per_head, key_size)}
    if gate != "none":
        given["log_decay"] = -strongest * torch.rand(shapes[gate])
    if "delta" in kind:
        given["beta"] = torch.rand(per_head)
    if "erase" in kind:
        a = torch.nn.functional.normalize(torch.randn(*per_head, key_size), dim=-1)
        given["a"], given["b"] = a, 0.2 * torch.randn(a.shape) / key_size**0.5 - torch.rand(*per_head, 1) * a
    if "bonus" in kind:
        given["bonus"] = torch.randn(heads[1], key_size)
    if initial:
        given["initial_state"] = torch.randn(batch, heads[1], key_size, value_size)
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def arguments(given):
    """As the door takes them."""
    given = dict(given)
    if "a" in given:
        given["erase"] = (given.pop("a"), given.pop("b"))
    return given


def run(backend, given, d_out, d_state):
    """Values and all gradients, by name."""
    with use_backend(backend):
        out, state = matrix_recurrence(**arguments(given), return_state=True)
    loss = (out.float() * d_out).sum() + (state * d_state).sum()
    grads = torch.autograd.grad(loss, list(given.values()))
    return {"o": out, "S": state, **{f"d {name}": grad for name, grad in zip(given, grads, strict=True)}}


def compare(backend, given, limit, reference_given=None):
    d_out = torch.randn(given["v"].shape)
    d_state = torch.randn(given["v"].shape[0], given["v"].shape[2], given["k"].shape[3], given["v"].shape[3])
    expected = run("reference", reference_given or given, d_out, d_state)
    actual = run(backend, given, d_out, d_state)
    for name, value in expected.items():
        try:
            assert_close_relative(actual[name], value, limit)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "delta and bonus"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("length", [1, 15, 63, 100, 130])
def test_portable_agrees_with_the_definition(length, gate, kind):
    sizes = {1: (16, 16), 15: (20, 24), 63: (48, 64), 100: (80, 16), 130: (20, 24)}[length]
    initial = length != 100
    compare("portable", inputs(length, *sizes, gate, kind, batch=2, heads=(2, 4), initial=initial), 1e-5)


@pytest.mark.parametrize(
    ("length", "key_size", "value_size", "gate", "kind"),
    [
        (1, 16, 16, "per head", "plain"),
        (1, 16, 16, "per channel", "plain"),
        (1, 16, 16, "per channel", "delta"),
        (1, 16, 16, "per channel", "erase and bonus"),
        (15, 20, 24, "none", "plain"),
        (15, 20, 24, "fixed", "delta"),
        (15, 20, 24, "none", "erase"),
        (20, 16, 16, "fixed", "delta and bonus"),
        (17, 20, 24, "per head", "bonus"),
        (63, 32, 16, "fixed", "plain"),
        (63, 16, 16, "none", "delta"),
        (5, 136, 16, "per head", "delta"),
        (5, 16, 512, "per head", "plain"),
        (100, 16, 64, "none", "plain"),
        (100, 16, 24, "per channel", "plain"),
        (130, 48, 24, "per head", "plain"),
        (130, 16, 40, "per head", "delta"),
    ],
)
def test_kernels_agree_with_the_definition(length, key_size, value_size, gate, kind, nan_filled_memory):
    compare("gpu", inputs(length, key_size, value_size, gate, kind, initial=length not in (15, 100)), 1e-5)


@pytest.mark.parametrize(
    ("key_size", "value_size", "kind"), [(48, 40, "plain"), (40, 24, "delta"), (16, 24, "erase and bonus")]
)
def test_kernels_of_one_head_that_forgets_by_channel_agree(key_size, value_size, kind, nan_filled_memory):
    compare("gpu", inputs(63, key_size, value_size, "per channel", kind, heads=(1, 1)), 1e-5)


@pytest.mark.parametrize(("gate", "length"), [("per head", 17), ("per channel", 5)])
def test_kernels_of_two_sequences_share_query_heads_and_start_from_zero(gate, length, nan_filled_memory):
    compare("gpu", inputs(length, 16, 16, gate, "delta", batch=2, heads=(1, 2), initial=False), 1e-5)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(
    ("backend", "length", "gate", "kind", "heads", "gates_too"),
    [
        *(("portable", 1, *setting, 2, False) for setting in HALF_SETTINGS),
        *(("portable", 100, *setting, 1, True) for setting in HALF_SETTINGS),
        *(("gpu", 15, *setting, 2, True) for setting in HALF_SETTINGS),
        ("gpu", 1, "per head", "delta", 2, False),
        ("gpu", 100, "per head", "plain", 1, False),
        ("gpu", 100, "per head", "delta", 1, False),
        *(("gpu", length, "per channel", kind, 1, False) for length in (100, 130) for kind in ("delta", "erase")),
        ("gpu", 130, "per channel", "plain", 1, False),
    ],
)
def test_float16_agrees_with_the_definition(backend, length, gate, kind, heads, gates_too):
    """Decays, strengths and bonuses are float32, or float16 as all else but the state."""
    names = {"q", "k", "v", "a", "b"} | ({"log_decay", "beta", "bonus"} if gates_too else set())
    given = inputs(length, 20, 24, gate, kind, heads=(1, heads))
    half = {name: (x.detach().half() if name in names else x.detach()).requires_grad_() for name, x in given.items()}
    exact = {name: tensor.detach().float().requires_grad_() for name, tensor in half.items()}
    compare(backend, half, 3e-3, exact)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize(
    ("gate", "kind"), [*itertools.product(("per head", "per channel"), ("plain", "delta")), ("per channel", "erase")]
)
def test_decays_down_to_exp_of_minus_50_stay_finite_and_right(backend, gate, kind):
    """Half of the tokens forget everything and half next to nothing; long sums keep 1e-4 of a difference."""
    given = inputs(70 if backend == "portable" else 33, 16, 16, gate, kind, heads=(1, 1))
    gates = torch.where(torch.rand(given["log_decay"].shape) < 0.5, -50.0, -0.01)
    compare(backend, given | {"log_decay": gates.requires_grad_()}, 3e-4)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize(
    ("gate", "kind"), [("per head", "delta"), ("per channel", "plain"), ("per channel", "erase and bonus")]
)
def test_two_pieces_with_the_state_between_equal_one_pass(backend, gate, kind):
    length, cut = (90, 37) if backend == "portable" else (36, 17)
    given = {name: x.detach() for name, x in inputs(length, 16, 24, gate, kind, heads=(1, 1)).items()}
    fixed = {name: given.pop(name) for name in ("bonus",) if name in given}
    initial = given.pop("initial_state")
    with use_backend(backend):
        out, state = matrix_recurrence(**arguments(given), **fixed, initial_state=initial, return_state=True)
        first = arguments({name: tensor[:, :cut] for name, tensor in given.items()}) | fixed
        rest = arguments({name: tensor[:, cut:] for name, tensor in given.items()}) | fixed
        out_first, between = matrix_recurrence(**first, initial_state=initial, return_state=True)
        out_rest, last = matrix_recurrence(**rest, initial_state=between, return_state=True)
    assert_close_relative(torch.cat((out_first, out_rest), dim=1), out, 1e-5)
    assert_close_relative(last, state, 1e-5)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("backend", "dtype", "gate"),
    [
        *itertools.product(("reference", "portable", "gpu"), (torch.float32,), GATES),
        *itertools.product(("gpu",), (torch.float16,), ("per head", "per channel")),
    ],
    ids=str,
)
def test_steps_equal_the_whole_sequence(backend, dtype, gate, kind):
    given = {name: tensor.detach() for name, tensor in inputs(2, 20, 24, gate, kind, batch=2).items()}
    of_dtype = ("q", "k", "v", "a", "b") + (("log_decay", "beta", "bonus") if gate == "per head" else ())
    given |= {name: given[name].to(dtype) for name in of_dtype if name in given}
    with use_backend("reference"):
        out, last = matrix_recurrence(**arguments(given), return_state=True)
    state = given.pop("initial_state")
    fixed = {"bonus"} | ({"log_decay"} if gate == "fixed" else set())
    for t in range(2):
        token = {name: tensor if name in fixed else tensor[:, t] for name, tensor in given.items()}
        with use_backend(backend):
            step, state = matrix_recurrence_step(**arguments(token), state=state)
        assert step.dtype == dtype and state.dtype == torch.float32
        assert_close_relative(step, out[:, t], 1e-5 if dtype == torch.float32 else 3e-3)
    assert_close_relative(state, last, 1e-5)


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_two_tokens_by_hand(backend):
    """S = 2·e_0 after the first token. Then S decays to 1, w = ½(5 - 1) = 2, S = 3, o = 10·3."""
    one = torch.ones(1, 2, 1, 1)
    halves = torch.tensor([1.0, 0.5]).view(1, 2, 1)
    given = {"log_decay": halves.log(), "beta": halves}
    with use_backend(backend):
        out, state = matrix_recurrence(
            one, one, torch.tensor([2.0, 5.0]).view(1, 2, 1, 1), **given, return_state=True, scale=10.0
        )
    torch.testing.assert_close(out.flatten(), torch.tensor([20.0, 30.0]))
    torch.testing.assert_close(state.flatten(), torch.tensor([3.0]))


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_erase_and_bonus_by_hand(backend):
    """S = 4 before; it decays to 2, 0.5·(3·4) = 6 is added, and 1·5. o = 10·(1·4 + 1·7·1·5)."""
    one = torch.ones(1, 1, 1, 1)
    with use_backend(backend):
        out, state = matrix_recurrence(
            one, one, 5 * one, log_decay=torch.tensor([0.5]).log(), erase=(3 * one, 0.5 * one),
            bonus=torch.tensor([[7.0]]), initial_state=4 * one, return_state=True, scale=10.0,
        )  # fmt: skip
    assert out.item() == pytest.approx(390.0)
    assert state.item() == pytest.approx(13.0)


@pytest.mark.parametrize(("backend", "length"), [("portable", 40), ("gpu", 20)])
def test_beta_is_erasing_with_the_decayed_key(backend, length):
    given = inputs(length, 16, 24, "per channel", "delta", heads=(2, 2))
    given = {name: tensor.detach() for name, tensor in given.items()}
    beta, decay = given.pop("beta")[..., None], given["log_decay"].exp()
    erase = (given["k"] * decay, -beta * given["k"])
    with use_backend(backend):
        expected = matrix_recurrence(**given, beta=beta[..., 0])
        actual = matrix_recurrence(**given | {"k": beta * given["k"]}, erase=erase)
    assert_close_relative(actual, expected, 1e-5)


def test_autocast_leaves_the_sums_in_float32():
    given = {name: tensor.detach() for name, tensor in inputs(40, 16, 16, "per head", "delta").items()}
    expected = matrix_recurrence(**given)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(matrix_recurrence(**given), expected)


@pytest.mark.parametrize(("gate", "kind"), [("per head", "delta"), ("per channel", "erase and bonus")])
def test_the_operator_keeps_the_rules_of_torch_compile(gate, kind):
    given = inputs(2, 16, 16, gate, kind, heads=(1, 1))
    names = ("q", "k", "v", "log_decay", "beta", "a", "b", "bonus", "initial_state")
    with use_backend("gpu"):
        matrix_recurrence(**arguments(given))
    operator = torch.ops.hybrid_nas.matrix_recurrence.default
    rules = (
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
    )  # tests/kernels/test_compile.py has the rest
    rules += ("test_aot_dispatch_dynamic",) if kind == "delta" else ()
    torch.library.opcheck(operator, (*(given.get(name) for name in names), 0.25), test_utils=rules)


def test_the_operators_of_gradients_and_of_steps_keep_them_too():
    given = {name: x.detach() for name, x in inputs(2, 16, 16, "per head", "delta", heads=(1, 1)).items()}
    gates, state = (given["log_decay"], given["beta"], None, None, None), given["initial_state"]
    q, k, v = (given[name] for name in ("q", "k", "v"))
    with use_backend("gpu"):
        matrix_recurrence(**given)
    operators = torch.ops.hybrid_nas
    torch.library.opcheck(operators.matrix_recurrence_backward.default, (v, state, q, k, v, *gates, state, 0.25))
    token = (q[:, 0], k[:, 0], v[:, 0], state, *(x if x is None else x[:, 0] for x in gates), 0.25)
    torch.library.opcheck(operators.matrix_recurrence_step.default, token)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize(
    ("gate", "kind"), [("per head", "plain"), ("per head", "delta"), ("per channel", "erase and bonus")]
)
@pytest.mark.parametrize(("programs_at_once", "writes_states"), [(1, False), (1000, True)])
def test_states_between_chunks_are_written_where_chunks_run_side_by_side_and_kept_nowhere(
    programs_at_once, writes_states, gate, kind, monkeypatch
):
    monkeypatch.setattr(Plan, "multiprocessors", programs_at_once)
    given = inputs(66, 32, 64, gate, kind, heads=(1, 1))
    with use_backend("reference"):
        expected = matrix_recurrence(**arguments(given), return_state=True)
    sizes, kept = [], []

    def recorded(allocate):
        def allocate_and_record(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            sizes.append(tensor.numel())
            return tensor

        return allocate_and_record

    for place, name in ((torch, "empty_like"), (torch.Tensor, "new_empty"), (torch.Tensor, "new_zeros")):
        monkeypatch.setattr(place, name, recorded(getattr(place, name)))
    with use_backend("gpu"), torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        actual = matrix_recurrence(**arguments(given), return_state=True)
    for value, right in zip(actual, expected, strict=True):
        assert_close_relative(value, right, 1e-5)
    states = 4 * 32 * 64  # before and after the three chunks that 66 tokens make
    assert (max(sizes) >= states) == writes_states
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in given.values()}


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_gradients_of_sums_have_stride_zero_and_are_right(backend):
    given = inputs(5, 16, 16, "per channel", "erase and bonus", heads=(1, 1))
    grads = []
    for name in ("reference", backend):
        with use_backend(name):
            out, state = matrix_recurrence(**arguments(given), return_state=True)
        grads.append(torch.autograd.grad(out.sum() + state.sum(), list(given.values())))
    for expected, actual in zip(*grads, strict=True):
        assert_close_relative(actual, expected, 1e-5)


PAIR = (torch.zeros(1, 5, 4, 16), torch.zeros(1, 5, 4, 16))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"q": torch.zeros(1, 5, 16)}, ValueError, r"q must have 4 axes \[B, T, H, D\], but got shape \[1, 5, 16\]"),
        ({"k": torch.zeros(1, 5, 2, 8)}, ValueError, r"q and k must have one shape.*\[1, 5, 2, 16\].*\[1, 5, 2, 8\]"),
        ({"v": torch.zeros(1, 4, 4, 8)}, ValueError, "v must agree with q in every axis before the heads"),
        ({"v": torch.zeros(1, 5, 3, 8)}, ValueError, "multiple of those of q and k, but got 3 and 2"),
        ({"v": torch.zeros(1, 5, 4, 0)}, ValueError, "No axis may be empty"),
        ({"v": torch.zeros(1, 5, 4, 1025)}, ValueError, "at most K = 256 and V = 1024, but got K=16 and V=1025"),
        ({"v": torch.zeros(1, 5, 4, 8).half()}, TypeError, "share one dtype.*torch.float16"),
        ({"log_decay": torch.zeros(2)}, ValueError, r"log_decay must have shape \[Hv\], \[B, T, Hv\].*but got \[2\]"),
        ({"log_decay": torch.zeros(4).double()}, TypeError, "log_decay must be torch.float32.*got torch.float64"),
        ({"beta": torch.zeros(1, 5, 2)}, ValueError, r"beta must have shape .*\[1, 5, 4\].*but got \[1, 5, 2\]"),
        ({"initial_state": torch.zeros(1, 4, 8, 16)}, ValueError, r"initial_state must have shape .*\[1, 4, 16, 8\]"),
        ({"initial_state": torch.zeros(1, 4, 16, 8).half()}, TypeError, "initial_state must be torch.float32"),
        ({"beta": torch.zeros(1, 5, 4), "erase": PAIR}, ValueError, "beta and erase exclude one another"),
        ({"erase": (PAIR[0], torch.zeros(1, 5, 2, 16))}, ValueError, r"b of erase must have shape .*\[1, 5, 4, 16\]"),
        ({"erase": (PAIR[0].half(), PAIR[1])}, TypeError, "a of erase must be torch.float32 like q and k"),
        ({"erase": PAIR[0]}, TypeError, r"erase must be a pair of tensors \(a, b\), but got Tensor"),
        ({"erase": (*PAIR, None)}, TypeError, r"\(a, b\), but got a tuple of 3 \(Tensor, Tensor, NoneType\)"),
        ({"bonus": torch.zeros(2, 16)}, ValueError, r"bonus must have shape \[Hv, K\] = \[4, 16\].*got \[2, 16\]"),
        ({"beta": torch.zeros(1, 5, 4, device="meta")}, ValueError, "q is on cpu and beta on meta"),
        ({"initial_state": torch.zeros(1, 4, 16, 8, device="meta")}, ValueError, "on cpu and initial_state on meta"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, error, message):
    given = {"q": torch.zeros(1, 5, 2, 16), "k": torch.zeros(1, 5, 2, 16), "v": torch.zeros(1, 5, 4, 8)}
    with pytest.raises(error, match=message):
        matrix_recurrence(**(given | changed))


def test_a_step_names_the_state_and_its_own_shapes():
    q, v = torch.zeros(1, 2, 16), torch.zeros(1, 4, 8)
    with pytest.raises(ValueError, match=r"state must have shape \[B, Hv, K, V\] = \[1, 4, 16, 8\]"):
        matrix_recurrence_step(q, q, v, torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"q must have 3 axes \[B, H, D\], but got shape \[1, 1, 2, 16\]"):
        matrix_recurrence_step(q[None], q, v, torch.zeros(1, 4, 16, 8))
    with pytest.raises(TypeError, match=r"state must be a tensor \[B, Hv, K, V\].*but got NoneType: start from zeros"):
        matrix_recurrence_step(q, q, v, None)
    with pytest.raises(ValueError, match="on cpu and state on meta"):
        matrix_recurrence_step(q, q, v, torch.zeros(1, 4, 16, 8, device="meta"))
    with pytest.raises(ValueError, match=r"log_decay must have shape \[Hv\], \[B, Hv\] or \[B, Hv, K\]"):
        matrix_recurrence_step(q, q, v, torch.zeros(1, 4, 16, 8), log_decay=torch.zeros(3))
