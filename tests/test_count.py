"""Counts against sums done by hand and against networks built without memory; the matching of parameters."""

from pathlib import Path

import pytest
import torch

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    BlockSparseAttention,
    DifferentialAttention,
    FfnOptions,
    ForgettingAttention,
    GatedDeltaNet,
    GatedLinearAttention,
    GatedSlotAttention,
    Glu,
    HashAttention,
    HeadMix,
    IndexedLatentAttention,
    LatentAttention,
    Mamba1,
    Mamba2,
    MixerOptions,
    MixtureOfDepths,
    Mlp,
    Moe,
    NativeSparseAttention,
    NoFfn,
    NoMixer,
    PatternAttention,
    Rwkv4,
    Rwkv6,
    Rwkv7,
    RwkvChannelMix,
    S4d,
    ShortConvolution,
    TttLinear,
    WindowLinearAttention,
    preset,
    read_architecture,
)
from nas.compile import FFNS as FFN_CLASSES
from nas.compile import MIXERS as MIXER_CLASSES
from nas.compile import build_ffn, compile_architecture
from nas.count import (
    CannotMatch,
    count,
    count_flops,
    count_parameters,
    count_state_bytes,
    deployed,
    longest_context,
    match_parameters,
    parameters_by_width,
)
from nas.deployment import Deployment
from nas.model import Model
from nas.parts import active_parameters, ffn_flops, ffn_parameters, ffn_width, parameters_per_width, with_width
from nas.workload import LONGEST_CONTEXT
from scripts.settings import SearchSettings
from search_spaces import RandomTrial
from tests.counted_calls import calls_of

DESIGNS = sorted((Path(__file__).resolve().parents[1] / "conf" / "designs").glob("*.yaml"))
D = 32
CONTEXT = 16
GQA = Attention(num_heads=2, num_kv_heads=1, head_dim=16)
MAMBA2 = Mamba2(num_heads=2, head_dim=16, state_dim=8, conv_size=4)
DELTA = GatedDeltaNet(num_heads=2, head_dim=16)
MIX = HeadMix(parts=(GQA, DELTA))
ALL_MIXERS: tuple[MixerOptions, ...] = (
    NoMixer(),
    GQA,
    Attention(num_heads=1, head_dim=16, window=5, position="none"),
    BlockSparseAttention(num_heads=2, head_dim=16, block_size=4, top_k=2),
    GatedLinearAttention(num_heads=2, head_dim=16, key_dim=8, conv_size=4),
    MAMBA2,
    Mamba1(num_heads=2, head_dim=16, state_dim=4),
    DELTA,
    ShortConvolution(),
    PatternAttention(num_heads=2, head_dim=16, block_size=4),
    NativeSparseAttention(num_heads=2, head_dim=16, compressed_stride=2, top_k=3, window=4),
    LatentAttention(num_heads=2, head_dim=16, latent_dim=24, rope_dim=8),
    IndexedLatentAttention(num_heads=2, head_dim=16, latent_dim=24, rope_dim=8, top_k=4),
    ForgettingAttention(num_heads=2, head_dim=16),
    DifferentialAttention(num_heads=1, head_dim=32),
    HashAttention(num_heads=2, head_dim=16, top_k=4),
    preset("kda", num_heads=2, head_dim=16),
    preset("mlstm", num_heads=2, head_dim=16),
    preset("rg_lru", num_heads=2, head_dim=16),
    Rwkv4(num_heads=2, head_dim=16),
    S4d(num_heads=2, head_dim=16, state_dim=4),
    GatedSlotAttention(num_heads=2, head_dim=16, num_slots=8),
    TttLinear(num_heads=2, head_dim=16),
    WindowLinearAttention(num_heads=2, num_kv_heads=1, head_dim=16, window=5),
    Attention(num_heads=4, head_dim=16, head_share=0.5),
    Rwkv6(num_heads=2, head_dim=16),
    Rwkv7(num_heads=2, head_dim=16, value_rank=4),
    MIX,
    HeadMix(parts=(MAMBA2, GQA), fuse="concat"),
)
ALL_FFNS: tuple[FfnOptions, ...] = (
    Glu(d_ff=24),
    RwkvChannelMix(d_ff=24, receptance=True),
    Mlp(d_ff=20, bias=True),
    Moe(num_experts=4, top_k=2, d_ff=12, num_shared=1),
    Moe(num_experts=3, top_k=3, d_ff=7, activation="gelu"),
    MixtureOfDepths(d_ff=24, one_in=4),
    MixtureOfDepths(d_ff=24, one_in=3, told_by="predictor"),
)


def build(*blocks: Block, d_model: int = D, vocab_size: int = 10, tie: bool = True) -> Architecture:
    return Architecture(name="tiny", d_model=d_model, vocab_size=vocab_size, tie_embeddings=tie, blocks=blocks)


