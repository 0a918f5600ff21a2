"""Routers: portable and Triton against the definition and transformers' routers, ties, what is no number, refusals."""

import pytest
import torch

from kernels import route_top_k, use_backend
from tests.kernels.closeness import assert_close_relative

BACKENDS = ["reference", "portable", "gpu"]
LIMITS = {torch.float32: 1e-5, torch.float16: 5e-3}
CASES = {  # T, E, k, options
    "one token": (1, 5, 1, {"scoring": "sigmoid", "normalize": False}),
    "every expert": (15, 3, 3, {"normalize": False}),
    "odd": (63, 60, 4, {"scale": 2.5}),
    "odd, a softmax of all": (63, 60, 4, {"normalize": False, "scale": 2.5}),
    "sigmoid": (100, 37, 3, {"scoring": "sigmoid"}),
    "sigmoid in groups": (63, 60, 5, {"scoring": "sigmoid", "num_groups": 6, "top_groups": 2}),
    "best single experts": (15, 12, 2, {"scoring": "sigmoid", "num_groups": 12, "top_groups": 3, "normalize": False}),
    "softplus": (130, 64, 4, {"scoring": "sqrt_softplus"}),
    "softplus, not normalised": (15, 20, 8, {"scoring": "sqrt_softplus", "normalize": False, "scale": 0.5}),
    "many": (5, 512, 4, {"num_groups": 8, "top_groups": 4}),
    "more than a program holds": (9, 700, 3, {}),
}
BIASED = ("odd", "sigmoid in groups", "many")


