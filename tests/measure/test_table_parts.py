"""What a network is made of for a table: parts as they stand, and with their wiring where it is unusual."""

import itertools
from dataclasses import fields, replace
from pathlib import Path

import pytest
from torch import nn

from nas.architecture import Architecture, Attention, Block, Glu, HeadMix
from nas.compile import compile_architecture
from nas.layers.norm import LayerNorm, RMSNorm
from nas.measure.block_table import BlockTable
from nas.measure.stacks import bare_ends, bare_stack
from nas.measure.table_parts import (
    Ends,
    Joint,
    at_width,
    describe_part,
    ends_of,
    grid_neighbours,
    joined,
    measured_for,
    parts_of,
    stack,
    width_of,
)
from tests.measure.examples import ATTENTION, DECODE, ENDS, GLU, MAMBA2, SPARSE, VOCAB, D, entry, network

BLOCK = Block(mixer=ATTENTION, ffn=GLU)
UNUSUAL_BLOCKS = {
    "mixer_norm": replace(BLOCK, mixer_norm="sandwich"),
    "ffn_norm": replace(BLOCK, ffn_norm="post"),
    "mixer_skip": replace(BLOCK, mixer_skip=0.5),
    "ffn_skip": replace(BLOCK, ffn_skip=0.5),
    "mixer_scale": replace(BLOCK, mixer_scale=0.5),
    "ffn_scale": replace(BLOCK, ffn_scale=0.5),
    "parallel": replace(BLOCK, parallel=True),
    "mixer": replace(BLOCK, mixer=MAMBA2),
    "ffn": replace(BLOCK, ffn=Glu(d_ff=72)),
    "mixer_adapter_rank": replace(BLOCK, mixer_adapter_rank=3),
    "ffn_adapter_rank": replace(BLOCK, ffn_adapter_rank=5),
    "aside": replace(BLOCK, aside=True),
}
UNUSUAL_NETWORKS = {
    "vocab_size": {"vocab_size": 2 * VOCAB},
    "tie_embeddings": {"tie_embeddings": False},
    "norm": {"norm": "layernorm"},
    "norm_bias": {"norm": "layernorm", "norm_bias": True},
    "embedding_scale": {"embedding_scale": "sqrt_d_model"},
    "embedding_norm": {"embedding_norm": True},
    "logits_scale": {"logits_scale": 0.5},
    "logits_soft_cap": {"logits_soft_cap": 30.0},
    "blocks": {"blocks": (BLOCK, BLOCK)},
}
# The width is told beside the parts; meta tokens are told with the phase, which they lengthen.
COSTS_NOTHING = {"name", "d_model", "loss", "norm_eps", "num_meta_tokens"}


def norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, RMSNorm | LayerNorm)]


def test_absent_parts_are_no_blocks() -> None:
    assert parts_of(network(Block(mixer=MAMBA2), Block(ffn=GLU))) == {ENDS: 1, MAMBA2: 1, GLU: 1}
    assert parts_of(network(*[Block(mixer=MAMBA2, ffn=GLU)] * 2, Block(mixer=MAMBA2)))[MAMBA2] == 3
    untied = Architecture(d_model=D, vocab_size=VOCAB, tie_embeddings=False, blocks=(Block(ffn=GLU),))
    assert next(iter(parts_of(untied))) == Ends(vocab_size=VOCAB, tied=False)


# Weights of another block are read as its own would be.
@pytest.mark.parametrize("name", [f.name for f in fields(Block) if f.name != "weights_of"])
def test_every_choice_about_a_block_is_another_part(name: str) -> None:
    assert parts_of(network(UNUSUAL_BLOCKS[name])) != parts_of(network(BLOCK))


@pytest.mark.parametrize("name", [f.name for f in fields(Architecture) if f.name not in COSTS_NOTHING])
def test_every_choice_about_a_network_is_another_part(name: str) -> None:
    usual = network(BLOCK)
    assert parts_of(replace(usual, **UNUSUAL_NETWORKS[name])) != parts_of(usual)


