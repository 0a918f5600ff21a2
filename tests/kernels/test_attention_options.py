"""Attention's options: every implementation computes the definition, gradients of sinks and gates included."""

import math

import pytest
import torch

from kernels._attention import attention, attention_step, portable_chunks
from kernels.backend import use_backend
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-5, torch.float16: 3e-3}
GATE_LIMITS = {torch.float32: 1e-5, torch.float16: 2e-2}
BACKENDS = ["portable", "gpu"]

# Tq, Tk, Hq, Hkv, D, Dv; options; further tensors
CASES = {
    "values smaller than keys": ((63, 63, 2, 1, 48, 32), {}, ()),
    "values larger than keys": ((33, 40, 2, 2, 16, 36), {"window": 20}, ()),
    "latent attention": ((20, 20, 2, 2, 192, 128), {}, ()),
    "latent attention, absorbed": ((5, 18, 2, 1, 576, 512), {}, ()),
    "sink": ((63, 63, 4, 2, 16, 16), {}, ("sink",)),
    "sink in a window": ((50, 100, 4, 1, 20, 20), {"window": 17}, ("sink",)),
    "sink in both directions": ((33, 20, 2, 1, 16, 16), {"causal": False}, ("sink",)),
    "cap": ((63, 63, 2, 1, 16, 16), {"softcap": 1.5}, ()),
    "cap, window and another scale": ((40, 100, 2, 1, 80, 80), {"softcap": 2.0, "window": 33, "scale": 0.3}, ()),
    "global keys": ((100, 100, 2, 1, 16, 16), {"window": 20, "num_global": 5}, ()),
    "many global keys": ((63, 100, 2, 2, 16, 16), {"window": 3, "num_global": 40}, ()),
    "more global keys than keys": ((15, 15, 2, 2, 16, 16), {"window": 3, "num_global": 40}, ()),
    "prefix": ((63, 63, 2, 1, 16, 16), {"prefix": 25}, ()),
    "prefix and later queries": ((15, 63, 2, 1, 16, 16), {"prefix": 55}, ()),
    "prefix in a window": ((63, 63, 2, 1, 16, 16), {"prefix": 20, "window": 9, "num_global": 2}, ()),
    "forget gates": ((63, 63, 2, 2, 16, 16), {}, ("log_forget",)),
    "forget gates of grouped heads": ((40, 63, 4, 2, 20, 16), {"window": 30}, ("log_forget",)),
    "everything": (
        (40, 63, 2, 1, 48, 16),
        {"window": 30, "num_global": 3, "softcap": 3.0, "return_lse": True},
        ("sink", "log_forget"),
    ),
    "log-sum-exp": ((33, 40, 2, 1, 16, 16), {"return_lse": True}, ()),
    "log-sum-exp in both directions": ((15, 40, 2, 1, 16, 16), {"return_lse": True, "causal": False}, ()),
}


def inputs(case, dtype=torch.float32):
    """Tensors by name, in the type but for sinks and gates, and options."""
    (queries, keys, heads, kv_heads, size, value_size), options, further = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "q": (1, queries, heads, size),
        "k": (1, keys, kv_heads, size),
        "v": (1, keys, kv_heads, value_size),
    }
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    tensors["q"] = 2 * tensors["q"]  # so that caps and sinks matter
    if "sink" in further:
        tensors["sink"] = torch.randn(heads, generator=generator)
    if "log_forget" in further:
        tensors["log_forget"] = torch.nn.functional.logsigmoid(torch.randn(1, keys, heads, generator=generator) + 1)
    return tensors, options


def outputs_and_gradients(tensors, options, backend):
    """o, and where asked for the log-sum-exp; then a gradient by name for each tensor, through both outputs."""
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    with use_backend(backend):
        outputs = attention(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in outputs]
    finite = [x.masked_fill(x == -math.inf, 0.0) for x in outputs]
    gradients = torch.autograd.grad(finite, list(leaves.values()), cotangents)
    return [x.detach() for x in finite], dict(zip(leaves, gradients, strict=True))