def problem(case, dtype=torch.float32):
    tokens, experts, k, options = CASES[case]
    generator = torch.Generator().manual_seed(tokens + experts)
    # Unlike one another in every type, so that it is not open who comes first.
    place = torch.rand(tokens, experts, generator=generator).argsort(dim=-1)
    logits = ((place - experts // 2) * (8 / experts)).to(dtype).requires_grad_()
    bias = torch.randn(experts, generator=generator) if case in BIASED else None
    return logits, k, {"bias": bias, **options}, torch.randn(tokens, k, generator=generator)


def run(backend, logits, k, options, grad):
    with use_backend(backend):
        index, weight = route_top_k(logits, k, **options)
    return index, weight, torch.autograd.grad(weight, logits, grad)[0]


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_choices_weights_and_gradients_equal_the_definition(case, backend, dtype):
    given = problem(case, dtype)
    index, weight, grad = run(backend, *given)
    right_index, right_weight, right_grad = run("reference", *given)
    assert torch.equal(index, right_index) and index.dtype == torch.int64 and not index.requires_grad
    assert weight.dtype == torch.float32 and grad.dtype == dtype
    assert_close_relative(weight, right_weight, LIMITS[torch.float32])
    assert_close_relative(grad, right_grad, LIMITS[dtype])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_strided_logits_and_an_expanded_gradient_are_read_right(backend):
    logits, k, options, _ = problem("odd")
    strided = logits.detach().T.contiguous().T.requires_grad_()
    for one in zip(
        run(backend, strided, k, options, torch.ones(()).expand(63, k)),
        run("reference", logits, k, options, torch.ones(63, k)),
        strict=True,
    ):
        torch.testing.assert_close(*one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens_give_no_rows(backend):
    logits, k, options, grad = problem("sigmoid")
    index, weight, grad = run(backend, logits.detach()[:0].requires_grad_(), k, options, grad[:0])
    assert index.shape == weight.shape == (0, 3) and grad.shape == (0, 37)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_expert_is_chosen_twice_where_all_are_equal(backend):
    with use_backend(backend):
        index, weight = route_top_k(torch.zeros(5, 12), 4, num_groups=4, top_groups=2)
    assert all(len(set(row)) == 4 for row in index.tolist())
    torch.testing.assert_close(weight, torch.full((5, 4), 0.25))


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "sqrt_softplus"])
def test_logits_that_are_no_numbers_show_in_the_weights(scoring, backend):
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    logits[1, 5:] = float("nan")
    if scoring == "softmax":
        logits[1] = float("nan")
    with use_backend(backend):
        index, weight = route_top_k(logits, 2, scoring=scoring)
    assert weight.isnan().any(1).tolist() == [False, True, False]
    assert 0 <= int(index.min()) and int(index.max()) < 8


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_small_scores_keep_their_digits(backend):
    """Where exp(x) is lost beside 1, softplus is exp(x)."""
    logits = torch.tensor([[-20.0, -30.0, -25.0]], requires_grad=True)
    with use_backend(backend):
        _, weight = route_top_k(logits, 3, scoring="sqrt_softplus", normalize=False)
    torch.testing.assert_close(weight, torch.tensor([[-10.0, -12.5, -15.0]]).exp(), rtol=1e-5, atol=0.0)
    (grad,) = torch.autograd.grad(weight.sum(), logits)
    torch.testing.assert_close(grad, logits.detach().mul(0.5).exp() / 2, rtol=1e-5, atol=0.0)


def test_operators_keep_what_torch_asks_of_them():
    from kernels._route_top_k import gpu

    logits, k, options, grad = problem("sigmoid in groups")
    torch.library.opcheck(gpu._forward, (logits, options["bias"], k, 1, 6, 2, True, 2.0))
    given = (grad, logits.detach(), gpu._forward(logits, None, k, 1, 6, 2, True, 2.0)[1], 1, True, 2.0)
    torch.library.opcheck(gpu._backward, given)


def same_choice(ours, index, weight):
    """Both as dense [T, E], because some routers leave their choices in no order."""
    dense = [torch.zeros(7, 16).scatter(1, i, w.float()) for i, w in (ours, (index, weight))]
    torch.testing.assert_close(*dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_softmax_router_is_that_of_qwen3_next(normalize, backend):
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextTopKRouter

    config = Qwen3NextConfig(hidden_size=12, num_experts=16, num_experts_per_tok=3, norm_topk_prob=normalize)
    router = Qwen3NextTopKRouter(config)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    logits, weight, index = router(torch.randn(7, 12, generator=torch.Generator().manual_seed(1)))
    with use_backend(backend):
        ours = route_top_k(logits, 3, normalize=normalize)
    same_choice(ours, index, weight)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sigmoid_router_with_bias_and_groups_is_that_of_deepseek_v3(backend):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    config = DeepseekV3Config(
        hidden_size=12, n_routed_experts=16, num_experts_per_tok=3, n_group=4, topk_group=2, routed_scaling_factor=2.5
    )
    router = DeepseekV3TopkRouter(config)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(router.weight, generator=generator)
    router.e_score_correction_bias.normal_(std=0.5, generator=generator)
    logits, weight, index = router(torch.randn(7, 12, generator=generator))
    bias = router.e_score_correction_bias
    with use_backend(backend):
        ours = route_top_k(logits, 3, scoring="sigmoid", bias=bias, num_groups=4, top_groups=2, scale=2.5)
    same_choice(ours, index, weight)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_top_k_of_logits_and_then_a_softmax_is_the_normalised_softmax_router(backend):
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter

    router = GptOssTopKRouter(GptOssConfig(hidden_size=12, num_local_experts=16, num_experts_per_tok=4))
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(router.bias)
    logits, weight, index = router(torch.randn(7, 12, generator=torch.Generator().manual_seed(1)))
    with use_backend(backend):
        ours = route_top_k(logits, 4)
    same_choice(ours, index, weight)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_square_root_of_softplus_scores_as_deepseek_v4_does(backend):
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    with use_backend(backend):
        index, weight = route_top_k(logits, 2, scoring="sqrt_softplus", normalize=False)
    assert index.tolist() == [[1, 0]]
    torch.testing.assert_close(weight, torch.log1p(torch.tensor([[2.0, 0.0]]).exp()).sqrt())


@pytest.mark.parametrize("backend", BACKENDS)
def test_router_logits_receive_the_gradient_of_the_weights_alone(backend):
    logits = torch.randn(7, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    bias = torch.randn(16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with use_backend(backend):
        index, weight = route_top_k(logits, 3, scoring="sigmoid", bias=bias, normalize=False)
    (grad,) = torch.autograd.grad(weight.sum(), logits)
    sigmoid = logits.detach().sigmoid()
    expected = torch.zeros_like(grad).scatter(1, index, (sigmoid * (1 - sigmoid)).gather(1, index))
    torch.testing.assert_close(grad, expected)
    assert not index.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 2.0}, r"k must be a whole number, but got 2\.0"),
        ({"k": 1, "num_groups": 1.5}, r"num_groups must be a whole number, but got 1\.5"),
        ({"k": 1, "scale": float("nan")}, "scale must be a finite number, but got nan"),
        ({"k": 1, "bias": [0.0] * 6}, "bias must be a tensor or None, but got"),
        ({"k": 1, "normalize": None}, "normalize must be True or False, but got None"),
        ({"k": 0}, "k must lie between 1 and the 6 experts that can be picked, but got 0"),
        ({"k": 4, "num_groups": 3, "top_groups": 1}, "the 2 experts that can be picked, but got 4"),
        ({"k": 1, "num_groups": 4}, "num_groups must divide the 6 experts"),
        ({"k": 1, "num_groups": 2, "top_groups": 3}, "top_groups lie between 1 and num_groups"),
        ({"k": 1, "scoring": "softmin"}, "scoring must be one of softmax, sigmoid, sqrt_softplus, but got 'softmin'"),
        ({"k": 1, "bias": torch.zeros(5)}, r"bias must be \[6\]"),
        ({"k": 1, "bias": torch.zeros(6, dtype=torch.int64)}, r"bias must be float32, .* but got torch\.int64"),
        ({"k": 1, "bias": torch.zeros(6, dtype=torch.bool)}, r"bias must be float32, .* but got torch\.bool"),
        ({"k": 1, "bias": torch.zeros(6, dtype=torch.complex64)}, r"bias must be float32, .* but got torch\.complex64"),
    ],
)
def test_routers_refuse_what_has_no_meaning(options, message):
    with pytest.raises(ValueError, match=message):
        route_top_k(torch.zeros(2, 6), **options)