def test_parameters_of_attention_and_glu_are_those_of_the_sum_by_hand() -> None:
    embedding, norms = 10 * D, 3 * D
    attention = D * (2 * 16 + 2 * 16) + 2 * 16 * D  # q of 2 heads, k and v of 1 each; output
    glu = 3 * D * 24
    counts = count(build(Block(mixer=GQA, ffn=Glu(d_ff=24))), CONTEXT)
    assert counts.parameters == counts.active_parameters == embedding + norms + attention + glu
    assert counts.weight_bytes == 4 * counts.parameters


def test_an_untied_head_is_counted_once_more() -> None:
    block = Block(mixer=GQA, ffn=Glu(d_ff=24))
    assert count_parameters(build(block, tie=False)) - count_parameters(build(block)) == 10 * D


def test_active_parameters_leave_out_the_experts_not_chosen() -> None:
    moe = Moe(num_experts=4, top_k=1, num_shared=1, d_ff=8)
    counts = count(build(Block(mixer=GQA, ffn=moe)), CONTEXT)
    assert counts.parameters - counts.active_parameters == 3 * (3 * D * 8)


def test_a_cache_holds_keys_and_values_of_the_context() -> None:
    counts = count(build(Block(mixer=GQA)), CONTEXT)
    assert counts.sequence_bytes == 2 * 16 * 1 * 16 * 4  # k and v, 16 tokens, 1 head of 16, float32
    half = count(build(Block(mixer=GQA)), CONTEXT, dtype=torch.bfloat16)
    assert half.sequence_bytes * 2 == counts.sequence_bytes


def test_a_window_and_a_recurrent_state_do_not_grow_with_the_context() -> None:
    window = build(Block(mixer=Attention(num_heads=1, head_dim=16, window=4)))
    assert count(window, CONTEXT).sequence_bytes == 2 * 4 * 16 * 4
    near, far = (count(build(Block(mixer=MAMBA2)), context) for context in (16, 4096))
    assert near.sequence_bytes == far.sequence_bytes
    memory, conv = 2 * 8 * 16 * 4, 3 * (2 * 16 + 2 * 8) * 4  # state [H, N, P]; three past inputs of x, B and C
    assert near.sequence_bytes == memory + conv


def test_decode_flops_grow_with_the_context_by_the_keys_alone() -> None:
    near, far = (count(build(Block(mixer=GQA)), context) for context in (16, 32))
    assert far.flops_decode - near.flops_decode == 16 * 4 * 2 * 16  # 2 products of 2 FLOPs, 2 heads of 16, per key


@pytest.mark.parametrize("mixer", [GQA, MAMBA2, DELTA, MIX], ids=lambda m: m.kind)
def test_counted_bytes_are_the_bytes_allocated(mixer: MixerOptions) -> None:
    architecture = build(Block(mixer=mixer, ffn=Glu(d_ff=24)))
    model = compile_architecture(architecture)
    state = model.init_state(1, CONTEXT)
    counts = count(architecture, CONTEXT)
    assert counts.sequence_bytes == sum(t.untyped_storage().nbytes() for layer in state.layers for t in layer.values())
    assert counts.weight_bytes == sum(p.untyped_storage().nbytes() for p in model.parameters())


def built(architecture: Architecture) -> Model:
    with torch.device("meta"):
        return compile_architecture(architecture)


def check_against_the_built_network(architecture: Architecture) -> None:
    """Everything that is a sum over parts equals what the whole network says of itself."""
    model, counts = built(architecture), count(architecture, 37, dtype=torch.bfloat16)
    assert counts.parameters == sum(p.numel() for p in model.parameters())
    idle = [
        sum(p.numel() for p in block.ffn.parameters()) - block.ffn.active_parameters()
        for block in model.blocks
        if block.ffn is not None
    ]
    assert counts.active_parameters == counts.parameters - sum(idle)
    state = model.init_state(1, 37, torch.bfloat16)
    assert counts.sequence_bytes == sum(t.nbytes for layer in state.layers for t in layer.values())
    flops = 2 * architecture.vocab_size * architecture.d_model
    context = 37 + architecture.num_meta_tokens
    flops += sum(0 if block.mixer is None else block.mixer.flops(1, context) for block in model.layers)
    flops += sum(0 if block.ffn is None else block.ffn.flops(1) for block in model.layers)
    flops += sum(2 * p.numel() for block in model.blocks for p in block.own.parameters())
    assert counts.flops_decode == flops


def test_every_kind_is_among_those_that_are_counted_here() -> None:
    assert {type(m) for m in ALL_MIXERS} == set(MIXER_CLASSES)
    assert {type(f) for f in ALL_FFNS} == set(FFN_CLASSES) - {NoFfn}


@pytest.mark.parametrize("mixer", ALL_MIXERS, ids=lambda m: m.kind)
def test_sums_over_parts_are_the_numbers_of_the_built_network(mixer: MixerOptions) -> None:
    blocks = [Block(mixer=mixer, ffn=ffn) for ffn in ALL_FFNS]
    bare = [] if isinstance(mixer, NoMixer) else [Block(mixer=mixer, ffn=NoFfn())]
    for tie in (True, False):
        check_against_the_built_network(build(*blocks, *bare, tie=tie))


