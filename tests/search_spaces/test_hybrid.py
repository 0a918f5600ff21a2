from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import FixedTrial

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    HeadMix,
    Mamba2,
    Moe,
    NoFfn,
    NoMixer,
    Scale,
    canonical,
    canonical_id,
    read_architecture,
    resized,
)
from search_spaces import RandomTrial
from search_spaces.any_mixer import ALL_KINDS
from search_spaces.kinds import kind_of, pattern_name

CONF = Path(__file__).resolve().parents[2] / "conf"
MAMBA = {"mixer": "mamba2", "state_dim": 16, "ffn": "glu"}
ATTENTION = {"mixer": "attention", "position": "none", "num_kv_heads": 1, "ffn": "none"}
OWN = {"kv_from": "own", "attention_weights": "own", "num_meta_tokens": 0}


def named(prefix, choices):
    return {f"{prefix}.{key}": value for key, value in choices.items()}


def test_an_exact_small_architecture(make_space):
    space = make_space("hybrid", num_layers=2, d_model=128, num_meta_tokens=0)
    moe = {"num_experts": 4, "top_k": 2, "num_shared": 1}
    mix = {
        "mixer": "head_mix",
        "parts": "attention+mamba2",
        "attention.heads_of_4": 3,
        "attention.position": "rope",
        "attention.num_kv_heads": 1,
        "mamba2.state_dim": 32,
        "ffn": "moe",
        **moe,
    }
    architecture = space(FixedTrial(named("layers.0", MAMBA) | named("layers.1", mix)))
    assert architecture == Architecture(
        name="m(a3m1)+",
        d_model=128,
        vocab_size=256,
        blocks=(
            Block(mixer=Mamba2(num_heads=8, head_dim=32, state_dim=16), ffn=Glu(d_ff=384)),
            Block(
                mixer=HeadMix(
                    fuse="norm_mean",
                    parts=(
                        Attention(num_heads=3, num_kv_heads=1, head_dim=32, position="rope"),
                        Mamba2(num_heads=1, head_dim=32, state_dim=32),
                    ),
                ),
                ffn=Moe(num_experts=4, top_k=2, num_shared=1, d_ff=192),
            ),
        ),
    )


def test_tiled_layers_repeat_the_pattern_and_cut_the_last_repetition_off(make_space):
    space = make_space("hybrid", layout="tiled", num_layers=5, period=2, **OWN)
    params = {"d_model": 96} | named("pattern.0", MAMBA) | named("pattern.1", ATTENTION)
    assert space(FixedTrial(params)).name == "ma-ma-m"


@pytest.mark.parametrize(
    ("num_layers", "name"), [(1, "a-"), (2, "mm"), (3, "ma-m"), (4, "ma-a-m"), (8, "mmma-a-mmm"), (9, "mmma-a-a-mmm")]
)
def test_staged_layers_are_early_middle_and_late(make_space, num_layers, name):
    space = make_space("hybrid", layout="staged", num_layers=num_layers, d_model=96, **OWN)
    params = named("stages.early", MAMBA) | named("stages.middle", ATTENTION) | named("stages.late", MAMBA)
    assert space(FixedTrial(params)).name == name


def test_all_reference_designs_lie_in_the_default_space(make_space, designs):
    space = make_space("hybrid")
    found = dict(space.references(designs.values()))
    assert {name: space(FixedTrial(params)).name for name, params in found.items()} == {
        "all-attention": "aaaa",
        "mamba2-attention-7-1": "mmmammmm",
        "gated-deltanet-attention-3-1": "ggga",
        "sliding-window-recurrence": "nsns",
        "head-mix": "(a2m1)(a2m1)(a2m1)(a2m1)",
    }
    assert len(designs) == len(found)


WIRED = {
    "kda-latent-attention-3-1": "kkkD",
    "native-sparse-attention": "NNNN",
    "window-shared-kv": "ssssaaaa",
    "mamba1-shared-attention": "n-n-n-an-n-n-a",
}


