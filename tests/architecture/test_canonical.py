from dataclasses import dataclass, replace

import pytest

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    GatedDeltaNet,
    Glu,
    HeadMix,
    LinearScaling,
    Mamba1,
    Mamba2,
    Moe,
    NoFfn,
    NoMixer,
    YarnScaling,
    canonical,
    canonical_id,
)
from nas.architecture.options import option

ATTENTION = Attention(num_heads=2, head_dim=16)
FFN = Glu(d_ff=64)
STRETCHED = YarnScaling(factor=2, original_length=32)


def network(*blocks: Block, **changes) -> Architecture:
    return Architecture(**{"d_model": 32, "vocab_size": 9, "blocks": blocks, **changes})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (network(Block(mixer=ATTENTION, ffn=FFN)), network(Block(mixer=ATTENTION), Block(ffn=FFN))),
        (network(Block(mixer=ATTENTION), name="a"), network(Block(mixer=ATTENTION), name="b")),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, num_kv_heads=2)))),
        (
            network(Block(mixer=replace(ATTENTION, position="none"))),
            network(Block(mixer=replace(ATTENTION, position="none", rope_base=500.0))),
        ),
        (
            network(Block(mixer=replace(ATTENTION, position="none"))),
            network(Block(mixer=replace(ATTENTION, position="none", rope_fraction=0.5, rope_scaling=STRETCHED))),
        ),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, norm_eps=1e-5)))),
        (
            network(Block(mixer=HeadMix(parts=(ATTENTION, Mamba2(num_heads=1))))),
            network(Block(mixer=HeadMix(parts=(Mamba2(num_heads=1), ATTENTION)))),
        ),
        (
            network(Block(mixer=HeadMix(parts=(ATTENTION, replace(ATTENTION, num_heads=1)), fuse="concat"))),
            network(Block(mixer=replace(ATTENTION, num_heads=3))),
        ),
        (network(Block(ffn=Moe(num_experts=1, top_k=1, d_ff=32, num_shared=1))), network(Block(ffn=FFN))),
        (
            network(Block(mixer=Mamba1(num_heads=2))),
            network(Block(mixer=Mamba1(num_heads=2, dt_rank=2))),
        ),
        (
            network(Block(mixer=GatedDeltaNet(num_heads=2, head_dim=16))),
            network(Block(mixer=GatedDeltaNet(num_heads=2, head_dim=16, key_dim=16))),
        ),
    ],
)
def test_architectures_that_compute_the_same_have_the_same_id(first, second):
    assert canonical_id(first) == canonical_id(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (network(Block(mixer=ATTENTION, ffn=FFN)), network(Block(ffn=FFN), Block(mixer=ATTENTION))),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, num_kv_heads=1)))),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, rope_base=500.0)))),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, window=8)))),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, rope_scaling=STRETCHED)))),
        (
            network(Block(mixer=replace(ATTENTION, rope_scaling=LinearScaling(factor=2)))),
            network(Block(mixer=replace(ATTENTION, rope_scaling=STRETCHED))),
        ),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=replace(ATTENTION, qk_norm="head")))),
        (network(Block(mixer=ATTENTION)), network(Block(mixer=ATTENTION), tie_embeddings=False)),
        (
            network(Block(mixer=HeadMix(parts=(ATTENTION, ATTENTION), fuse="norm_mean"))),
            network(Block(mixer=replace(ATTENTION, num_heads=4))),
        ),
    ],
)
def test_architectures_that_differ_have_different_ids(first, second):
    assert canonical_id(first) != canonical_id(second)


def test_canonical_form_is_idempotent():
    once = canonical(network(Block(mixer=ATTENTION), Block(ffn=FFN), Block(mixer=NoMixer(), ffn=FFN)))
    assert canonical(once) == once
    assert [type(b.ffn) is NoFfn for b in once.blocks] == [False, False]


def test_an_option_that_a_kind_gains_changes_no_id():
    @dataclass(frozen=True, kw_only=True)
    class Grown(Attention):
        temperature: float = option(1.0)

    plain = network(Block(mixer=ATTENTION))
    grown = network(Block(mixer=Grown(num_heads=2, head_dim=16)))
    assert canonical_id(grown) == canonical_id(plain)
    assert canonical_id(network(Block(mixer=Grown(num_heads=2, head_dim=16, temperature=2.0)))) != canonical_id(plain)