@pytest.mark.parametrize("path", DESIGNS, ids=lambda path: path.stem)
def test_the_published_designs_are_counted_as_they_are_built(path: Path) -> None:
    check_against_the_built_network(read_architecture(path))


@pytest.mark.parametrize("ffn", ALL_FFNS, ids=lambda f: f"{f.kind}-{ffn_width(f)}")
@pytest.mark.parametrize("width", [1, 7, 13, 8, 1031])
def test_numbers_of_an_ffn_at_any_width_are_those_of_the_built_one(ffn: FfnOptions, width: int) -> None:
    wide = with_width(ffn, width)
    with torch.device("meta"):
        module = build_ffn(wide, D)
    assert module is not None
    assert ffn_parameters(wide, D) == D + sum(p.numel() for p in module.parameters())
    assert active_parameters(wide, D) == D + module.active_parameters()
    assert ffn_flops(wide, D, 11) == module.flops(11)


def test_parameters_per_width_are_the_slope_of_a_straight_line() -> None:
    for ffn in ALL_FFNS:
        slope = parameters_per_width(ffn, D)
        near, far = (ffn_parameters(with_width(ffn, width), D) for width in (100, 101))
        assert far - near == slope


def test_flops_of_a_prompt_are_those_of_its_tokens_one_by_one() -> None:
    # Latent attention reads a single token in another form, on its cache.
    additive = (mixer for mixer in ALL_MIXERS if not isinstance(mixer, LatentAttention))
    architecture = build(*(Block(mixer=mixer, ffn=ALL_FFNS[1]) for mixer in additive))
    one_by_one = sum(count_flops(architecture, 1, position) for position in range(20))
    assert count_flops(architecture, 20) == one_by_one
    assert count_flops(architecture, 15, 5) == one_by_one - count_flops(architecture, 5)


def test_latent_attention_reads_a_prompt_written_out_and_a_token_on_its_cache() -> None:
    latent = build(Block(mixer=LatentAttention(num_heads=2, head_dim=16, latent_dim=24, rope_dim=8)))
    linear = 2 * (D * 2 * 24 + D * 32 + 24 * 2 * 32 + 2 * 16 * D + 10 * D)
    assert count_flops(latent, 3) == 3 * linear + 6 * 2 * 2 * (16 + 8 + 16)  # six pairs, scores and values
    assert count_flops(latent, 1, 4) == linear + 5 * 2 * 2 * (24 + 8 + 24)


@pytest.mark.parametrize("mixer", [GQA, MIX, ALL_MIXERS[3]], ids=lambda m: m.kind)
@pytest.mark.parametrize(("batch", "free"), [(1, 200_000), (3, 1_000_000), (7, 100_000_000)])
def test_the_longest_context_is_the_last_that_fits(mixer: MixerOptions, batch: int, free: int) -> None:
    architecture = build(Block(mixer=mixer))

    def needed(context: int) -> int:
        state = count_state_bytes(architecture, context, dtype=torch.float32)
        return 4 * count_parameters(architecture) + batch * state

    longest = longest_context(architecture, batch, free, dtype=torch.float32)
    assert needed(longest) <= free < needed(longest + 1)


def test_no_context_fits_where_the_weights_do_not_and_every_one_where_state_is_constant() -> None:
    architecture = build(Block(mixer=MAMBA2))
    assert longest_context(architecture, 1, 1000, dtype=torch.float32) == 0
    assert longest_context(architecture, 1, 10_000_000, dtype=torch.float32) == LONGEST_CONTEXT


def test_a_sampled_architecture_is_counted_in_some_hundred_calls() -> None:
    """Of the default space, once its parts are known: a tenth of a millisecond."""
    settings = SearchSettings.from_overrides(["search_space=hybrid"])
    samples = [settings.space(RandomTrial(seed)) for seed in range(200)]
    for architecture in samples:
        count(architecture, 4096)
    assert calls_of(lambda: [count(architecture, 4096) for architecture in samples]) < 300 * len(samples)


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
    fixed, slopes = parameters_by_width(architecture)
    factor = (target - fixed) / sum(s * w for s, (w, _) in zip(slopes, widths, strict=True))
    for before, after in widths:
        assert after % 8 == 0
        assert abs(after - factor * before) <= 4 + 8  # rounded, and moved by one step at most
    assert [b.mixer for b in matched.blocks] == [b.mixer for b in architecture.blocks]


def test_the_closed_form_is_exact() -> None:
    architecture = build(
        Block(mixer=GQA, ffn=Glu(d_ff=40)), Block(mixer=DELTA, ffn=Moe(num_experts=2, top_k=1, d_ff=8))
    )
    fixed, slopes = parameters_by_width(architecture)
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
