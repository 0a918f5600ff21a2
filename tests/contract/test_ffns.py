"""The contract of an FFN, held over every kind with several option sets each."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from nas.architecture import FFNS as KINDS
from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    FfnOptions,
    Glu,
    MixtureOfDepths,
    Mlp,
    Moe,
    NoFfn,
    RwkvChannelMix,
)
from nas.compile import FFNS, build_ffn, compile_architecture
from nas.context import Context
from nas.ffns.base import Ffn
from nas.ffns.moe import MoeFfn
from nas.layers.activation import ACTIVATIONS

D_MODEL = 24

CASES: dict[str, FfnOptions] = {
    "glu": Glu(d_ff=40),
    "glu gelu": Glu(d_ff=16, activation="gelu"),
    "glu gelu tanh": Glu(d_ff=16, activation="gelu_tanh"),
    "glu quick gelu": Glu(d_ff=16, activation="quick_gelu"),
    "glu with biases": Glu(d_ff=16, bias=True, gate_scale=0.5),
    "mlp": Mlp(d_ff=24),
    "mlp with biases": Mlp(d_ff=24, activation="gelu", bias=True),
    "glu relu2": Glu(d_ff=16, activation="relu2"),
    "rwkv channel mix": RwkvChannelMix(d_ff=24),
    "rwkv channel mix with receptance": RwkvChannelMix(d_ff=24, receptance=True),
    "moe": Moe(num_experts=4, top_k=2, d_ff=16),
    "moe shared": Moe(num_experts=5, top_k=1, d_ff=8, num_shared=2),
    "moe all experts": Moe(num_experts=3, top_k=3, d_ff=8),
    "moe sigmoid in groups": Moe(
        num_experts=6,
        top_k=2,
        d_ff=8,
        num_shared=1,
        router="sigmoid",
        selection_bias=True,
        num_groups=3,
        top_groups=2,
        weight_scale=2.5,
        gated=False,
        activation="relu2",
    ),
    "moe biased and clamped": Moe(
        num_experts=4,
        top_k=2,
        d_ff=8,
        activation="quick_gelu",
        router_bias=True,
        expert_bias=True,
        clamp=1.0,
        up_offset=1.0,
    ),
    "moe not normalised": Moe(num_experts=4, top_k=2, d_ff=8, num_shared=1, normalise=False, shared_gate=True),
    "moe with zero experts": Moe(num_experts=3, num_zero=2, top_k=2, d_ff=8, selection_bias=True, normalise=False),
    "moe biased, with zero experts": Moe(num_experts=3, num_zero=1, top_k=3, d_ff=8, expert_bias=True, num_shared=1),
    "mixture of depths": MixtureOfDepths(d_ff=16, one_in=2),
    "mixture of depths gelu": MixtureOfDepths(d_ff=8, one_in=3, activation="gelu"),
    "mixture of depths told by a predictor": MixtureOfDepths(d_ff=16, one_in=3, told_by="predictor"),
    "moe one expert": Moe(num_experts=1, top_k=1, d_ff=8, activation="gelu"),
}


def ffn_of(options: FfnOptions) -> Ffn:
    """An FFN with weights large enough that the router decides and the activation bends."""
    torch.manual_seed(0)
    ffn = build_ffn(options, D_MODEL)
    assert ffn is not None
    with torch.no_grad():
        for parameter in ffn.parameters():
            parameter.normal_(std=D_MODEL**-0.5)
    return ffn


@pytest.fixture(params=CASES, ids=list(CASES))
def ffn(request: pytest.FixtureRequest) -> Ffn:
    return ffn_of(CASES[request.param])


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 9, D_MODEL)


def test_every_kind_has_a_class_and_a_case():
    assert set(FFNS) == set(KINDS.values())
    assert {type(options) for options in CASES.values()} == set(KINDS.values()) - {NoFfn}


@torch.no_grad()
def test_each_token_is_mapped_by_itself(ffn: Ffn, x: Tensor):
    ffn.eval()
    y = ffn(x, Context())
    assert y.shape == x.shape
    if ffn.remembers:
        return
    torch.testing.assert_close(ffn(x[:, 4], Context()), y[:, 4], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ffn(x[1:, 3:5]), y[1:, 3:5], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_what_is_remembered_is_what_reading_at_once_sees(ffn: Ffn, x: Tensor):
    expected = ffn(x, Context())
    state = ffn.init_state(2, torch.float32, torch.device("cpu"))
    assert ffn.remembers == bool(state)
    assert ffn.state_bytes(torch.float32) == sum(tensor.nbytes for tensor in state.values()) // 2
    if not ffn.remembers:
        return
    outputs = [ffn(x[:, :4], Context(), state), *(ffn(x[:, i], Context(), state).unsqueeze(1) for i in (4, 5))]
    outputs.append(ffn(x[:, 6:], Context(), state))
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient_that_is_finite_and_not_zero(ffn: Ffn, x: Tensor):
    context = Context()
    y = ffn(x, context)
    ((y * torch.randn_like(y)).sum() + sum(context.losses)).backward()
    for name, parameter in ffn.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # With one expert the router has nothing to decide.
        assert parameter.grad.abs().sum() > 0 or (name == "router.weight" and ffn.num_experts == 1), name


def test_portable_equals_reference_in_value_and_gradient(ffn: Ffn, x: Tensor):
    def run(backend: kernels.Backend) -> list[Tensor]:
        inputs = x.clone().requires_grad_()
        with kernels.use_backend(backend):
            context = Context()
            y = ffn(inputs, context)
            total = (y * y.detach().cos()).sum() + sum(context.losses)
            return [y, *torch.autograd.grad(total, [inputs, *ffn.parameters()])]

    for portable, reference in zip(run("portable"), run("reference"), strict=True):
        torch.testing.assert_close(portable, reference, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bfloat16_weights_and_autocast_both_work(ffn: Ffn, x: Tensor):
    expected = ffn(x)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = ffn(x)
    half = ffn.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    for actual in (half, under_autocast):
        assert (actual.float() - expected).abs().median() < 0.03 * expected.abs().max()


def test_flops_follow_the_active_weights(ffn: Ffn):
    share = ffn.top_k / ffn.num_experts if isinstance(ffn, MoeFfn) else 1
    biases = sum(
        p.numel() * (share if name.startswith("experts") else 1)
        for name, p in ffn.named_parameters()
        if name.endswith("bias") or name == "shares"
    )
    assert ffn.flops(7) == 7 * ffn.flops(1) == 2 * 7 * (ffn.active_parameters() - biases)


@pytest.mark.parametrize("name", [name for name, options in CASES.items() if isinstance(options, Moe)])
def test_experts_equal_a_loop_over_tokens(name: str, x: Tensor):
    options, ffn = CASES[name], ffn_of(CASES[name])
    assert isinstance(ffn, MoeFfn) and isinstance(options, Moe)
    if ffn.selection_bias is not None:
        ffn.selection_bias.copy_(torch.randn(options.num_experts + options.num_zero))
    y = ffn(x)
    for token, actual in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
        logits = ffn.router(token)
        scores = logits.softmax(-1) if options.router == "softmax" else logits.sigmoid()
        chosen = chosen_by(options, scores if ffn.selection_bias is None else scores + ffn.selection_bias)
        expected = torch.zeros(D_MODEL) if ffn.shared is None else ffn.shared(token)
        if ffn.shared_gate is not None:
            expected = expected * ffn.shared_gate(token).sigmoid()
        for expert in chosen:
            weight = scores[expert] / (scores[chosen].sum() if options.normalise else 1) * options.weight_scale
            expected = expected + weight * expert_of(ffn, options, expert, token)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def chosen_by(options: Moe, scores: Tensor) -> list[int]:
    """Experts of the groups whose two best scores have the largest sums, best first."""
    groups = scores.view(options.num_groups, -1)
    best = groups.sort(descending=True).values[:, :2].sum(1).argsort(descending=True)[: options.top_groups].tolist()
    allowed = [e for e in range(len(scores)) if e // groups.shape[1] in best]
    return sorted(allowed, key=lambda e: -scores[e])[: options.top_k]


def expert_of(ffn: MoeFfn, options: Moe, expert: int, token: Tensor) -> Tensor:
    if expert >= options.num_experts:  # a zero expert
        return token
    activation = ACTIVATIONS[options.activation]
    hidden = token @ ffn.experts_in[expert]
    if ffn.experts_in_bias is not None:
        hidden = hidden + ffn.experts_in_bias[expert]
    if options.gated:
        gate, up = hidden.chunk(2)
        limit = float("inf") if options.clamp is None else options.clamp
        inner = activation(gate.clamp(max=limit)) * (up.clamp(-limit, limit) + options.up_offset)
    else:
        inner = activation(hidden)
    out = inner @ ffn.experts_out[expert]
    return out if ffn.experts_out_bias is None else out + ffn.experts_out_bias[expert]


def test_the_bias_of_the_choice_moves_towards_experts_that_are_chosen_too_seldom(x: Tensor):
    ffn = ffn_of(Moe(num_experts=4, top_k=1, d_ff=8, selection_bias=True, bias_rate=0.5))
    with torch.no_grad():
        ffn.router.weight.zero_()
        ffn.router.weight[2] = 1
    ffn(torch.ones(3, D_MODEL))
    assert ffn.selection_bias.tolist() == [0.5, 0.5, -0.5, 0.5]
    ffn.eval()(torch.ones(3, D_MODEL))
    assert ffn.selection_bias.tolist() == [0.5, 0.5, -0.5, 0.5]


def test_the_balance_loss_is_its_weight_when_experts_are_used_alike():
    """Four tokens that each prefer another expert: f_e = 1/4, P_e = 1/4, so E * sum f_e P_e = 1."""
    ffn = ffn_of(Moe(num_experts=4, top_k=1, d_ff=8, balance_weight=0.5))
    with torch.no_grad():
        ffn.router.weight.copy_(torch.eye(4, D_MODEL))
    context = Context()
    ffn(3 * torch.eye(4, D_MODEL), context)
    torch.testing.assert_close(context.losses, [torch.tensor(0.5)])


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_the_z_loss_is_the_mean_square_of_the_log_of_summed_exponentials(router: str):
    """Logits ln 1, ln 2, ln 3 of each token: their exponentials sum to 6."""
    options = Moe(num_experts=3, top_k=1, d_ff=8, balance_weight=0.0, z_weight=0.5, router=router)
    ffn = ffn_of(options)
    with torch.no_grad():
        ffn.router.weight.zero_()
        ffn.router.weight[:, 0] = torch.tensor([1.0, 2.0, 3.0]).log()
    x, context = torch.randn(4, D_MODEL), Context()
    x[:, 0] = 1
    ffn(x, context)
    torch.testing.assert_close(context.losses, [0.5 * torch.tensor(6.0).log().square()])
    context = Context()
    ffn.eval()(x, context)
    assert context.losses == []


def test_the_balance_loss_pushes_the_router_and_only_in_training(x: Tensor):
    ffn = ffn_of(CASES["moe"])
    context = Context()
    ffn(x, context)
    context.losses[0].backward()
    assert ffn.router.weight.grad.abs().sum() > 0
    context = Context()
    ffn.eval()(x, context)
    assert context.losses == []


def test_active_parameters_leave_out_the_experts_not_chosen():
    ffn = ffn_of(Moe(num_experts=4, top_k=1, d_ff=8, num_shared=1))
    expert = 3 * D_MODEL * 8
    assert ffn.active_parameters() == 4 * D_MODEL + 2 * expert


def test_a_hash_sends_every_token_of_an_id_to_the_same_experts_and_ids_to_all_of_them(x: Tensor):
    ffn = ffn_of(Moe(num_experts=4, top_k=1, d_ff=8, choice="hash"))
    assert ffn.router is None
    ids = torch.randint(50, (2, 9))
    y = ffn(x, Context(tokens=ids))
    torch.testing.assert_close(ffn(x[:, 3], Context(tokens=ids[:, 3])), y[:, 3])
    chosen = ffn.hashed(torch.arange(4000))
    counts = torch.bincount(chosen.flatten(), minlength=4)
    assert counts.min() > 900
    experts = ffn.hashed(ids.flatten()).flatten().tolist()
    expected = [expert_of(ffn, ffn.options, e, token) for e, token in zip(experts, x.flatten(0, 1), strict=True)]
    torch.testing.assert_close(y.flatten(0, 1), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_router_weighs_several_hashed_experts_and_no_loss_balances_them(x: Tensor):
    ffn = ffn_of(Moe(num_experts=4, num_zero=1, top_k=2, d_ff=8, choice="hash", router="sigmoid"))
    context = Context(tokens=torch.randint(50, (2, 9)))
    y = ffn(x, context)
    assert context.losses == []
    y.sum().backward()
    assert ffn.router.weight.grad.abs().sum() > 0
    chosen, weights = ffn._routed(x.flatten(0, 1), context)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(18))


def test_hash_routing_without_the_ids_of_its_tokens_says_so(x: Tensor):
    ffn = ffn_of(Moe(num_experts=4, top_k=1, d_ff=8, choice="hash"))
    for context in (None, Context(), Context(tokens=torch.zeros(2, 3, dtype=torch.int64))):
        with pytest.raises(ValueError, match=r"Hash routing needs the ids .* one for each of the 18 tokens"):
            ffn(x, context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice": "experts", "num_groups": 2}, "choice: experts does not compare the experts"),
        ({"choice": "hash", "selection_bias": True}, "choice: hash does not compare the experts"),
        ({"num_zero": 2, "num_groups": 2, "top_groups": 1}, "num_zero goes without groups of experts"),
    ],
)
def test_routers_that_cannot_be_are_refused(options: dict, message: str):
    with pytest.raises(ArchitectureError, match=message):
        Moe(num_experts=4, top_k=1, d_ff=8, **options)


@pytest.mark.parametrize("num_zero", [0, 1])
@pytest.mark.parametrize(("top_k", "taken"), [(1, 3), (2, 6)])  # of 9 tokens by 3 experts, one of them a zero expert
def test_experts_choose_the_tokens_that_score_highest_for_them(top_k: int, taken: int, num_zero: int, x: Tensor):
    options = Moe(
        num_experts=3 - num_zero, top_k=top_k, d_ff=8, choice="experts", num_zero=num_zero, weight_scale=0.7,
        num_shared=1, z_weight=0.1,
    )  # fmt: skip
    ffn, context = ffn_of(options).train(), Context()
    y = ffn(x, context)
    (z_loss,) = context.losses
    scores = ffn.router(x).softmax(-1)
    expected = ffn.shared(x)
    for b in range(len(x)):
        for e in range(3):
            for t in scores[b, :, e].argsort(descending=True)[:taken].tolist():
                out = x[b, t]
                if e < options.num_experts:
                    gate, up = (x[b, t] @ ffn.experts_in[e]).chunk(2)
                    out = (F.silu(gate) * up) @ ffn.experts_out[e]
                expected[b, t] = expected[b, t] + 0.7 * scores[b, t, e] * out
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(z_loss, 0.1 * ffn.router(x).logsumexp(-1).square().mean())
    inputs = [x.requires_grad_(), *ffn.parameters()]
    found = torch.autograd.grad(ffn(x).square().sum(), inputs)
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in found)
    torch.testing.assert_close(ffn(x[:1]), y[:1], rtol=1e-4, atol=1e-5)  # other sequences do not count


def test_experts_that_choose_tokens_need_whole_sequences(x: Tensor):
    with pytest.raises(ValueError, match=r"compare all tokens of a sequence, x must be \[B, T, d\], but got \[2, 24\]"):
        ffn_of(Moe(num_experts=4, top_k=1, d_ff=8, choice="experts"))(x[:, 0])


def test_a_model_hands_the_ids_of_its_tokens_to_hashed_experts():
    blocks = (Block(mixer=Attention(num_heads=2, head_dim=16), ffn=Moe(num_experts=4, top_k=2, d_ff=8, choice="hash")),)
    model = compile_architecture(Architecture(d_model=32, vocab_size=29, blocks=blocks), seed=0).eval()
    tokens = torch.randint(29, (2, 12))
    with torch.no_grad():
        whole = model(tokens)
        _, state = model.prefill(tokens[:, :5], model.init_state(2, 12))
        for position in range(5, 12):
            logits, state = model.step(tokens[:, position], state)
            torch.testing.assert_close(logits, whole[:, position], rtol=1e-4, atol=1e-5)


def test_in_training_the_best_tokens_of_each_sequence_pass_and_their_scores_weigh(x: Tensor):
    ffn = ffn_of(CASES["mixture of depths"])
    y = ffn(x)
    glu = build_ffn(Glu(d_ff=16), D_MODEL)
    glu.in_proj.weight.data, glu.out_proj.weight.data = ffn.experts_in[0].T, ffn.experts_out[0].T
    scores = ffn.router(x).squeeze(-1)
    for sequence in range(2):
        best = set(scores[sequence].topk(4).indices.tolist())  # half of nine tokens
        for token in range(9):
            expected = scores[sequence, token] * glu(x[sequence, token]) * (token in best)
            torch.testing.assert_close(y[sequence, token], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("told_by", ["router", "predictor"])
def test_a_loss_teaches_to_tell_without_later_tokens_who_passes(told_by: str):
    torch.manual_seed(0)
    ffn = build_ffn(MixtureOfDepths(d_ff=8, one_in=4, choice_weight=1.0, told_by=told_by), D_MODEL)
    x = torch.randn(16, 64, D_MODEL)
    learner = getattr(ffn, told_by)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    for _ in range(60):
        context = Context()
        ffn(x, context)
        optimizer.zero_grad()
        sum(context.losses).backward()
        optimizer.step()
    best = ffn.passing(ffn.router(x).squeeze(-1))
    assert best.sum(-1).tolist() == [16] * 16
    told = ffn.eval().passing(learner(x).squeeze(-1))
    assert (told == best).float().mean() > 0.9
    passed = ffn(x).abs().sum(-1) > 0
    assert torch.equal(passed, told)
    context = Context()
    ffn(x, context)
    assert context.losses == []


def test_a_predictor_of_depths_moves_nothing_else():
    ffn = ffn_of(CASES["mixture of depths told by a predictor"])
    x, context = torch.randn(2, 9, D_MODEL, requires_grad=True), Context()
    ffn(x, context)
    (loss,) = context.losses
    others = [x, ffn.router.weight, ffn.experts_in, ffn.experts_out]
    assert torch.autograd.grad(loss, others, allow_unused=True) == (None,) * 4


@torch.no_grad()
@pytest.mark.parametrize("told_by", ["router", "predictor"])
def test_in_evaluation_a_network_of_depths_is_causal_and_decodes(told_by: str):
    ffn = MixtureOfDepths(d_ff=24, one_in=3, told_by=told_by)
    blocks = (Block(mixer=Attention(num_heads=2, head_dim=16), ffn=ffn),) * 2
    model = compile_architecture(Architecture(d_model=32, vocab_size=29, blocks=blocks), seed=0).eval()
    tokens = torch.randint(29, (2, 12), generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.mul_(5 if parameter.ndim > 1 else 1)
    whole = model(tokens)
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 29
    torch.testing.assert_close(model(changed)[:, :8], whole[:, :8])
    _, state = model.prefill(tokens[:, :5], model.init_state(2, 12))
    for position in range(5, 12):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, whole[:, position], rtol=1e-4, atol=1e-5)
