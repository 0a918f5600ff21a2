"""The space of attentions: every family is a choice, and published designs lie in it."""

import pytest
from optuna.trial import FixedTrial

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    DifferentialAttention,
    ForgettingAttention,
    Glu,
    HashAttention,
    IndexedLatentAttention,
    LatentAttention,
    NativeSparseAttention,
    PatternAttention,
    canonical,
)

HALF = {"num_heads": 3, "head_dim": 32}
FAMILIES = {
    "gated": Attention(**HALF, output_gate="sigmoid"),
    "window and first tokens": Attention(**HALF, num_kv_heads=1, window=64, num_global=4),
    "longformer": PatternAttention(**HALF, block_size=32),
    "chunks": PatternAttention(**HALF, pattern="chunked", block_size=16, position="none"),
    "nsa": NativeSparseAttention(**HALF, num_kv_heads=1, compressed_stride=8, top_k=4, window=32),
    "mla": LatentAttention(**HALF, latent_dim=64, rope_dim=16),
    "dsa": IndexedLatentAttention(**HALF, latent_dim=32, rope_dim=16, top_k=16),
    "hashes": HashAttention(**HALF, num_hashes=2, top_k=32),
    "forgetting": ForgettingAttention(**HALF),
    "alibi": ForgettingAttention(**HALF, fading="alibi"),
    "differential": DifferentialAttention(**HALF),
}


def network(*mixers, d_model=96):
    blocks = tuple(Block(mixer=mixer, ffn=Glu(d_ff=96)) for mixer in mixers)
    return Architecture(d_model=d_model, vocab_size=256, blocks=blocks)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_attention_is_a_point_of_the_space(make_space, name):
    space = make_space("attention")
    mixer = FAMILIES[name]
    params = space.encode(network(*[Attention(**HALF), mixer] * 2))
    assert params is not None
    found = canonical(space(FixedTrial(params)))
    assert [block.mixer for block in found.blocks] == [m.canonical(96) for m in (Attention(**HALF), mixer)] * 2


def test_sizes_go_to_the_nearest_choice_and_other_options_must_be_those_of_the_space(make_space):
    space = make_space("attention")
    wide = LatentAttention(num_heads=6, head_dim=16, latent_dim=64, rope_dim=8)
    params = space.encode(network(*[wide] * 4))
    assert params is not None and params["pattern.0.latent_dim"] == 64
    for other in (
        LatentAttention(**HALF, latent_dim=64, rope_dim=16, query_rank=24),
        LatentAttention(**HALF, latent_dim=64, rope_dim=16, out_bias=True),
        PatternAttention(**HALF, random_blocks=2),
        NativeSparseAttention(**HALF, compression="mean"),
        Attention(**HALF, temperature_floor=64),
    ):
        assert space.encode(network(*[other] * 4)) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"mixers": ["attention", "latent_atention"]},
            r"mixers does not know 'latent_atention'\. Did you mean 'latent_attention'\?",
        ),
        ({"latent_dim": 30}, "latent_dim must be a multiple of 4, but got 30"),
        ({"latent_dim": 1024}, "latent_dim must be at most 512, but got 1024"),
        ({"selected_blocks": 2}, "selected_blocks must be at least 3, but got 2"),
        ({"head_dim": 16}, "head_dim must be at least 32, but got 16"),
        ({"pattern": "random"}, "pattern does not know 'random'"),
    ],
)
def test_choices_that_no_mixer_takes_are_refused(make_space, fields, message):
    with pytest.raises(ArchitectureError, match=message):
        make_space("attention", **fields)
