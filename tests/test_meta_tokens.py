"""Learned vectors that are read before every text, as Hymba has them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nas.architecture import Architecture, ArchitectureError, Attention, Block, Glu, Mamba2, Moe, from_dict, to_dict
from nas.compile import compile_architecture
from nas.count import count_flops, count_parameters, count_state_bytes
from nas.model import filled_state
from nas.workload import Decode, Prefill, TrainStep, lengthened
from tests.test_parity import randomise

META, VOCAB = 3, 29
NEAR = Attention(num_heads=2, head_dim=16, window=4, num_global=META)
FULL = Attention(num_heads=2, num_kv_heads=1, head_dim=16)
MAMBA = Mamba2(num_heads=2, head_dim=16, state_dim=8)
PLAIN = Architecture(
    d_model=32, vocab_size=VOCAB, blocks=tuple(Block(mixer=m, ffn=Glu(d_ff=24)) for m in (NEAR, MAMBA, FULL))
)
WITH_META = replace(PLAIN, num_meta_tokens=META)


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    model = compile_architecture(WITH_META, seed=0).eval()
    randomise(model)
    return model


@torch.no_grad()
def test_meta_tokens_are_a_prefix_of_words_that_no_text_has(model, tokens):
    longer = compile_architecture(replace(PLAIN, vocab_size=VOCAB + META)).eval()
    weights = {name: w for name, w in model.state_dict().items() if name != "meta_tokens"}
    weights["embedding.weight"] = torch.cat((weights["embedding.weight"], model.meta_tokens))
    longer.load_state_dict(weights)
    prefix = torch.arange(VOCAB, VOCAB + META).expand(2, -1)
    expected = longer(torch.cat((prefix, tokens), dim=1))[:, META:, :VOCAB]
    torch.testing.assert_close(model(tokens), expected)
    x, head = model.before_head(tokens)
    torch.testing.assert_close(x @ head.T, expected)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [0, 1, 6])
def test_decoding_reads_them_once_before_the_first_token(model, tokens, prompt):
    whole = model(tokens)
    state = model.init_state(2, 17)
    if prompt:
        logits, state = model.prefill(tokens[:, :prompt], state)
        torch.testing.assert_close(logits, whole[:, prompt - 1], atol=1e-4, rtol=1e-4)
    for position in range(prompt, 17):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, whole[:, position], atol=1e-4, rtol=1e-4)
    assert (state.position, int(state.clock)) == (17, 17 + META)
    assert int(filled_state(model, 2, 5, 1).clock) == 5 + META


def test_they_are_counted_as_parameters_as_cached_tokens_and_as_work(model, tokens):
    assert (
        count_parameters(WITH_META) == sum(p.numel() for p in model.parameters()) == count_parameters(PLAIN) + META * 32
    )
    state = model.init_state(1, 17)
    allocated = sum(tensor.nbytes for layer in state.layers for tensor in layer.values())
    assert count_state_bytes(WITH_META, 17, dtype=torch.float32) == allocated
    head = 2 * 32 * VOCAB
    assert count_flops(WITH_META, 5) - 5 * head == count_flops(PLAIN, 8) - 8 * head
    assert count_flops(WITH_META, 1, 9) == count_flops(PLAIN, 1, 12)
    assert count_flops(WITH_META, 5) + count_flops(WITH_META, 2, 5) == count_flops(WITH_META, 7)


def test_every_parameter_gets_a_gradient(model, tokens):
    model(tokens).square().mean().backward()
    assert isinstance(model.meta_tokens, nn.Parameter) and model.meta_tokens.grad is not None
    assert model.meta_tokens.grad.abs().sum(1).min() > 0


def test_what_is_measured_and_bounded_reads_them_too():
    assert lengthened(Prefill(batch=2, prompt=8), 3) == Prefill(batch=2, prompt=11)
    assert lengthened(Decode(batch=1, context=8), 3) == Decode(batch=1, context=11)
    assert lengthened(TrainStep(batch=2, tokens=8), 0) == TrainStep(batch=2, tokens=8)


def test_a_file_keeps_them_and_hash_routing_refuses_them():
    assert from_dict(to_dict(WITH_META)) == WITH_META
    hashed = (Block(mixer=FULL, ffn=Moe(num_experts=4, top_k=1, d_ff=8, choice="hash")),)
    with pytest.raises(ArchitectureError, match="Meta tokens have no ids, which hash routing needs"):
        replace(WITH_META, blocks=hashed)
