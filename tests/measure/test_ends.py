"""What random weights cannot show, put in place at both ends: routing of experts and selection of blocks."""

import pytest
import torch
from torch import Tensor

from kernels import use_substitutes
from nas.architecture import (
    Block,
    BlockSparseAttention,
    HashAttention,
    IndexedLatentAttention,
    MixtureOfDepths,
    Moe,
    NativeSparseAttention,
)
from nas.compile import build_ffn, compile_architecture
from nas.context import Context
from nas.ffns.mixture_of_depths import MixtureOfDepthsFfn
from nas.ffns.moe import MoeFfn
from nas.measure.ends import Content, balanced_logits, content_of, depends_on_content, end_picks, skewed_logits
from nas.measure.phases import Call, phase_call
from nas.measure.random_model import random_model
from nas.mixers.selection import Selection
from nas.model import Model
from nas.workload import Decode, Prefill, TrainStep
from tests.measure.examples import ATTENTION, CPU, GLU, MAMBA2, MOE, SPARSE, D, network

SELECTING = {
    "block sparse": BlockSparseAttention(num_heads=4, num_kv_heads=2, head_dim=16, block_size=4, top_k=4),
    "native sparse": NativeSparseAttention(
        num_heads=4, num_kv_heads=2, head_dim=16, compressed_stride=2, block_strides=2, top_k=5, window=3
    ),
    "hashed": HashAttention(num_heads=4, num_kv_heads=2, head_dim=16, num_buckets=4, top_k=5),
    "indexed latent": IndexedLatentAttention(
        num_heads=2, head_dim=16, latent_dim=16, rope_dim=8, top_k=5, index_heads=2, index_dim=8
    ),
}
PHASES = {
    "prefill": Prefill(batch=2, prompt=60),
    "decode": Decode(batch=2, context=60),
    "train step": TrainStep(batch=2, tokens=60),
}
MIXED = network(Block(mixer=SPARSE, ffn=MOE), Block(mixer=ATTENTION, ffn=GLU))


def shares(logits: Tensor, top_k: int) -> Tensor:
    """How often each expert is among the first top_k choices."""
    return torch.bincount(logits.topk(top_k, dim=-1).indices.flatten(), minlength=logits.shape[1]) / logits.shape[0]


@pytest.mark.parametrize(("tokens", "experts"), [(8, 8), (64, 4), (128, 128), (96, 3)])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_balanced_routing_gives_every_expert_its_equal_share(tokens: int, experts: int, top_k: int) -> None:
    logits = balanced_logits(tokens, experts)
    assert shares(logits, top_k).tolist() == pytest.approx([top_k / experts] * experts)
    assert torch.equal(shares(logits.bfloat16(), top_k), shares(logits, top_k))


def test_few_tokens_go_to_as_many_experts_as_there_are_choices() -> None:
    assert (shares(balanced_logits(2, 16), 3) > 0).sum() >= 4
    assert shares(balanced_logits(1, 16), 3).count_nonzero() == 3


def test_skewed_routing_follows_zipfs_law() -> None:
    experts = 8
    expected = 1 / torch.arange(1, experts + 1)
    found = shares(skewed_logits(20_000, experts), 1)
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.015, rtol=0)
    second = shares(skewed_logits(20_000, experts), 2)
    assert second.sum() == pytest.approx(2)
    assert (second[:-1] > second[1:] - 0.01).all()


def test_routing_at_an_end_is_the_same_every_time() -> None:
    assert torch.equal(skewed_logits(50, 8), skewed_logits(50, 8))


def test_only_experts_and_picked_blocks_depend_on_content() -> None:
    for block, depends in [
        (Block(mixer=ATTENTION, ffn=GLU), False),
        (Block(mixer=MAMBA2), False),
        (Block(mixer=SPARSE), True),
        *((Block(mixer=mixer), True) for mixer in SELECTING.values()),
        (Block(mixer=ATTENTION, ffn=MOE), True),
    ]:
        with torch.device("meta"):
            assert depends_on_content(compile_architecture(network(block))) is depends


