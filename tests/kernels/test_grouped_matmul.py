"""The grouped product: exact examples, portable and Triton against the definition, and refusals."""

import pytest
import torch
import torch.nn.functional as F

from kernels import grouped_matmul, use_backend
from kernels._grouped_matmul.launches import implementation_key
from kernels.tuning import CHOICES, force_launches, watch_launches
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-5, torch.float16: 3e-3}
SHAPES = {  # rows, K, N, group sizes
    "one group": (15, 4, 20, [15]),
    "one row per group": (3, 8, 8, [1, 1, 1]),
    "empty groups at both ends and between": (9, 6, 5, [0, 4, 0, 0, 5, 0]),
    "no rows in any group": (1, 6, 5, [0, 0]),
    "rows beyond the groups": (100, 20, 70, [3, 0, 66, 1]),
    "more than a tile each way": (130, 68, 132, [1, 129]),
    "nine groups": (63, 16, 16, [7, 0, 20, 1, 1, 0, 30, 2, 2]),
}


def problem(rows, depth, columns, sizes, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, depth, generator=generator).to(dtype).requires_grad_()
    w = torch.randn(len(sizes), depth, columns, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(rows, columns, generator=generator).to(dtype)
    return x, w, torch.tensor(sizes), grad


def run(backend, x, w, sizes, grad):
    with use_backend(backend):
        out = grouped_matmul(x, w, sizes)
    return out, *torch.autograd.grad(out, (x, w), grad, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_exact_example(backend):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    w = torch.tensor([[[1.0], [0.0]], [[0.0], [10.0]]])
    with use_backend(backend):
        assert grouped_matmul(x, w, torch.tensor([1, 2])).tolist() == [[1.0], [40.0], [60.0]]
        assert grouped_matmul(x, w, torch.tensor([0, 2])).tolist() == [[20.0], [40.0], [0.0]]


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_equal_the_definition(shape, dtype, backend):
    inputs = problem(*shape, dtype)
    expected = (
        run("reference", *inputs)
        if sum(shape[3])
        else [torch.zeros(shape[0], shape[2], dtype=dtype), *map(torch.zeros_like, inputs[:2])]
    )
    for actual, wanted in zip(run(backend, *inputs), expected, strict=True):
        assert actual.dtype == dtype
        assert_close_relative(actual, wanted, LIMITS[dtype])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_equals_the_grouped_product_of_pytorch(backend):
    x, w, sizes, grad = problem(100, 20, 36, [0, 63, 7, 30], torch.float32)
    expected = F.grouped_mm(x, w, offs=sizes.cumsum(0).int())
    grads = torch.autograd.grad(expected, (x, w), grad)
    for actual, wanted in zip(run(backend, x, w, sizes, grad), (expected, *grads), strict=True):
        assert_close_relative(actual, wanted, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_incoming_gradient_may_be_one_number_expanded(backend):
    x, w, sizes, _ = problem(9, 6, 8, [4, 5], torch.float32)
    one = torch.ones(()).expand(9, 8)
    assert one.stride() == (0, 0)
    for actual, wanted in zip(
        run(backend, x, w, sizes, one), run("reference", x, w, sizes, torch.ones(9, 8)), strict=True
    ):
        assert_close_relative(actual, wanted, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_sizes_may_be_of_either_integer_type(backend):
    x, w, sizes, _ = problem(9, 4, 4, [4, 5], torch.float32)
    with use_backend(backend):
        assert torch.equal(grouped_matmul(x, w, sizes.int()), grouped_matmul(x, w, sizes))


def test_the_gpu_ignores_sizes_beyond_the_rows():
    x, w, _, _ = problem(5, 4, 4, [2, 3], torch.float32)
    with use_backend("gpu"):
        assert torch.equal(grouped_matmul(x, w, torch.tensor([2, 9])), grouped_matmul(x, w, torch.tensor([2, 3])))


def test_transposed_and_sliced_inputs_are_read_right():
    x, w, sizes, _ = problem(9, 6, 8, [4, 5], torch.float32)
    strided_x, strided_w = x.repeat(1, 2)[:, 6:], w.transpose(1, 2).contiguous().transpose(1, 2)
    with use_backend("gpu"):
        assert_close_relative(grouped_matmul(strided_x, strided_w, sizes), grouped_matmul(x, w, sizes), 1e-6)


def test_autocast_multiplies_in_its_type_and_keeps_the_gradients_type():
    x, w, sizes, _ = problem(9, 6, 8, [4, 5], torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = grouped_matmul(x, w, sizes)
    assert out.dtype == torch.bfloat16
    assert torch.autograd.grad(out.float().sum(), w)[0].dtype == torch.float32


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("sizes", [[7, 0, 20, 30, 0], [63, 0]], ids=str)
def test_where_the_choice_is_pytorch_its_kernels_compute_the_same(sizes):
    given = problem(63, 32, 16, sizes, torch.float16)
    torch_wins = {implementation_key(32, 16, training): CHOICES["torch"] for training in (False, True)}
    seen = []

    def watch(key, launch):
        seen.append(key)
        launch()

    with force_launches(torch_wins), watch_launches(watch):
        found = run("gpu", *given)
    assert seen == list(torch_wins)
    for actual, wanted in zip(found, run("reference", *given), strict=True):
        assert_close_relative(actual, wanted, LIMITS[torch.float16])
    x, w, group_sizes, _ = given
    with force_launches(torch_wins), watch_launches(watch):
        with use_backend("gpu"):  # what PyTorch has no kernel for, and nobody else is asked about
            grouped_matmul(x.float(), w.float(), group_sizes)
            grouped_matmul(x[:, :20], w[:, :20], group_sizes)
    assert {key.kernel for key in seen[2:]} == {"grouped_matmul.rows"}


def test_operators_keep_what_torch_asks_of_them():
    from kernels._grouped_matmul import gpu, portable

    x, w, sizes, grad = problem(9, 4, 4, [0, 4, 5], torch.float32)
    given = (grad, x.detach(), w.detach(), sizes)
    torch.library.opcheck(gpu._forward, (x, w, sizes))
    torch.library.opcheck(gpu._backward, given)
    torch.library.opcheck(portable._forward, (x, w, sizes))
    torch.library.opcheck(portable._backward, (*given, True, False))


@pytest.mark.parametrize(
    ("x", "w", "sizes", "message"),
    [
        (torch.ones(4, 3), torch.ones(2, 5, 6), torch.tensor([2, 2]), r"x must be \[M, K\] and w \[E, K, N\]"),
        (
            torch.ones(4, 3),
            torch.ones(2, 3, 6).half(),
            torch.tensor([2, 2]),
            r"one type, but got x \[4, 3\] of torch.float32",
        ),
        (torch.ones(4, 3), torch.ones(2, 3, 6), torch.tensor([4]), r"group_sizes must be \[2\]"),
        (torch.ones(4, 3), torch.ones(2, 3, 6), torch.tensor([2.0, 2.0]), "int32 or int64"),
        (torch.ones(4, 3), torch.ones(2, 3, 6), torch.tensor([2, 3]), "sum to at most the 4 rows"),
        (
            torch.ones(4, 3).to("meta"),
            torch.ones(2, 3, 6),
            torch.tensor([2, 2]),
            r"on one device, but got x \[4, 3\] on meta",
        ),
        (torch.ones(4, 3), torch.ones(2, 3, 6), torch.tensor([5, -1]), "non-negative"),
        (torch.ones(4, 3).double(), torch.ones(2, 3, 6).double(), torch.tensor([2, 2]), "float32, float16 or bfloat16"),
        (
            torch.ones(4, 3),
            torch.ones(2, 3, 6).to("meta"),
            torch.tensor([2, 2]),
            r"on one device, but got x \[4, 3\] on cpu, w \[2, 3, 6\] on meta",
        ),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(x, w, sizes, message):
    with pytest.raises(ValueError, match=message):
        grouped_matmul(x, w, sizes)


@pytest.mark.parametrize("sizes", [[2, 3], [5, -1]])
def test_the_reference_refuses_sizes_that_do_not_fit_the_rows(sizes):
    with use_backend("reference"), pytest.raises(ValueError, match="group_sizes must be non-negative and sum to at"):
        grouped_matmul(torch.ones(4, 3), torch.ones(2, 3, 6), torch.tensor(sizes))


def test_a_negative_size_is_taken_as_none_by_the_gpu_which_writes_nowhere_else():
    x, w = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4, 6)
    with use_backend("gpu"):
        y, expected = (grouped_matmul(x, w, torch.tensor(sizes)) for sizes in ([-3, 2, 1], [0, 2, 1]))
    assert torch.equal(y, expected)