@pytest.mark.parametrize("block", UNUSUAL_BLOCKS.values(), ids=UNUSUAL_BLOCKS)
@pytest.mark.parametrize(
    "changes", [{}, {"norm": "layernorm", "norm_bias": True, "embedding_norm": True}], ids=["rms", "layer"]
)
def test_the_parts_of_a_network_have_its_norms_and_its_parameters(block: Block, changes: dict) -> None:
    """Each measured in a stack of its own, they come to the network: nothing is counted twice or left out."""
    architecture = replace(network(block), **changes)
    ends, *layers = parts_of(architecture)
    assert isinstance(ends, Ends)
    alone = [bare_ends(ends, D), *(bare_stack(layer, D).blocks[0] for layer in layers if not isinstance(layer, Ends))]
    whole = compile_architecture(architecture)
    assert sum(p.numel() for m in alone for p in m.parameters()) == sum(p.numel() for p in whole.parameters())
    assert sorted(type(n).__name__ for m in alone for n in norms(m)) == sorted(type(n).__name__ for n in norms(whole))


def test_a_layer_that_shares_keys_and_values_is_measured_behind_one_that_has_them() -> None:
    sharing = replace(ATTENTION, kv_from="earlier")
    model = bare_stack(sharing, D)
    assert len(model.blocks) == 2
    assert not any(name.startswith("k") for name in model.init_state(1, 4).layers[1])
    few, many = (stack(sharing, D, VOCAB, repeats) for repeats in (1, 5))
    assert many.blocks == (*few.blocks, *few.blocks[1:] * 4)
    assert stack(ATTENTION, D, VOCAB, 2).blocks == (Block(mixer=ATTENTION),) * 2


def test_ends_are_built_with_all_that_costs_time() -> None:
    model = bare_ends(Ends(vocab_size=8, tied=False, embedding_scaled=True, logits_scaled=True, logits_capped=True), D)
    assert model.head is not None and len(model.blocks) == 0
    assert 1.0 not in (model.embedding_scale, model.logits_scale) and model.logits_soft_cap is not None
    plain = bare_ends(ENDS, D)
    assert (plain.embedding_scale, plain.logits_scale, plain.logits_soft_cap, plain.head) == (1.0, 1.0, None, None)
    assert ends_of(network(BLOCK)) == ENDS


def test_the_grid_of_widths_grows_by_a_half_and_a_third_in_turn() -> None:
    expected = [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    grid, width = [], 1
    while width <= 1024:
        _, high = grid_neighbours(Glu(d_ff=width))
        grid.append(width_of(high))
        width = width_of(high) + 1
    assert grid == expected
    for low, high in itertools.pairwise(expected):
        middle = (low + high) // 2
        assert [width_of(f) for f in grid_neighbours(Glu(d_ff=middle))] == [low, high]
        assert [width_of(f) for f in grid_neighbours(Glu(d_ff=high))] == [high, high]


def test_an_ffn_is_measured_at_the_grid_as_it_is_joined_and_all_else_as_it_stands() -> None:
    post = Joint(placement="post")
    low, high = (joined(Glu(d_ff=width), post) for width in (64, 96))
    assert measured_for(joined(Glu(d_ff=72), post)) == (low, high)
    assert measured_for(joined(ATTENTION, post)) == (joined(ATTENTION, post),)
    assert measured_for(ENDS) == (ENDS,)
    table = BlockTable("toy device", Path("unused.json"))
    for one, own in ((low, 1.0), (high, 3.0), (Glu(d_ff=64), 7.0), (Glu(d_ff=96), 7.0)):
        table.add(entry(one, own))
    found = table.find(joined(Glu(d_ff=80), post), D, DECODE, "float32")
    assert found is not None and found.own.value == 2.0 and found.part == at_width(low, 80)


def test_a_block_reads_as_its_kind_and_what_is_special_about_it() -> None:
    assert describe_part(Attention(num_heads=7, num_kv_heads=1)) == "attention num_heads=7 num_kv_heads=1"
    assert describe_part(ENDS) == "embedding and head, vocabulary 32"
    assert describe_part(HeadMix(parts=(ATTENTION, SPARSE), fuse="concat")).startswith("head_mix concat: attention ")
    sandwich = joined(GLU, Joint(placement="sandwich", norm="layernorm", part_scaled=True))
    assert describe_part(sandwich) == "glu d_ff=64, sandwich layernorm part_scaled"
    assert describe_part(Ends(vocab_size=32, tied=True, logits_capped=True)).endswith("vocabulary 32, logits_capped")
