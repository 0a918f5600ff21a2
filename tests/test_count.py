"""Counts against sums done by hand, and the matching of parameters as a property."""

import pytest
import torch

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    GatedDeltaNet,
    Glu,
    HeadMix,
    Mamba2,
    MixerOptions,
    Moe,
    NoFfn,
)
from nas.compile import compile_architecture
from nas.count import CannotMatch, count, count_parameters, deployed, ffn_width, match_parameters, parameters_by_width
from nas.workload import Deployment, Workload

D = 32
WORKLOAD = Workload(prompt=8, context=16)
GQA = Attention(num_heads=2, num_kv_heads=1, head_dim=16)
MAMBA2 = Mamba2(num_heads=2, head_dim=16, state_dim=8, conv_size=4)
DELTA = GatedDeltaNet(num_heads=2, head_dim=16)
MIX = HeadMix(parts=(GQA, DELTA))


def build(*blocks: Block, d_model: int = D, vocab_size: int = 10, tie: bool = True) -> Architecture:
    return Architecture(name="tiny", d_model=d_model, vocab_size=vocab_size, tie_embeddings=tie, blocks=blocks)


def test_parameters_of_attention_and_glu_are_those_of_the_sum_by_hand() -> None:
    embedding, norms = 10 * D, 3 * D
    attention = D * (2 * 16 + 2 * 16) + 2 * 16 * D  # q of 2 heads, k and v of 1 each; output
    glu = 3 * D * 24
    counts = count(build(Block(mixer=GQA, ffn=Glu(d_ff=24))), WORKLOAD)
    assert counts.parameters == counts.active_parameters == embedding + norms + attention + glu
    assert counts.weight_bytes == 4 * counts.parameters


def test_an_untied_head_is_counted_once_more() -> None:
    block = Block(mixer=GQA, ffn=Glu(d_ff=24))
    assert count_parameters(build(block, tie=False)) - count_parameters(build(block)) == 10 * D


def test_active_parameters_leave_out_the_experts_not_chosen() -> None:
    moe = Moe(num_experts=4, top_k=1, num_shared=1, d_ff=8)
    counts = count(build(Block(mixer=GQA, ffn=moe)), WORKLOAD)
    assert counts.parameters - counts.active_parameters == 3 * (3 * D * 8)


def test_a_cache_holds_keys_and_values_of_the_context() -> None:
    counts = count(build(Block(mixer=GQA)), WORKLOAD)
    assert counts.sequence_bytes == 2 * 16 * 1 * 16 * 4  # k and v, 16 tokens, 1 head of 16, float32
    half = count(build(Block(mixer=GQA)), WORKLOAD, dtype=torch.bfloat16)
    assert half.sequence_bytes * 2 == counts.sequence_bytes


def test_a_window_and_a_recurrent_state_do_not_grow_with_the_context() -> None:
    window = build(Block(mixer=Attention(num_heads=1, head_dim=16, window=4)))
    assert count(window, WORKLOAD).sequence_bytes == 2 * 4 * 16 * 4
    near, far = (count(build(Block(mixer=MAMBA2)), Workload(context=c)) for c in (16, 4096))
    assert near.sequence_bytes == far.sequence_bytes
    memory, conv = 2 * 8 * 16 * 4, 3 * (2 * 16 + 2 * 8) * 4  # state [H, N, P]; three past inputs of x, B and C
    assert near.sequence_bytes == memory + conv


def test_decode_flops_grow_with_the_context_by_the_keys_alone() -> None:
    near, far = (count(build(Block(mixer=GQA)), Workload(prompt=8, context=c)) for c in (16, 32))
    assert far.flops_decode - near.flops_decode == 16 * 4 * 2 * 16  # 2 products of 2 FLOPs, 2 heads of 16, per key
    assert near.flops_prefill == far.flops_prefill


@pytest.mark.parametrize("mixer", [GQA, MAMBA2, DELTA, MIX], ids=lambda m: m.kind)
def test_counted_bytes_are_the_bytes_allocated(mixer: MixerOptions) -> None:
    architecture = build(Block(mixer=mixer, ffn=Glu(d_ff=24)))
    model = compile_architecture(architecture)
    state = model.init_state(1, WORKLOAD.context)
    counts = count(architecture, WORKLOAD)
    assert counts.sequence_bytes == sum(t.untyped_storage().nbytes() for layer in state.layers for t in layer.values())
    assert counts.weight_bytes == sum(p.untyped_storage().nbytes() for p in model.parameters())


