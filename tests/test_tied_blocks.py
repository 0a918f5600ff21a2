"""Blocks that have the weights of an earlier one: loops over depth, and shared blocks that return."""

from dataclasses import replace

import pytest
import torch

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    Mamba2,
    Moe,
    Scale,
    canonical_id,
    from_dict,
    resized,
    to_dict,
)
from nas.checkpoint import load_weights, save_weights
from nas.compile import compile_architecture
from nas.count import count, count_parameters, match_parameters
from tests.test_parity import randomise

A = Block(mixer=Attention(num_heads=2, head_dim=16, window=6), ffn=Glu(d_ff=40))
M = Block(mixer=Mamba2(num_heads=2, head_dim=16, state_dim=8), ffn=Moe(num_experts=4, top_k=1, d_ff=24))


def tied(block: Block, weights_of: int) -> Block:
    return replace(block, weights_of=weights_of)


def network(*blocks: Block) -> Architecture:
    return Architecture(d_model=32, vocab_size=29, blocks=blocks)


LOOP = network(M, A, tied(M, 2), tied(A, 2), tied(M, 2), tied(A, 2), M)
PLAIN = network(M, A, M, A, M, A, M)


@pytest.fixture
def tokens():
    return torch.randint(29, (2, 17), generator=torch.Generator().manual_seed(0))


def model_of(architecture):
    model = compile_architecture(architecture, seed=0).eval()
    randomise(model)
    return model


def written_out(model):
    """The network without shared weights that holds a copy for each layer."""
    plain = compile_architecture(PLAIN).eval()
    weights = {name: w for name, w in model.state_dict().items() if not name.startswith("blocks.")}
    for layer, block in enumerate(model.layers):
        weights |= {f"blocks.{layer}.{name}": w for name, w in block.state_dict().items()}
    plain.load_state_dict(weights)
    return plain


@torch.no_grad()
def test_a_loop_computes_what_copies_of_its_blocks_do_and_decodes_with_a_state_for_each_layer(tokens):
    model = model_of(LOOP)
    whole = model(tokens)
    torch.testing.assert_close(whole, written_out(model)(tokens))
    _, state = model.prefill(tokens[:, :9], model.init_state(2, 17))
    assert len(state.layers) == 7
    for position in range(9, 17):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, whole[:, position], atol=1e-4, rtol=1e-4)


def test_weights_are_there_once_and_are_counted_once(tokens, tmp_path):
    model = model_of(LOOP)
    assert len(model.blocks) == 3
    assert sum(p.numel() for p in model.parameters()) == count_parameters(LOOP) == count_parameters(network(M, A, M))
    one, plain = count(LOOP, 64), count(PLAIN, 64)
    assert one.active_parameters == count(network(M, A, M), 64).active_parameters
    assert (one.sequence_bytes, one.flops_decode) == (plain.sequence_bytes, plain.flops_decode)
    save_weights(tmp_path / "weights.safetensors", model.state_dict())
    other = compile_architecture(LOOP).eval()
    load_weights(tmp_path / "weights.safetensors", other)
    torch.testing.assert_close(other(tokens), model(tokens))


def test_gradients_of_shared_weights_are_the_sum_of_those_of_the_copies(tokens):
    model = model_of(LOOP)
    plain = written_out(model)
    for network_ in (model, plain):
        network_(tokens).square().mean().backward()
    for name, parameter in model.blocks[1].named_parameters():
        copies = [dict(plain.blocks[layer].named_parameters())[name].grad for layer in (1, 3, 5)]
        torch.testing.assert_close(parameter.grad, sum(copies), atol=1e-5, rtol=1e-3)


def test_matching_parameters_widens_a_block_and_those_that_share_with_it_alike():
    matched = match_parameters(LOOP, 60_000)
    assert abs(count_parameters(matched) - 60_000) <= 0.03 * 60_000
    widths = [block.ffn.d_ff for block in matched.blocks]
    assert widths[0] == widths[2] == widths[4]
    assert widths[1] == widths[3] == widths[5] != 40


@pytest.mark.parametrize(
    ("by", "weights"),
    [("stack", [0, 1, 0, 1, 0, 1, 6, 7, 8, 7, 8, 7, 8, 13]), ("stretch", [0, 1, 2, 3, 1, 1, 3, 3, 1, 1, 3, 3, 12, 13])],
)
def test_loops_stay_loops_at_another_depth(by, weights):
    larger = resized(LOOP, Scale(depth=2, depth_by=by))
    kinds = [block.mixer.kind for block in larger.blocks]
    assert all(kinds[i] == kinds[at] for i, at in enumerate(larger.weights_at))
    assert list(larger.weights_at) == weights
    compile_architecture(larger)


def test_a_loop_survives_a_file_and_is_another_architecture_than_its_copies():
    assert from_dict(to_dict(LOOP)) == LOOP
    assert canonical_id(LOOP) != canonical_id(PLAIN)
    assert canonical_id(LOOP) == canonical_id(network(M, A, tied(M, 2), tied(A, 2), tied(M, 4), tied(A, 4), M))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((tied(A, 1), A), r"blocks\[0\]: weights_of must name a block before it, of which there are 0, but got 1"),
        ((A, tied(M, 1)), r"blocks\[1\]: a block with the weights of another must be the same .* but blocks\[0\] is"),
    ],
)
def test_weights_of_no_such_block_are_refused(blocks, message):
    with pytest.raises(ArchitectureError, match=message):
        network(*blocks)


def test_weights_of_the_block_itself_are_refused():
    with pytest.raises(ArchitectureError, match="weights_of must be at least 1, but got 0"):
        tied(A, 0)
