"""Rotary positions: both implementations against the definition, an outside oracle, turning back, and refusals."""

import pytest
import torch

from kernels import rope, use_backend
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-6, torch.float16: 1e-3}
BACKENDS = ["reference", "portable", "gpu"]


def problem(batch, length, heads, size, turned, dtype=torch.float32, *, per_sequence=False):
    """(x, cos, sin); x is a slice of a wider tensor."""
    generator = torch.Generator().manual_seed(length + size)
    wide = torch.randn(batch, length, heads + 1, size, generator=generator).to(dtype)
    shape = (batch, length, turned // 2) if per_sequence else (length, turned // 2)
    angles = 10 * torch.rand(shape, generator=generator)
    return wide[:, :, 1:].requires_grad_(), angles.cos(), angles.sin()


def with_gradient(backend, x, cos, sin, interleaved, *, ones=False):
    with use_backend(backend):
        y = rope(x, cos, sin, interleaved=interleaved)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y, torch.autograd.grad(y.sum() if ones else (y * weight).sum(), x)[0]


def assert_equals_the_definition(backend, x, cos, sin, interleaved, **how):
    found, expected = (with_gradient(name, x, cos, sin, interleaved, **how) for name in (backend, "reference"))
    for one, right in zip(found, expected, strict=True):
        assert one.dtype == x.dtype
        assert_close_relative(one, right, LIMITS[x.dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_example(backend):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 1, 1, 5)
    quarter = (torch.zeros(1, 2), torch.ones(1, 2))
    with use_backend(backend):
        assert rope(x, *quarter).flatten().tolist() == [-3, -4, 1, 2, 5]
        assert rope(x, *quarter, interleaved=True).flatten().tolist() == [-2, 1, -4, 3, 5]


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "size", "turned", "dtype", "per_sequence"),
    [
        (2, 1, 1, 2, 2, torch.float32, True),
        (1, 15, 3, 20, 20, torch.float16, False),
        (2, 7, 5, 20, 6, torch.float32, True),
        (1, 9, 2, 64, 32, torch.float16, False),
    ],
)
def test_equals_the_definition(backend, interleaved, batch, length, heads, size, turned, dtype, per_sequence):
    inputs = problem(batch, length, heads, size, turned, dtype, per_sequence=per_sequence)
    assert_equals_the_definition(backend, *inputs, interleaved)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("length", [63, 100, 130])
def test_triton_equals_the_definition_at_odd_lengths(length):
    assert_equals_the_definition("gpu", *problem(1, length, 1, 16, 12), False)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_incoming_gradient_may_be_one_number_expanded(backend):
    assert_equals_the_definition(backend, *problem(1, 5, 2, 8, 8), False, ones=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_llama_and_turning_back_gives_what_was(backend):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x, cos, sin = problem(2, 9, 3, 16, 16)
    x, whole = x.detach().requires_grad_(), [torch.cat((table, table), dim=-1).unsqueeze(0) for table in (cos, sin)]
    expected, _ = apply_rotary_pos_emb(x, x, *whole, unsqueeze_dim=2)
    with use_backend(backend):
        y = rope(x, cos, sin)
        assert_close_relative(y, expected, 1e-6)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        assert_close_relative(*(torch.autograd.grad(one, x, weight)[0] for one in (y, expected)), 1e-6)
        assert_close_relative(rope(y, cos, -sin), x, 1e-6)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_no_tokens_give_none(backend):
    x, cos, sin = problem(1, 3, 2, 8, 4)
    with use_backend(backend):
        assert rope(x[:, :0], cos[:0], sin[:0]).shape == (1, 0, 2, 8)


def test_the_operator_keeps_what_torch_asks_of_it():
    from kernels._rope import gpu

    x, cos, sin = problem(1, 3, 2, 8, 4)
    torch.library.opcheck(gpu._turn, (x.detach().clone().requires_grad_(), cos, sin, True, 1.0))


@pytest.mark.parametrize(
    ("x", "table", "message"),
    [
        (None, torch.ones(3, 2), "x must be a tensor, but got None"),
        (torch.ones(2, 3, 4), torch.ones(3, 2), r"x must be \[B, T, H, D\]"),
        (torch.ones(2, 3, 1, 4), torch.ones(2, 2), r"\[T, R / 2\] or \[B, T, R / 2\] beside x \[2, 3, 1, 4\]"),
        (torch.ones(2, 3, 1, 4), torch.ones(3, 3), "between 2 and the 4 channels of a head, but the tables turn 6"),
        (torch.ones(2, 3, 1, 4), torch.ones(3, 2, dtype=torch.float16), r"cos must be torch\.float32 on cpu"),
    ],
)
def test_what_does_not_belong_together_is_refused(x, table, message):
    with pytest.raises(ValueError, match=message):
        rope(x, table, table)