def test_the_name_does_not_matter_to_a_count() -> None:
    one, other = (Architecture(name=n, d_model=D, vocab_size=10, blocks=(Block(mixer=GQA),)) for n in ("one", "other"))
    assert count(one, WORKLOAD) is count(other, WORKLOAD)


FFNS = [
    [Glu(d_ff=64)] * 4,
    [Glu(d_ff=64), Glu(d_ff=128), NoFfn(), Glu(d_ff=64)],
    [Moe(num_experts=4, top_k=2, d_ff=24, num_shared=1), Glu(d_ff=96)] * 2,
]


@pytest.mark.parametrize("ffns", FFNS, ids=["equal", "unequal", "moe"])
@pytest.mark.parametrize("mixer", [GQA, MAMBA2, DELTA, MIX], ids=lambda m: m.kind)
@pytest.mark.parametrize("target", [150_000, 400_000, 3_000_000])
def test_matching_reaches_the_target_with_widths_in_proportion(mixer: MixerOptions, ffns, target: int) -> None:
    architecture = build(*(Block(mixer=mixer, ffn=ffn) for ffn in ffns), d_model=64)
    matched = match_parameters(architecture, target)
    assert abs(count_parameters(matched) - target) <= 0.03 * target
    widths = [(ffn_width(a.ffn), ffn_width(b.ffn)) for a, b in zip(architecture.blocks, matched.blocks, strict=True)]
    fixed, slopes = parameters_by_width(architecture, 8)
    factor = (target - fixed) / sum(s * w for s, (w, _) in zip(slopes, widths, strict=True))
    for before, after in widths:
        assert after % 8 == 0
        assert abs(after - factor * before) <= 4 + 8  # rounded, and moved by one step at most
    assert [b.mixer for b in matched.blocks] == [b.mixer for b in architecture.blocks]


def test_the_closed_form_is_exact() -> None:
    architecture = build(
        Block(mixer=GQA, ffn=Glu(d_ff=40)), Block(mixer=DELTA, ffn=Moe(num_experts=2, top_k=1, d_ff=8))
    )
    fixed, slopes = parameters_by_width(architecture, 8)
    assert slopes == [3 * D, 2 * 3 * D]
    assert fixed + slopes[0] * 40 + slopes[1] * 8 == count_parameters(architecture)


def test_an_architecture_that_matches_stays_as_it_is() -> None:
    architecture = build(Block(mixer=GQA, ffn=Glu(d_ff=64)))
    assert match_parameters(architecture, count_parameters(architecture)) == architecture


def test_mixers_that_are_too_large_cannot_be_matched() -> None:
    with pytest.raises(CannotMatch, match=r"mixers and embeddings of 'tiny' alone take 3,4\d\d of 2,000 parameters"):
        match_parameters(build(Block(mixer=GQA, ffn=Glu(d_ff=64))), 2_000)


def test_without_ffn_only_the_count_itself_can_be_matched() -> None:
    bare = build(Block(mixer=GQA))
    assert match_parameters(bare, count_parameters(bare)) is bare
    with pytest.raises(CannotMatch, match="has no FFN"):
        match_parameters(bare, 1_000_000)


def test_steps_that_are_too_coarse_cannot_match() -> None:
    with pytest.raises(CannotMatch, match="in steps of 64"):
        match_parameters(build(Block(mixer=GQA, ffn=Glu(d_ff=64))), 3_484 + 96 * 96, multiple=64, tolerance=0.001)


@pytest.mark.parametrize("mixer", [GQA, MAMBA2, DELTA, MIX], ids=lambda m: m.kind)
def test_deployments_of_matched_proxies_are_matched(mixer: MixerOptions) -> None:
    proxy = match_parameters(build(*[Block(mixer=mixer, ffn=Glu(d_ff=96))] * 4, d_model=64, vocab_size=256), 200_000)
    large = deployed(proxy, Deployment(parameters=20_000_000))
    assert abs(count_parameters(large) - 20_000_000) <= 0.03 * 20_000_000
    assert len(large.blocks) == 8
    assert large.vocab_size == 4096
    ratio = ffn_width(proxy.blocks[0].ffn) / proxy.d_model
    assert ffn_width(large.blocks[0].ffn) / large.d_model == pytest.approx(ratio, rel=0.4)


def test_factors_alone_deploy_when_no_count_is_asked_for() -> None:
    proxy = build(Block(mixer=GQA, ffn=Glu(d_ff=64)))
    large = deployed(proxy, Deployment(parameters=None, width=4.0, depth=3.0, head_dim=1.0, vocab_size=None))
    assert (large.d_model, len(large.blocks), ffn_width(large.blocks[0].ffn), large.vocab_size) == (128, 3, 256, 10)
