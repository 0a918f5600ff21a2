"""Mixtures of experts: portable and Triton against the definition, transformers' layers, refusals."""

import pytest
import torch

from kernels import moe_ffn, use_backend
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-5, torch.float16: 4e-3}
NAMES = ("x", "w_in", "w_out", "expert_index", "expert_weight")
CASES = {  # T, d, I, E, K, activation
    "one token": (1, 8, 4, 3, 1, "silu"),
    "one expert": (15, 12, 20, 1, 1, "gelu"),
    "every expert": (15, 20, 8, 3, 3, "relu2"),
    "several tiles": (130, 32, 60, 4, 2, "silu"),
    "odd widths": (63, 25, 37, 5, 2, "gelu"),
    "many more experts than choices": (5, 12, 8, 256, 2, "silu"),
    "wide": (33, 130, 68, 2, 1, "relu2"),
    "gpt-oss": (63, 36, 20, 5, 2, "quick_gelu"),
    "no gate": (100, 16, 12, 3, 1, "gelu_tanh"),
    "no gate, biases": (15, 12, 20, 3, 2, "silu"),
}
OPTIONS = {
    "gpt-oss": {"clamp": 0.7, "up_offset": 1.0},
    "no gate": {"gated": False},
    "no gate, biases": {"gated": False},
}
BIASED = ("gpt-oss", "no gate, biases")


def problem(case, dtype=torch.float32, missing=0.2):
    """Inputs by name; `missing` is the share of choices that choose no expert."""
    tokens, width, inner, experts, choices, _ = CASES[case]
    columns = inner if case in OPTIONS and "gated" in OPTIONS[case] else 2 * inner
    generator = torch.Generator().manual_seed(tokens + inner)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    index = torch.rand(tokens, experts, generator=generator).topk(choices, dim=-1).indices
    index[torch.rand(index.shape, generator=generator) < missing] = -1
    tensors = {
        "x": normal(tokens, width).to(dtype),
        "w_in": (normal(experts, width, columns) * width**-0.5).to(dtype),
        "w_out": (normal(experts, inner, width) * inner**-0.5).to(dtype),
        "expert_index": index,
        "expert_weight": torch.rand(tokens, choices, generator=generator) + 0.1,
    }
    if case in BIASED:
        tensors |= {"b_in": normal(experts, columns).to(dtype), "b_out": normal(experts, width).to(dtype)}
    for one in tensors.values():
        one.requires_grad_(one.is_floating_point())
    return tensors, normal(tokens, width).to(dtype)


def run(backend, tensors, dy, activation, **options):
    with use_backend(backend):
        y = moe_ffn(**tensors, activation=activation, **options)
    leaves = [one for one in tensors.values() if one.requires_grad]
    return y, *torch.autograd.grad(y, leaves, dy)