def test_the_ends_reach_the_experts_of_a_layer() -> None:
    ffn = build_ffn(Moe(num_experts=8, top_k=1, d_ff=8), D)
    assert isinstance(ffn, MoeFfn)
    groups: list[list[int]] = []

    def observe(x: Tensor, w_in: Tensor, w_out: Tensor, chosen: Tensor, weights: Tensor, **_: object) -> object:
        groups.append(chosen.flatten().bincount(minlength=8).tolist())
        return NotImplemented

    with content_of(ffn) as content, use_substitutes({"moe_ffn": observe}):
        for end in ("spread", "concentrated"):
            content.end = end
            ffn(torch.randn(1, 4000, D))
    assert groups[0] == [500] * 8
    zipf = [4000 / rank / sum(1 / r for r in range(1, 9)) for rank in range(1, 9)]
    assert groups[1] == pytest.approx(zipf, rel=0.25)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_ends_reach_experts_that_a_hash_names(top_k: int) -> None:
    ffn = build_ffn(Moe(num_experts=8, top_k=top_k, d_ff=8, choice="hash"), D)
    assert isinstance(ffn, MoeFfn)
    context = Context(tokens=torch.full((1, 4000), 5))
    x = torch.randn(1, 4000, D)
    _, weights = ffn._routed(x[0], context)
    with content_of(ffn) as content:
        own, same = ffn._routed(x[0], context)
        content.end = "spread"
        balanced, _ = ffn._routed(x[0], context)
        content.end = "concentrated"
        skewed, _ = ffn._routed(x[0], context)
    assert torch.equal(same, weights) and torch.equal(own, ffn._routed(x[0], context)[0])
    assert own.unique().numel() == top_k
    assert balanced.shape == skewed.shape == own.shape and balanced.dtype == own.dtype
    assert balanced.flatten().bincount(minlength=8).tolist() == [500 * top_k] * 8
    assert torch.equal(skewed, skewed_logits(4000, 8).topk(top_k).indices)
    assert torch.isfinite(ffn(x, context)).all()
    assert not any(module._forward_hooks for module in ffn.modules())


@pytest.mark.parametrize(("slots", "first", "last"), [(5, 1, 2), (5, 0, 1), (5, 0, 0), (1, 0, 1), (3, 1, 2), (9, 1, 2)])
def test_picks_of_both_ends_are_past_and_never_twice_the_same(slots: int, first: int, last: int) -> None:
    own = torch.arange(40)
    local, spread = (end_picks(end, own, slots, first=first, last=last) for end in ("concentrated", "spread"))
    for position in range(40):
        few = min(slots, position + 1)
        for picks in (local[position].tolist(), spread[position].tolist()):
            live = [pick for pick in picks if pick >= 0]
            assert len(picks) == slots and len(live) == len(set(live)) == few
            assert set(live) <= set(range(position + 1))
            assert set(live) >= {*range(min(first, few)), *range(max(0, position + 1 - last), position + 1)}
        nearest = range(max(first, position + 1 - (slots - first)), position + 1)
        assert set(local[position].tolist()) - {-1} == {*range(min(first, few)), *nearest}
    if slots > first + last:
        assert set(spread.flatten().tolist()) >= set(range(25)), "together they touch every early one"
        assert len(spread[20:].sort().values.unique(dim=0)) > 15


def test_the_ends_decide_which_tokens_pass_a_mixture_of_depths() -> None:
    ffn = build_ffn(MixtureOfDepths(d_ff=8, one_in=4), D)
    assert isinstance(ffn, MixtureOfDepthsFfn) and depends_on_content(ffn)
    scores = torch.randn(2, 10)
    with content_of(ffn.eval()) as content:
        own = ffn.passing(scores)
        content.end = "spread"
        spread, one = ffn.passing(scores), ffn.passing(scores[:1, :1])
        content.end = "concentrated"
        local, none = ffn.passing(scores), ffn.passing(scores[:1, :1])
    assert torch.equal(own, scores > 0)
    assert spread.flatten().nonzero().flatten().tolist() == [0, 4, 8, 12, 16]
    assert local.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert (one.item(), none.item()) == (True, False)


