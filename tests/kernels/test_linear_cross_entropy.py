"""The loss from what enters the head: both implementations against the definition, chunks, an oracle, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F

from kernels import linear_cross_entropy, use_backend
from tests.kernels.closeness import assert_close_relative

VALUES = {torch.float32: 1e-5, torch.float16: 2e-3}
GRADIENTS = {torch.float32: 1e-5, torch.float16: 5e-3}
BACKENDS = ["reference", "portable", "gpu"]


def problem(rows, size, words, dtype=torch.float32, *, ignored=0.3):
    generator = torch.Generator().manual_seed(rows + words)
    x = torch.randn(rows, size, generator=generator).to(dtype)
    weight = torch.randn(words, size, generator=generator).to(dtype)
    targets = torch.randint(words, (rows,), generator=generator)
    targets[1:][torch.rand(rows - 1, generator=generator) < ignored] = -100
    return x.requires_grad_(), weight.requires_grad_(), targets


def with_gradients(backend, x, weight, targets, **options):
    with use_backend(backend):
        loss = linear_cross_entropy(x, weight, targets, **options)
    return loss.reshape(1), *torch.autograd.grad(3 * loss, (x, weight))


def assert_equals_the_definition(backend, inputs, **options):
    dtype = inputs[0].dtype
    found, expected = (with_gradients(name, *inputs, **options) for name in (backend, "reference"))
    assert found[0].dtype == torch.float32
    assert_close_relative(found[0], expected[0], VALUES[dtype])
    for grad, right in zip(found[1:], expected[1:], strict=True):
        assert grad.dtype == dtype
        assert_close_relative(grad, right, GRADIENTS[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_example(backend):
    x, weight = torch.zeros(3, 2), torch.ones(4, 2)
    targets = torch.tensor([0, -100, 3])
    with use_backend(backend):
        assert linear_cross_entropy(x, weight, targets).item() == pytest.approx(math.log(4))
        assert linear_cross_entropy(x, weight, targets, reduction="sum").item() == pytest.approx(2 * math.log(4))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize(
    ("rows", "size", "words", "options", "dtype"),
    [
        (1, 3, 2, {}, torch.float32),
        (15, 20, 100, {"soft_cap": 3.0}, torch.float32),
        (15, 20, 100, {"soft_cap": 3.0}, torch.float16),
        (63, 7, 33, {"reduction": "sum"}, torch.float16),
        (100, 5, 130, {}, torch.float32),
        (63, 7, 33, {"reduction": "sum", "soft_cap": 3.0, "factors": torch.arange(63.0).sin()}, torch.float32),
        (15, 20, 100, {"reduction": "sum", "factors": torch.arange(15.0)}, torch.float16),
        (130, 4, 17, {}, torch.float16),
    ],
)
def test_equals_the_definition(backend, rows, size, words, options, dtype):
    assert_equals_the_definition(backend, problem(rows, size, words, dtype), **options)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_chunks_of_tokens_and_blocks_of_words_change_nothing(monkeypatch, soft_cap):
    from kernels._linear_cross_entropy import gpu, launches, portable

    monkeypatch.setattr(portable, "_CHUNK_ELEMENTS", 7 * 50)
    monkeypatch.setattr(gpu, "CHUNK_ELEMENTS", 7 * 50)
    monkeypatch.setattr(gpu, "FEWEST_ROWS", 1)
    monkeypatch.setattr(launches, "_LAUNCHES", ((16, 1),))
    for backend in ("portable", "gpu"):
        assert_equals_the_definition(backend, problem(24, 5, 50), soft_cap=soft_cap)


def test_no_tensor_of_tokens_times_words_is_made(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    from kernels._linear_cross_entropy import portable

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for one in result if isinstance(result, tuple | list) else (result,):
                if isinstance(one, torch.Tensor):
                    Largest.elements = max(Largest.elements, one.numel())
            return result

    monkeypatch.setattr(portable, "_CHUNK_ELEMENTS", 10 * 300)
    inputs = problem(400, 4, 300, ignored=0.0)
    with Largest():
        with_gradients("portable", *inputs)
    assert Largest.elements <= 10 * 300


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_equals_the_cross_entropy_of_pytorch(backend):
    x, weight, targets = problem(40, 8, 30)
    x, targets = x.detach().view(4, 10, 8).requires_grad_(), targets.view(4, 10)
    expected = F.cross_entropy(F.linear(x, weight).flatten(0, 1), targets.flatten())
    with use_backend(backend):
        loss = linear_cross_entropy(x, weight, targets)
        factors = torch.rand(4, 10)
        of_each = F.cross_entropy(F.linear(x, weight).flatten(0, 1), targets.flatten(), reduction="none").view(4, 10)
        weighted = linear_cross_entropy(x, weight, targets, reduction="sum", factors=factors)
    assert_close_relative(weighted.reshape(1), (of_each * factors).sum().reshape(1), 1e-6)
    assert_close_relative(loss.reshape(1), expected.reshape(1), 1e-6)
    for ours, theirs in zip(*(torch.autograd.grad(one, (x, weight)) for one in (loss, expected)), strict=True):
        assert_close_relative(ours, theirs, 1e-5)
    with use_backend(backend), torch.no_grad():
        assert torch.isnan(linear_cross_entropy(x, weight, torch.full((4, 10), -100)))


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_autocast_computes_in_its_type(backend):
    x, weight, targets = problem(9, 4, 12)
    with use_backend(backend):
        expected = linear_cross_entropy(x, weight, targets)
        with torch.autocast("cpu", torch.float16):
            loss = linear_cross_entropy(x, weight, targets)
    assert loss.dtype == torch.float32
    assert 0 < abs(float((loss - expected).detach())) < 1e-2
    assert torch.autograd.grad(loss, x)[0].dtype == torch.float32


@pytest.mark.parametrize("wrong", [-1, -101, 8, 2**33])
def test_a_target_that_is_no_word_makes_the_loss_of_the_gpu_and_its_gradients_nan(wrong):
    from kernels._linear_cross_entropy import gpu

    x, weight, targets = problem(5, 4, 8, ignored=0.0)
    targets[2] = wrong
    with use_backend("gpu"):
        assert linear_cross_entropy(x.detach(), weight.detach(), targets).isnan()
        assert not linear_cross_entropy(x.detach(), weight.detach(), targets, ignore_index=wrong).isnan()
    _, grad_x, grad_weight = gpu._summed(x, weight, targets, -100, 0.0, True, True, None)
    assert grad_x.isnan().any(1).tolist() == [False, False, True, False, False]
    assert grad_weight.isnan().all()


def test_the_operator_keeps_what_torch_asks_of_it():
    from kernels._linear_cross_entropy import gpu, portable

    x, weight, targets = problem(5, 4, 8)
    for one in (gpu, portable):
        torch.library.opcheck(one._summed, (x, weight, targets, -100, 2.0, True, True, torch.arange(5.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(3, 5)}, r"x must be \[\.\.\., d\] and weight \[V, d\], but got \[2, 4\] and \[3, 5\]"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, r"targets must be \[2\] of torch\.int64"),
        ({"weight": torch.ones(3, 4, dtype=torch.float16)}, "on one device, x and weight of one type"),
        ({"x": torch.ones(2, 4, dtype=torch.int64)}, "on one device, x and weight of one type"),
        (
            {"targets": torch.zeros(2, dtype=torch.int64, device="meta")},
            r"on one device, .* and targets \[2\] on meta",
        ),
        ({"x": torch.ones(2, 4, device="meta")}, r"on one device, .* but got x \[2, 4\] of torch.float32 on meta"),
        ({"x": torch.ones(2, 0), "weight": torch.ones(3, 0)}, r"d and V must be at least 1, but got x \[2, 0\]"),
        ({"weight": torch.ones(0, 4)}, r"d and V must be at least 1, .* weight \[0, 4\]"),
        ({"targets": None}, "targets must be a tensor, but got None"),
        ({"ignore_index": None}, "ignore_index must be a whole number, but got None"),
        ({"soft_cap": 0.0}, r"soft_cap must be positive or None, but got 0\.0"),
        ({"soft_cap": math.nan}, "soft_cap must be a finite number, but got nan"),
        ({"reduction": "none"}, "reduction must be 'mean' or 'sum', but got 'none'"),
        ({"factors": torch.ones(2)}, "factors are of the tokens of a sum, reduction='sum', but got reduction='mean'"),
        (
            {"factors": torch.ones(3), "reduction": "sum"},
            r"factors must be \[2\] of torch.float32 on cpu, .* got \[3\]",
        ),
        ({"factors": 2.0}, "factors must be a tensor or None, but got"),
        ({"targets": torch.tensor([0, 3])}, "targets must be below the 3 rows of weight"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, message):
    given = {"x": torch.ones(2, 4), "weight": torch.ones(3, 4), "targets": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**(given | change))