def assert_close(actual, expected, limit):
    if expected.abs().max() > 1e-6:
        assert_close_relative(actual, expected, limit)
    else:
        assert torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_exact_example(backend):
    """Expert 0 doubles what expert 1 leaves: relu2(gate 1) * up x, down by the identity."""
    x = torch.tensor([[3.0], [5.0]])
    w_in = torch.tensor([[[1.0, 2.0]], [[1.0, 1.0]]])
    w_out = torch.ones(2, 1, 1)
    index, weight = torch.tensor([[0, 1], [1, -1]]), torch.tensor([[1.0, 0.5], [2.0, 9.0]])
    with use_backend(backend):
        y = moe_ffn(x, w_in, w_out, index, weight, activation="relu2")
    torch.testing.assert_close(y, torch.tensor([[9 * 6 + 0.5 * 9 * 3], [2.0 * 25 * 5]]))


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_definition(case, backend):
    given, options = problem(case), OPTIONS.get(case, {})
    expected = run("reference", *given, CASES[case][-1], **options)
    for actual, wanted in zip(run(backend, *given, CASES[case][-1], **options), expected, strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", ["several tiles", "odd widths", "gpt-oss"])
def test_half_precision_stays_close_to_the_definition_in_single(case, backend):
    tensors, dy = problem(case, torch.float16)
    single = {
        name: one.detach().float().requires_grad_() if one.is_floating_point() else one for name, one in tensors.items()
    }
    options = OPTIONS.get(case, {})
    expected = run("reference", single, dy.float(), CASES[case][-1], **options)
    actual = run(backend, tensors, dy, CASES[case][-1], **options)
    assert [one.dtype for one in actual[:5]] == [torch.float16] * 4 + [torch.float32]
    for ours, wanted in zip(actual, expected, strict=True):
        assert_close_relative(ours, wanted, LIMITS[torch.float16])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", ["several tiles", "gpt-oss"])
def test_where_no_expert_is_chosen_nothing_is_added_and_no_gradient_flows(case, backend):
    tensors, dy = problem(case)
    tensors["expert_index"].fill_(-1)
    for one in run(backend, tensors, dy, "silu"):
        assert one.eq(0).all()


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_an_expanded_gradient_is_read_right(backend):
    tensors, _ = problem("odd widths")
    leaves = [one for one in tensors.values() if one.requires_grad]
    with use_backend(backend):
        summed = torch.autograd.grad(moe_ffn(*tensors.values()).sum(), leaves)
    expected = run("reference", tensors, torch.ones(63, 25), "silu")[1:]
    for actual, wanted in zip(summed, expected, strict=True):
        assert_close_relative(actual, wanted, LIMITS[torch.float32])


def test_strided_inputs_and_narrow_indices_are_read_right():
    tensors, _ = problem("odd widths")
    strided = {name: one.detach() for name, one in tensors.items()}
    strided["x"] = strided["x"].repeat(1, 2)[:, 25:]
    for name in ("w_in", "w_out"):
        strided[name] = strided[name].transpose(1, 2).contiguous().transpose(1, 2)
    strided["expert_index"] = strided["expert_index"].int()
    with use_backend("gpu"):
        assert_close_relative(moe_ffn(*strided.values()), moe_ffn(*tensors.values()), 1e-6)


def test_without_gradients_the_value_is_the_same_and_nothing_is_kept():
    from kernels._moe import gpu

    tensors, _ = problem("several tiles")
    with use_backend("gpu"), torch.no_grad():
        bare = moe_ffn(*tensors.values())
    plain = (None, None, "silu", True, None, 0.0)
    y, kept, _, _ = gpu.moe_forward(*(one.detach() for one in tensors.values()), *plain, True)
    assert torch.equal(bare, y)
    assert kept.numel() == (130 * 2) * (2 * 60), "of each choice the gate and the up projection"
    assert gpu.moe_forward(*(one.detach() for one in tensors.values()), *plain, False)[1].numel() == 0


def test_gradients_of_the_kernels_repeat_bit_for_bit():
    given = problem("gpt-oss")
    first, second = (run("gpu", *given, "silu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_gpu_takes_an_index_out_of_range_as_none():
    tensors, _ = problem("several tiles", missing=0.0)
    outside, none = (tensors["expert_index"].clone() for _ in range(2))
    outside[3, 0], none[3, 0] = 99, -1
    with use_backend("gpu"):
        ys = [moe_ffn(*(tensors | {"expert_index": index}).values()) for index in (outside, none)]
    assert torch.equal(*ys)


def test_no_tokens_give_no_rows_and_gradients_of_zero():
    tensors, dy = problem("several tiles")
    for name in ("x", "expert_index", "expert_weight"):
        tensors[name] = tensors[name].detach()[:0].requires_grad_(name != "expert_index")
    for backend in ("reference", "portable", "gpu"):
        with use_backend(backend):
            y = moe_ffn(*tensors.values())
        assert y.shape == (0, 32)
    dw_in, dw_out = torch.autograd.grad(y, (tensors["w_in"], tensors["w_out"]), dy[:0])
    assert dw_in.eq(0).all() and dw_out.eq(0).all()


def test_operators_keep_what_torch_asks_of_them():
    from kernels._moe import gpu, portable

    torch.library.opcheck(portable._sort_by_expert, (problem("odd widths")[0]["expert_index"], 5))
    for case, expert in (("one token", ("gelu", True, None, 0.0)), ("no gate, biases", ("relu2", False, None, 0.0))):
        tensors, dy = problem(case, missing=0.0)  # rows of no expert are kept as they were allocated
        biases = [tensors.get(name) for name in ("b_in", "b_out")]
        given = [tensors[name] for name in NAMES] + biases
        torch.library.opcheck(gpu.moe_forward, (*given, *expert, True))
        given = [None if one is None else one.detach() for one in given]
        kept = gpu.moe_forward(*given, *expert, True)[1:]
        backward = (dy, *given, *kept, *expert)
        torch.library.opcheck(gpu.moe_backward, backward)


def test_autocast_multiplies_in_its_type_and_keeps_the_gradients_type():
    tensors, _ = problem("odd widths")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = moe_ffn(*tensors.values())
    assert y.dtype == torch.bfloat16
    assert torch.autograd.grad(y.float().sum(), tensors["w_in"])[0].dtype == torch.float32


def test_the_definition_agrees_with_the_experts_of_mixtral():
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(hidden_size=20, intermediate_size=12, num_local_experts=5)
    experts = MixtralExperts(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(std=0.3, generator=generator)
    x = torch.randn(9, 20, generator=generator, requires_grad=True)
    weight, index = torch.rand(9, 5, generator=generator).topk(2, dim=-1)
    weight.requires_grad_()
    w_in, w_out = experts.gate_up_proj.transpose(1, 2), experts.down_proj.transpose(1, 2)
    theirs, ours = MixtralExperts.forward(experts, x, index, weight), moe_ffn(x, w_in, w_out, index, weight)
    with use_backend("reference"):
        definition = moe_ffn(x, w_in, w_out, index, weight)
    dy = torch.randn(9, 20, generator=generator)
    expected = torch.autograd.grad(theirs, (x, weight, experts.gate_up_proj), dy)
    for y in (definition, ours):
        assert_close_relative(y, theirs, 1e-5)
        for actual, wanted in zip(torch.autograd.grad(y, (x, weight, experts.gate_up_proj), dy), expected, strict=True):
            assert_close_relative(actual, wanted, 1e-5)


def test_the_definition_agrees_with_the_experts_of_gpt_oss():
    """Their gates and ups alternate."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    experts = GptOssExperts(GptOssConfig(hidden_size=20, intermediate_size=12, num_local_experts=5))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(std=2.0, generator=generator)  # so that clamps at 7 matter
    x = torch.randn(9, 20, generator=generator, requires_grad=True)
    weight, index = torch.rand(9, 5, generator=generator).topk(2, dim=-1)
    leaves = (x, *experts.parameters())
    theirs = experts(x, index, weight)
    w_in, b_in = (
        torch.cat((one[..., ::2], one[..., 1::2]), -1) for one in (experts.gate_up_proj, experts.gate_up_proj_bias)
    )
    dy = torch.randn(9, 20, generator=generator)
    expected = torch.autograd.grad(theirs, leaves, dy)
    for backend in ("reference", "portable"):
        with use_backend(backend):
            ours = moe_ffn(
                x, w_in, experts.down_proj, index, weight, b_in=b_in, b_out=experts.down_proj_bias,
                activation="quick_gelu", clamp=7.0, up_offset=1.0,
            )  # fmt: skip
        assert_close_relative(ours, theirs, 1e-5)
        for actual, wanted in zip(torch.autograd.grad(ours, leaves, dy, retain_graph=True), expected, strict=True):
            assert_close_relative(actual, wanted, 1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w_in": None}, "w_in must be a tensor, but got None"),
        ({"b_in": [0.0]}, r"b_in must be a tensor or None, but got \[0\.0\]"),
        ({"gated": None}, "gated must be True or False, but got None"),
        ({"clamp": float("inf")}, "clamp must be a finite number, but got inf"),
        ({"up_offset": "1"}, "up_offset must be a finite number, but got '1'"),
        ({"x": torch.ones(5)}, r"x must be \[T, d\]"),
        ({"w_in": torch.ones(3, 7, 8)}, r"w_in must be \[E, d, 2 I\] with the d=8 of x"),
        ({"w_in": torch.ones(3, 8, 7)}, r"w_in must be \[E, d, 2 I\]"),
        ({"w_out": torch.ones(3, 5, 8)}, r"w_out must be \[E, I, d\] = \[3, 4, 8\]"),
        ({"w_out": torch.ones(3, 4, 8).half()}, "one type of float32"),
        ({"expert_index": torch.zeros(2, 1, dtype=torch.int64)}, r"expert_index must be \[T, K\] with the T=1"),
        ({"expert_index": torch.zeros(1, 1)}, "expert_index must be int32 or int64"),
        ({"expert_index": torch.full((1, 1), 3)}, "between 0 and 2, or be -1 for no expert, but got 3 to 3"),
        ({"expert_index": torch.full((1, 1), -2)}, "but got -2 to -2"),
        ({"expert_weight": torch.ones(1, 2)}, "expert_weight must have the shape of expert_index"),
        (
            {"expert_weight": torch.ones(1, 1).double()},
            r"expert_weight must be float32, .* torch.float64 of shape \[1, 1\]",
        ),
        (
            {"x": torch.ones(1, 8).to("meta")},
            r"one device, but w_in is torch.float32 on cpu of shape \[3, 8, 8\] and x",
        ),
        ({"x": torch.ones(1, 8).double()}, r"but x is torch.float64 on cpu of shape \[1, 8\]\."),
        ({"activation": []}, r"activation must be one of .*, but got \[\]"),
        ({"w_in": torch.ones(0, 8, 8)}, r"w_in must be \[E, d, 2 I\] and not empty, but got shape \[0, 8, 8\]"),
        ({"expert_weight": torch.ones(1, 1).to("meta")}, "expert_weight must lie on the device of x, cpu"),
        ({"b_in": torch.ones(3, 4)}, r"b_in must be \[3, 8\], one row an expert, of torch.float32"),
        ({"b_out": torch.ones(3, 8).half()}, r"b_out must be \[3, 8\], .* but got \[3, 8\] of torch.float16"),
        ({"clamp": -1.0}, r"clamp must be at least 0, the largest gate, or None, but got -1\.0"),
        ({"gated": False}, r"w_out must be \[E, I, d\] = \[3, 8, 8\]"),
        ({"gated": False, "w_out": torch.ones(3, 8, 8), "clamp": 1.0}, r"of gated experts, but got clamp=1\.0"),
        ({"gated": False, "w_out": torch.ones(3, 8, 8), "up_offset": 1.0}, r"gated experts, .* up_offset=1\.0"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(changed, message):
    tensors, _ = problem("one token", missing=0.0)
    with pytest.raises(ValueError, match=message):
        moe_ffn(**(tensors | changed))


def test_unknown_activations_are_refused():
    tensors, _ = problem("one token")
    with pytest.raises(
        ValueError, match="activation must be one of silu, gelu, gelu_tanh, quick_gelu, relu2, but got 'tanh'"
    ):
        moe_ffn(*tensors.values(), activation="tanh")