def at_both_ends(model: Model, call: Call, content: Content) -> dict[str, tuple[object, Tensor]]:
    """Of each end what the call returns, and the picks of its selection, [B, Tq, H, S]."""
    selection = next(module for module in model.modules() if isinstance(module, Selection))
    found: dict[str, tuple[object, Tensor]] = {}
    for end in ("spread", "concentrated"):
        picked: list[Tensor] = []
        seen = selection.register_forward_hook(lambda module, inputs, picks, into=picked: into.append(picks))
        content.end = end
        found[end] = call(), picked[0]
        seen.remove()
    content.end = None
    return found


@pytest.mark.parametrize("kind", SELECTING)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_ends_reach_every_mixer_that_selects(kind: str, phase: str) -> None:
    model = random_model(network(Block(mixer=SELECTING[kind])), CPU, torch.float32)
    call = phase_call(model, PHASES[phase], CPU)
    plain = call()
    with content_of(model) as content:
        assert torch.equal(call(), plain)
        found = at_both_ends(model, call, content)
    assert torch.equal(call(), plain)
    assert not any(module._forward_hooks for module in model.modules())
    (y_spread, spread), (y_local, local) = found["spread"], found["concentrated"]
    assert torch.isfinite(y_spread).all() and torch.isfinite(y_local).all()
    assert not torch.equal(y_spread, y_local)
    block, first = {"native sparse": (4, 1), "block sparse": (4, 0)}.get(kind, (1, 0))
    last = 60 // block if phase == "decode" else 59 // block
    assert sorted(local[1, -1, -1].tolist()) == [*range(first), *range(last + 1 - (5 - first), last + 1)]
    assert spread[1, -1, -1].unique().numel() == 5 and spread.max() <= last
    assert local[1, -1, -1].sum() > spread[1, -1, -1].sum()


@pytest.mark.parametrize("kind", SELECTING)
def test_a_mixer_that_selects_can_be_trained_at_both_ends(kind: str) -> None:
    model = random_model(network(Block(mixer=SELECTING[kind])), CPU, torch.float32)
    with content_of(model) as content:
        found = at_both_ends(model, phase_call(model, PHASES["train step"], CPU), content)
    assert not torch.equal(found["spread"][1], found["concentrated"][1])
    optimizer = found["concentrated"][0]
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert all(value["exp_avg"].isfinite().all() for value in optimizer.state.values())


@pytest.mark.parametrize("phase", [Prefill(batch=2, prompt=40), Decode(batch=2, context=40)], ids=["prefill", "decode"])
def test_without_an_end_and_afterwards_the_network_decides_by_itself(phase) -> None:
    model = random_model(MIXED, CPU, torch.float32)
    call = phase_call(model, phase, CPU)
    plain = call()
    with content_of(model) as content:
        assert torch.equal(call(), plain)
        content.end = "concentrated"
        assert not torch.equal(call(), plain)
    assert torch.equal(call(), plain)
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_taken_off_when_measuring_breaks() -> None:
    model = random_model(MIXED, CPU, torch.float32)
    with pytest.raises(RuntimeError, match="broken"), content_of(model):
        raise RuntimeError("broken")
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_can_be_trained_at_both_ends() -> None:
    model = random_model(MIXED, CPU, torch.float32)
    with content_of(model) as content:
        step = phase_call(model, TrainStep(batch=2, tokens=24), CPU)
        for end in ("spread", "concentrated"):
            content.end = end
            step()
        assert {key[0] for key in content._known} == {"spread", "concentrated"}, "each end decided in its step"
    assert all(parameter.isfinite().all() for parameter in model.parameters())