def assert_same(actual, expected, dtype):
    outputs, gradients = actual
    wanted, wanted_gradients = expected
    for one, right in zip(outputs, wanted, strict=True):
        assert_close_relative(one, right, LIMITS[dtype])
    for name, gradient in gradients.items():
        limit = LIMITS if name in ("q", "k", "v") else GATE_LIMITS
        assert_close_relative(gradient, wanted_gradients[name], limit[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_reference(case, backend, small_attention_tiles, nan_filled_memory):
    tensors, options = inputs(case)
    expected = outputs_and_gradients(tensors, options, "reference")
    assert_same(outputs_and_gradients(tensors, options, backend), expected, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["latent attention", "everything"])
def test_half_precision_stays_close_to_the_reference_in_single(case, backend, nan_filled_memory):
    tensors, options = inputs(case, torch.float16)
    single = {name: x.float() for name, x in tensors.items()}
    expected = outputs_and_gradients(single, options, "reference")
    actual = outputs_and_gradients(tensors, options, backend)
    assert [x.dtype for x in actual[0]] == [torch.float16, torch.float32][: len(actual[0])]
    assert_same(actual, expected, torch.float16)


def test_chunks_of_queries_make_no_difference(monkeypatch):
    tensors, options = inputs("everything")
    whole = outputs_and_gradients(tensors, options, "portable")
    monkeypatch.setattr(portable_chunks, "QUERIES_PER_CHUNK", 16)
    assert_same(outputs_and_gradients(tensors, options, "portable"), whole, torch.float32)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_square_of_the_length():
    kept = []
    q = torch.randn(1, 512, 2, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attention(q, q, q, sink=torch.zeros(2))
    assert sum(kept) < 6 * q.numel()


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_of_the_keys_are_put_together_by_their_log_sum_exps(backend):
    q, k, v = torch.randn(3, 1, 12, 2, 16)
    with use_backend(backend):
        whole, lse = attention(q, k, v, causal=False, return_lse=True)
        parts = [attention(q, k[:, s], v[:, s], causal=False, return_lse=True) for s in (slice(5), slice(5, None))]
    weights = torch.stack([one for _, one in parts]).softmax(0)
    assert_close_relative(sum(w.unsqueeze(-1) * o for w, (o, _) in zip(weights, parts, strict=True)), whole, 1e-5)
    assert_close_relative(torch.logsumexp(torch.stack([one for _, one in parts]), 0), lse, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["everything", "prefix in a window"])
def test_gradients_repeat_bit_for_bit(case, backend):
    tensors, options = inputs(case)
    first, second = (outputs_and_gradients(tensors, options, backend)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_incoming_gradients_of_stride_zero_are_read_right(backend):
    tensors, options = inputs("everything")
    leaves = [x.detach().requires_grad_() for x in tensors.values()]
    found = []
    for name in ("reference", backend):
        with use_backend(name):
            o, lse = attention(**dict(zip(tensors, leaves, strict=True)), **options)
        found.append(torch.autograd.grad(o.sum() + lse.sum(), leaves))
    for actual, expected in zip(found[1], found[0], strict=True):
        assert_close_relative(actual, expected, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_the_log_sum_exp_alone(backend):
    q, k = torch.randn(2, 1, 12, 2, 16, generator=torch.Generator().manual_seed(0)).unbind()
    found = []
    for name in ("reference", backend):
        leaves = [x.detach().requires_grad_() for x in (q, k)]
        with use_backend(name):
            _, lse = attention(*leaves, k, return_lse=True)
        found.append(torch.autograd.grad(lse.square().sum(), leaves))
    for actual, expected in zip(found[1], found[0], strict=True):
        assert_close_relative(actual, expected, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_whole_with_every_option(backend):
    torch.compiler.reset()  # other tests compile this function too, and there is a limit
    tensors, options = inputs("everything")
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    with use_backend(backend):
        expected = attention(**tensors, **options)
        for actual, right in zip(compiled(**tensors, **options), expected, strict=True):
            assert_close_relative(actual, right, 1e-5)


# Hq, Hkv, D, Dv, slots, length; options; further tensors
STEPS = {
    "values of another size": ((4, 2, 48, 32, 40, 33), {}, ()),
    "latent attention, absorbed": ((8, 1, 96, 64, 40, 33), {"value_size": 64}, ()),
    "latent attention of DeepSeek": ((20, 1, 576, 512, 70, 65), {"value_size": 512}, ()),
    "cap and sink": ((4, 1, 16, 16, 40, 33), {"softcap": 1.5}, ("sink",)),
    "forget gates": ((4, 2, 20, 20, 40, 33), {}, ("bias",)),
    "kept slots and a sink": ((4, 2, 20, 20, 40, 33), {}, ("sink", "keep")),
    "everything over several splits": (
        (3, 1, 48, 16, 600, 590),
        {"softcap": 2.0, "return_lse": True, "scale": 0.3},
        ("sink", "bias", "keep"),
    ),
    "listed slots": ((4, 2, 20, 20, 40, 33), {}, ("listed",)),
    "listed slots of latent attention": ((8, 1, 96, 64, 40, 33), {"value_size": 64}, ("listed",)),
    "listed slots with everything": (
        (4, 2, 48, 16, 600, 590),
        {"softcap": 2.0, "return_lse": True},
        ("sink", "bias", "keep", "listed"),
    ),
    "log-sum-exp over several splits": ((4, 2, 16, 16, 600, 590), {"return_lse": True}, ("keep",)),
}


def step_inputs(case):
    (heads, kv_heads, size, value_size, slots, length), options, further = STEPS[case]
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(2, heads, size, generator=generator)
    k, v = (torch.randn(2, slots, kv_heads, one, generator=generator) for one in (size, value_size))
    made = {
        "sink": torch.randn(heads, generator=generator),
        "bias": torch.randn(2, heads, slots, generator=generator),
        "keep": torch.rand(2, kv_heads, slots, generator=generator) < 0.3,
    }
    made["keep"][0, 0] = False
    order = torch.rand(2, kv_heads, slots + 5, generator=generator).argsort(-1)
    made["listed"] = order.masked_fill(order >= slots, -1)[..., : slots * 2 // 3]  # of those not filled, too
    return (q, k, None if "value_size" in options else v), length, options | {name: made[name] for name in further}


def step(tensors, length, options, backend):
    with use_backend(backend):
        outputs = attention_step(*tensors, length, **options)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_same_step(actual, expected, limit=1e-5):
    for one, right in zip(actual, expected, strict=True):
        assert torch.equal(one == -math.inf, right == -math.inf)
        assert_close_relative(one.nan_to_num(neginf=0.0), right.nan_to_num(neginf=0.0), limit)


HALF_STEPS = ("latent attention, absorbed", "listed slots", "log-sum-exp over several splits")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, torch.float32) for case in STEPS if case != "log-sum-exp over several splits"),
        *((case, torch.float16) for case in HALF_STEPS),
    ],
    ids=str,
)
def test_a_step_is_that_of_the_reference(case, dtype, backend, small_attention_tiles, nan_filled_memory):
    tensors, length, options = step_inputs(case)
    q, k, v = (None if x is None else x.to(dtype) for x in tensors)
    expected = step([None if x is None else x.float() for x in (q, k, v)], length, options, "reference")
    # What lies in slots that are not filled must not matter.
    unfilled = [None if x is None else x.clone() for x in (k, v)]
    for cache in unfilled:
        if cache is not None:
            cache[:, length:] = float("nan")
    actual = step((q, *unfilled), length, options, backend)
    assert [x.dtype for x in actual] == [dtype, torch.float32][: len(actual)]
    assert_same_step(actual, expected, LIMITS[dtype])


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(
    "case", ["latent attention, absorbed", "everything over several splits", "listed slots with everything"]
)
def test_a_length_on_the_device_is_the_same_length(case, backend, small_attention_tiles, nan_filled_memory):
    tensors, length, options = step_inputs(case)
    expected = step(tensors, length, options, backend)
    for given in (torch.tensor(length), torch.tensor([length, length], dtype=torch.int32)):
        assert_same_step(step(tensors, given, options, backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_and_heads_may_share_a_list_of_slots(backend, small_attention_tiles, nan_filled_memory):
    tensors, length, options = step_inputs("listed slots")
    for shared in (options["listed"][:1], options["listed"][:, :1], options["listed"][:1, :1].int()):
        expected = step(tensors, length, {"listed": shared.expand(2, 2, -1)}, "reference")
        assert_same_step(step(tensors, length, {"listed": shared}, backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_sequence_may_have_its_own_length(backend, small_attention_tiles, nan_filled_memory):
    tensors, _, options = step_inputs("everything over several splits")
    lengths = torch.tensor([1, 301])
    expected = step(tensors, lengths, options, "reference")
    assert_same_step(step(tensors, lengths, options, backend), expected)
    beyond = torch.tensor([1, 10_000])
    assert_same_step(step(tensors, beyond, options, backend), step(tensors, torch.tensor([1, 600]), options, backend))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("lengths", [0, [0, 0], -2], ids=["of all", "of each", "below zero"])
def test_a_length_of_zero_on_the_device_sees_no_slot(lengths, backend, small_attention_tiles, nan_filled_memory):
    for case in ("log-sum-exp over several splits", "cap and sink"):
        tensors, _, options = step_inputs(case)
        o, *lse = step(tensors, torch.tensor(lengths), options, backend)
        assert (o == 0).all()
        assert all((one == -math.inf).all() for one in lse)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_row_of_attention_is_a_step_with_the_gates_as_a_bias(backend, nan_filled_memory):
    tensors, options = inputs("forget gates of grouped heads")
    after = tensors["log_forget"].flip(1).cumsum(1).flip(1) - tensors["log_forget"]
    sees = 30
    with use_backend(backend):
        o = attention_step(
            tensors["q"][:, -1],
            tensors["k"][:, -sees:],
            tensors["v"][:, -sees:],
            sees,
            bias=after[:, -sees:].transpose(1, 2),
        )
        whole = attention(**tensors, **options)
    assert_close_relative(o, whole[:, -1], 1e-5)