@pytest.mark.parametrize("name", WIRED)
def test_designs_of_further_kinds_and_wirings_lie_in_the_default_space(make_space, name):
    design = canonical(read_architecture(CONF / f"designs/{name}.yaml"))
    space = make_space("hybrid")
    found = canonical(space.at(space.encode(design)))
    assert found.name == "canonical" and pattern_name(found.blocks, space.kinds) == WIRED[name]
    for block, wanted in zip(found.blocks, design.blocks * (len(found.blocks) // len(design.blocks)), strict=True):
        assert block.weights_of == wanted.weights_of
        assert getattr(block.mixer, "kv_from", None) == getattr(wanted.mixer, "kv_from", None)


def test_a_kind_in_a_group_is_asked_for_after_the_group(make_space):
    space = make_space("hybrid", num_layers=1, d_model=96, num_meta_tokens=0)
    latent = {
        "mixer": "attention_variant",
        "attention_variant": "latent_attention",
        "latent_dim": 32,
        "position": "none",
    }
    params = named("layers.0", latent | {"ffn": "glu"})
    architecture = space(FixedTrial(params))
    assert architecture.blocks[0].mixer.kind == "latent_attention"
    assert space.encode(architecture) == params


def test_a_group_leaves_out_the_kinds_that_are_mixers_of_their_own(make_space):
    space = make_space("hybrid", mixers=["kda", "hgrn2", "recurrence"])
    assert "hgrn2" not in space.groups["recurrence"] and "rwkv7" in space.groups["recurrence"]
    with pytest.raises(
        ArchitectureError, match="The mixer recurrence stands for kinds of recurrences that are no mixers"
    ):
        make_space("hybrid", mixers=["kda", "recurrence"], recurrences="kda")


def test_keys_and_values_are_shared_only_where_an_earlier_layer_has_them(make_space):
    space = make_space("hybrid", mixers=["attention", "sliding_window", "mamba2"], num_layers=6, kv_from="earlier")
    shared = 0
    for seed in range(40):
        sources = set()
        for mixer in (block.mixer for block in space(RandomTrial(seed)).blocks):
            if isinstance(mixer, Attention):
                heads = (mixer.window, mixer.num_kv_heads, mixer.position)
                if mixer.kv_from == "earlier":
                    shared += 1
                    assert heads in sources
                else:
                    sources = {known for known in sources if known[0] != mixer.window} | {heads}
    assert shared > 10


def test_loops_repeat_the_first_layers_with_their_weights(make_space):
    space = make_space("hybrid", num_layers=[4, 6], loops=[1, 2, 3])
    seen = set()
    for seed in range(60):
        trial = RandomTrial(seed)
        architecture = space(trial)
        loops = next((n for name, n in trial.params.items() if name.startswith("loops")), 1)
        first = len(architecture.blocks) // loops
        tied = [block.weights_of for block in architecture.blocks]
        if loops > 1:
            assert tied == [None] * first + [first] * (first * (loops - 1))
        seen.add((len(tied), loops))
        assert space.at(space.encode(architecture)) == architecture
    assert seen == {(4, 1), (4, 2), (6, 1), (6, 2), (6, 3)}


def test_layers_that_attend_and_are_alike_may_share_their_weights(make_space):
    space = make_space("hybrid", num_layers=4, d_model=96, attention_weights="shared", kv_from="own", num_meta_tokens=0)
    blocks = (ATTENTION, MAMBA, ATTENTION, ATTENTION | {"num_kv_heads": "full"})
    params = {key: value for i, block in enumerate(blocks) for key, value in named(f"layers.{i}", block).items()}
    assert [block.weights_of for block in space(FixedTrial(params)).blocks] == [None, None, 2, None]


def test_meta_tokens_are_a_choice_of_their_number_where_a_design_has_some(make_space):
    space = make_space("hybrid", num_meta_tokens=[0, 4, 16])
    architecture = space(FixedTrial(_first_of(space)))
    assert space.encode(replace(architecture, num_meta_tokens=12))["num_meta_tokens"] == 16
    assert space.encode(architecture)["num_meta_tokens"] == 0
    assert make_space("hybrid", num_meta_tokens=0).encode(replace(architecture, num_meta_tokens=12)) is None


def test_a_foreign_design_takes_the_nearest_sizes_and_keeps_its_words(make_space, designs):
    params = make_space("hybrid").encode(designs["sliding-window-recurrence"])
    assert params is not None
    assert (params["d_model"], params["layers.0.mamba1_state_dim"]) == (96, 8)
    assert (params["layers.1.window"], params["layers.1.num_kv_heads"], params["layers.1.position"]) == (64, 1, "rope")


def test_states_are_compared_by_the_size_of_a_head(make_space):
    block = Block(mixer=Mamba2(num_heads=16, head_dim=64, state_dim=32), ffn=Glu(d_ff=1))
    params = make_space("hybrid").encode(Architecture(d_model=512, vocab_size=4096, blocks=(block,)))
    assert params is not None
    assert params["layers.0.state_dim"] == 16


def test_a_design_goes_to_the_smallest_depth_that_its_blocks_divide(make_space, designs):
    seven_to_one = designs["mamba2-attention-7-1"]
    assert make_space("hybrid", num_layers=[4, 12, 16]).encode(seven_to_one)["num_layers"] == 16
    assert make_space("hybrid", num_layers=[4, 12]).encode(seven_to_one) is None


def test_sublayers_written_as_blocks_of_their_own_are_the_same_design(make_space, designs):
    design = designs["all-attention"]
    halves = (Block(mixer=design.blocks[0].mixer, ffn=NoFfn()), Block(mixer=NoMixer(), ffn=design.blocks[0].ffn))
    space = make_space("hybrid")
    assert space.encode(replace(design, blocks=halves)) == space.encode(design)


@pytest.mark.parametrize(
    "mixer",
    [
        Mamba2(num_heads=8, head_dim=64, state_dim=64),
        Mamba2(num_heads=16, head_dim=64, state_dim=64, conv_size=0),
        Attention(num_heads=8, head_dim=64, rope_base=500000.0),
        HeadMix(parts=(Attention(num_heads=4), Mamba2(num_heads=4)), fuse="concat"),
        HeadMix(parts=(Attention(num_heads=4), Mamba2(num_heads=8))),
        HeadMix(parts=(Attention(num_heads=4), Attention(num_heads=4, position="none"))),
        HeadMix(parts=(Attention(num_heads=2), Mamba2(num_heads=2), Attention(num_heads=4, window=8))),
        NoMixer(),
    ],
    ids=repr,
)
def test_what_has_no_choice_in_the_space_cannot_be_placed(make_space, mixer):
    design = Architecture(d_model=512, vocab_size=4096, blocks=(Block(mixer=mixer, ffn=Glu(d_ff=64)),))
    assert make_space("hybrid").encode(design) is None


def test_layouts_refuse_designs_that_do_not_repeat_as_they_do(make_space, designs):
    seven_to_one = designs["mamba2-attention-7-1"]
    assert make_space("hybrid", layout="tiled").encode(seven_to_one) is None
    assert make_space("hybrid", layout="tiled", period=[2, 8]).encode(seven_to_one)["period_of_8"] == 8
    assert make_space("hybrid", layout="staged").encode(seven_to_one) is None


def test_a_tiled_point_is_encoded_with_its_shortest_period(make_space, designs):
    params = make_space("hybrid", layout="tiled").encode(designs["all-attention"])
    assert params["period"] == 1


def test_pairs_may_be_named_and_are_the_same_in_either_order(make_space, designs):
    space = make_space(
        "hybrid", d_model=128, mixers="head_mix", head_mix_pairs=["mamba2+attention", "attention+mamba2"]
    )
    params = space.encode(designs["head-mix"])
    assert params is not None
    assert params["layers.0.mamba2.heads_of_4"] == 2
    found = space(FixedTrial(params))
    assert found.name == "(m2a2)" * 4
    usual = make_space("hybrid", d_model=128)
    assert canonical_id(found) == canonical_id(usual(FixedTrial(usual.encode(designs["head-mix"]))))


def test_gpu_sizes_come_by_override(make_space, designs):
    sizes = {"head_dim": 64, "d_model": [512, 768], "num_layers": 24, "num_kv_heads": ["1/4", "full"], "params": 5e7}
    space = make_space("hybrid", **sizes)
    assert space.params == 50_000_000
    params = space.encode(designs["all-attention"])
    assert params["layers.23.num_kv_heads"] == "1/4"
    assert space(FixedTrial(params)).blocks[0].mixer == designs["all-attention"].blocks[0].mixer


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mixers": ["attention", "mamba3"]}, r"mixers does not know 'mamba3'\. Did you mean 'mamba[12]'\?"),
        ({"mixers": []}, "mixers needs at least one value, but got an empty list"),
        ({"mixers": ["attention", "head_mix"]}, r"head_mix needs two other mixers to mix, but mixers is \[attention"),
        ({"head_mix_pairs": "attention"}, r"pairs of two different mixers such as x\+y, but got 'attention'"),
        ({"head_mix_pairs": "mamba2+mamba2"}, r"pairs of two different mixers such as x\+y, but got 'mamba2\+mamba2'"),
        ({"head_mix_pairs": "mamba2+atention"}, r"does not know 'atention'\. Did you mean 'attention'\?"),
        ({"layout": "tile"}, r"layout does not know 'tile'\. Did you mean 'tiled'\?"),
        ({"fuse": "sum"}, r"fuse does not know 'sum'\. Valid: concat, norm_mean"),
        ({"period": 0}, "period must be at least 1, but got 0"),
        ({"d_model": 32}, "head_mix needs at least 2 heads, but d_model=32 has 1 with head_dim=32"),
    ],
    ids=str,
)
def test_bad_settings_name_what_holds(make_space, bad, message):
    with pytest.raises(ArchitectureError, match=message):
        make_space("hybrid", **bad)


def test_rules_of_attention_do_not_bind_a_space_without_it(make_space):
    space = make_space("hybrid", mixers="mamba2", head_dim=8, num_kv_heads=5, d_model=96)
    assert {"layers.0.state_dim"} < set(space.encode(space(FixedTrial(_first_of(space)))))


def _first_of(space):
    asked = {}

    class FirstTrial:
        def suggest_categorical(self, name, choices):
            asked[name] = choices[0]
            return choices[0]

    space(FirstTrial())
    return asked


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_can_be_chosen_deployed_and_found_again(make_space, kind):
    space = make_space(
        "hybrid", mixers=[kind], num_layers=4, d_model=96, ffns=["rwkv_channel_mix", "glu", "mixture_of_depths"]
    )
    for seed in range(3):
        architecture = space(RandomTrial(seed))
        assert {kind_of(block.mixer) for block in architecture.blocks} == {kind}
        found = space.encode(architecture)
        assert found is not None and space.at(found) == architecture
        large = resized(architecture, Scale(width=8, head_dim=2))
        assert {kind_of(block.mixer) for block in large.blocks} == {kind}
