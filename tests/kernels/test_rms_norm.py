"""The normalisations: exact examples, portable and Triton against the definition, outside oracles, and refusals."""

import pytest
import torch
import torch.nn.functional as F

from kernels import l2_norm, rms_norm, use_backend
from tests.kernels.closeness import assert_close_relative

VALUES = {torch.float32: 1e-5, torch.float16: 2e-3}
GRADIENTS = {torch.float32: 1e-5, torch.float16: 5e-3}
BACKENDS = ["reference", "portable", "gpu"]
FORMS = {
    "plain": {},
    "weightless": {"weight": False},
    "residual": {"residual": True},
    "gate behind": {"gate": True},
    "sigmoid behind": {"gate": True, "gate_activation": "sigmoid"},
    "gate in front": {"gate": True, "gate_first": True},
    "groups": {"groups": 3},
    "groups behind a gate": {"groups": 3, "gate": True, "gate_first": True},
    "groups before a gate": {"groups": 3, "gate": True, "gate_activation": "sigmoid"},
}


def problem(shape, dtype=torch.float32, *, weight=True, residual=False, gate=False, groups=None, **options):
    """(tensors by name, options)."""
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size, of=dtype):
        return torch.randn(*size, generator=generator).to(of).requires_grad_()

    tensors = {"x": normal(*shape)}
    if weight:
        tensors["weight"] = normal(shape[-1], of=torch.float32)
    if residual:
        tensors["residual"] = normal(*shape)
    if gate:
        tensors["gate"] = normal(*shape)
    return tensors, options | ({"group_size": shape[-1] // groups} if groups else {})


def with_gradients(backend, tensors, options, *, ones=False):
    """Outputs, and the gradients of all tensors under random gradients of the outputs, or under their sum."""
    with use_backend(backend):
        outputs = rms_norm(**tensors, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    loss = sum((o.float() * torch.randn(o.shape, generator=generator)).sum() for o in outputs)
    return outputs, torch.autograd.grad(outputs[0].sum() if ones else loss, list(tensors.values()))


def assert_equals_the_definition(backend, tensors, options, **how):
    dtype = tensors["x"].dtype
    outputs, grads = with_gradients(backend, tensors, options, **how)
    expected_outputs, expected_grads = with_gradients("reference", tensors, options, **how)
    for output, expected in zip(outputs, expected_outputs, strict=True):
        assert output.dtype == expected.dtype
        assert_close_relative(output, expected, VALUES[dtype])
    for name, grad, expected in zip(tensors, grads, expected_grads, strict=True):
        assert grad.dtype == tensors[name].dtype, name
        assert_close_relative(grad, expected, GRADIENTS[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_examples(backend):
    x = torch.tensor([[3.0, -4.0]])
    with use_backend(backend):
        y, total = rms_norm(x - 1, torch.tensor([2.0, 3.0]), eps=1e-20, residual=torch.ones(1, 2))
        torch.testing.assert_close(y, torch.tensor([[6.0, -12.0]]) / 12.5**0.5)
        torch.testing.assert_close(total, x)
        torch.testing.assert_close(l2_norm(x, eps=1e-20), x / 5)
        gated = rms_norm(x, eps=1e-20, gate=torch.zeros(1, 2), gate_activation="sigmoid", gate_first=True)
        torch.testing.assert_close(gated, x / 12.5**0.5)  # the norm undoes a gate that is equal everywhere


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_portable_equals_the_definition(form, dtype):
    assert_equals_the_definition("portable", *problem((2, 15, 60), dtype, **FORMS[form]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_triton_equals_the_definition(form, dtype):
    assert_equals_the_definition("gpu", *problem((1, 63, 60), dtype, **FORMS[form]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("shape", [(1, 1), (130, 5), (3, 100), (2, 300)])
def test_triton_equals_the_definition_at_odd_sizes(shape):
    assert_equals_the_definition("gpu", *problem(shape, residual=True))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("form", ["residual", "sigmoid behind", "groups behind a gate", "weightless"])
def test_rows_too_wide_for_registers_are_right(form, monkeypatch):
    from kernels._rms_norm import launches

    monkeypatch.setattr(launches, "LARGEST_TILE", 16)
    monkeypatch.setattr(launches, "LARGEST_GATED_TILE", 16)
    monkeypatch.setitem(launches._LAUNCHES, "wide_forward", ((32, 16),))
    monkeypatch.setitem(launches._LAUNCHES, "wide_backward", ((32, 16),))
    monkeypatch.setitem(launches._LAUNCHES, "wide_weight", ((32, 16),))
    assert_equals_the_definition("gpu", *problem((1, 3, 105), **FORMS[form]))


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_incoming_gradient_may_be_one_number_expanded_and_the_sum_unused(backend):
    assert_equals_the_definition(backend, *problem((2, 9, 12), residual=True), ones=True)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_the_sum_alone_may_be_used(backend):
    tensors, _ = problem((2, 3, 4), residual=True)
    with use_backend(backend):
        _, total = rms_norm(**tensors)
    grads = torch.autograd.grad(total.sum(), [tensors["x"], tensors["residual"]])
    assert all(torch.equal(grad, torch.ones(2, 3, 4)) for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_residual_may_be_wider_than_what_is_added_to_it(backend):
    tensors, _ = problem((2, 3, 8), torch.float16)
    residual = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with use_backend(backend):
        y, total = rms_norm(**tensors, residual=residual)
    assert y.dtype == total.dtype == torch.float32
    grads = torch.autograd.grad((y * total).sum(), [tensors["x"], residual])
    assert [grad.dtype for grad in grads] == [torch.float16, torch.float32]
    assert_close_relative(grads[0], grads[1], 1e-3)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_heads_and_slices_are_read_where_they_lie(backend):
    wide = torch.randn(2, 7, 4 * 8 + 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    heads, gate = wide[..., :32].unflatten(-1, (4, 8)), wide[..., 36:68].unflatten(-1, (4, 8))
    assert not heads.is_contiguous()
    weight = torch.randn(8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert_equals_the_definition(backend, {"x": heads, "weight": weight, "gate": gate}, {})
    with use_backend("reference"):
        expected = l2_norm(heads)
    with use_backend(backend):
        assert_close_relative(l2_norm(heads), expected, 1e-6)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_l2_norm_equals_the_definition_down_to_zero(backend, dtype):
    x = torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(0))
    x = (x * torch.tensor([1.0, 1e-3, 0.0])[:, None, None]).to(dtype).requires_grad_()
    found = []
    for name in (backend, "reference"):
        with use_backend(name):
            y = l2_norm(x)
        found.append((y, torch.autograd.grad((y * torch.linspace(-1, 1, 20)).sum(), x)[0]))
    assert_close_relative(found[0][0], found[1][0], VALUES[dtype])
    assert_close_relative(found[0][1], found[1][1], GRADIENTS[dtype])


def l2_with_gradient(backend, x, grad):
    with use_backend(backend):
        y = l2_norm(x)
    return y, torch.autograd.grad(y, x, grad)[0]


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 63, 1, 20), (2, 130, 1, 5), (3, 100)])
def test_l2_norm_in_triton_equals_the_definition_at_odd_sizes(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(*(l2_with_gradient(name, x, grad) for name in ("gpu", "reference")), strict=True):
        assert_close_relative(found, expected, 1e-5)


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_the_gradient_of_an_l2_norm_may_be_one_number_expanded(backend):
    x = torch.randn(2, 15, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    one, ones = torch.ones(()).expand(2, 15, 12), torch.ones(2, 15, 12)
    assert_close_relative(l2_with_gradient(backend, x, one)[1], l2_with_gradient("reference", x, ones)[1], 1e-5)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_equals_pytorch_and_transformers_with_its_gradients(backend):
    from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated, l2norm

    tensors, _ = problem((2, 9, 16), gate=True)
    x, weight, z = (tensors[name] for name in ("x", "weight", "gate"))
    in_front, behind = MambaRMSNormGated(16, group_size=8), Qwen3NextRMSNormGated(16)
    for module in (in_front, behind):
        module.weight.data.copy_(weight)
    in_front.variance_epsilon = behind.variance_epsilon = 1e-6
    with use_backend(backend):
        pairs = [
            (rms_norm(x, weight), F.rms_norm(x, (16,), weight, 1e-6)),
            (rms_norm(x, weight, gate=z, gate_first=True, group_size=8), in_front(x, z)),
            (rms_norm(x, weight, gate=z), behind(x, z)),
            (l2_norm(x), l2norm(x)),
        ]
    asked = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(2))
    for ours, theirs in pairs:
        assert_close_relative(ours, theirs, 1e-6)
        grads = [torch.autograd.grad(one, (x, z), asked, materialize_grads=True) for one in (ours, theirs)]
        for grad, right in zip(*grads, strict=True):
            assert_close_relative(grad, right, 1e-5)


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_nothing_to_normalise_is_nothing(backend):
    with use_backend(backend):
        assert rms_norm(torch.ones(2, 0, 4), torch.ones(4)).shape == (2, 0, 4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch itself
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("form", ["residual", "gate behind"])
def test_compiles_as_one_graph_with_its_gradients(backend, form):
    tensors, _ = problem((2, 3, 8), **FORMS[form])

    def loss(**given):
        outputs = rms_norm(**given)
        return sum(o.square().sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))

    with use_backend(backend):
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(**tensors)
        grads = torch.autograd.grad(compiled, list(tensors.values()))
        expected = loss(**tensors)
        expected_grads = torch.autograd.grad(expected, list(tensors.values()))
    torch.testing.assert_close(compiled, expected)
    for grad, right in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, right)


def test_operators_keep_what_torch_asks_of_them():
    from kernels._rms_norm import gpu

    tensors, _ = problem((3, 8), residual=True)
    x, weight, residual = tensors.values()
    torch.library.opcheck(gpu._forward, (x, weight, residual, None, 1e-6, 1.0, 8, 0, False))
    z, x, weight = (tensor.detach() for tensor in (residual, x, weight))
    inverse = torch.ones(3, 2)
    arguments = (torch.ones_like(x), None, x, z, weight, inverse, 1.0, 4, 1, True)
    torch.library.opcheck(gpu._backward, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "x must be a tensor, but got None"),
        ({"weight": [1.0]}, r"weight must be a tensor or None, but got \[1\.0\]"),
        ({"eps": -1.0}, r"eps must be at least 0, .* but got -1\.0"),
        ({"eps": None}, "eps must be a finite number, but got None"),
        ({"group_size": 2.0}, r"group_size must be a whole number, but got 2\.0"),
        ({"gate_first": None}, "gate_first must be True or False, but got None"),
        ({"gate_first": True}, r"gate_first needs a gate, .* of x \[2, 4\], but got none"),
        ({"weight": torch.ones(3)}, r"weight must be \[4\] beside x \[2, 4\], but got \[3\]"),
        ({"gate": torch.ones(4)}, r"gate must be \[2, 4\]"),
        ({"group_size": 3}, r"group_size must divide the 4 channels of x \[2, 4\], but got 3"),
        ({"gate": torch.ones(2, 4), "residual": torch.ones(2, 4)}, "a residual or a gate, but got both"),
        ({"gate_activation": "relu"}, "gate_activation must be 'silu' or 'sigmoid', but got 'relu'"),
        (
            {"gate": torch.ones(2, 4, dtype=torch.float16)},
            r"gate must be torch\.float32 on cpu, beside x",
        ),
        ({"residual": torch.ones(2, 4, device="meta")}, r"residual must be torch\.float32 or .* on cpu"),
        ({"x": torch.ones(2, 4, dtype=torch.int64)}, "x must be float32, float16 or bfloat16, but got torch.int64"),
        (
            {"residual": torch.ones(2, 4, dtype=torch.int64)},
            r"residual must be .*bfloat16 on cpu.* torch\.int64",
        ),
        ({"residual": torch.ones(2, 4).double()}, r"residual must be .*but got \[2, 4\] of torch\.float64"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        rms_norm(**({"x": torch.ones(2, 4)} | change))


def test_l2_norm_refuses_what_it_cannot_divide():
    for x in (torch.ones(()), torch.ones(3, 0)):
        with pytest.raises(ValueError, match=r"x must be \[\.\.\., D\] with D at least 1, but got"):
            l2_norm(x)
