"""Keys and values of an earlier layer: who reads whose, what that saves, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    HeadMix,
    Mamba2,
    Scale,
    from_dict,
    resized,
    to_dict,
)
from nas.compile import compile_architecture
from nas.context import Context
from nas.count import count_parameters, count_state_bytes
from tests.test_attention_parity import dense
from tests.test_parity import TOKENS, assert_same, randomise

OWN = Attention(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm="head")
EARLIER = replace(OWN, kv_from="earlier")
NEAR = Attention(num_heads=4, num_kv_heads=2, head_dim=16, window=5, num_global=2)
NEAR_EARLIER = replace(NEAR, kv_from="earlier")
MIXED = HeadMix(parts=(replace(NEAR_EARLIER, num_heads=2), Mamba2(num_heads=1, head_dim=16)))


def network(*mixers) -> Architecture:
    return Architecture(d_model=32, vocab_size=29, blocks=tuple(Block(mixer=m, ffn=Glu(d_ff=24)) for m in mixers))


SHARED = network(OWN, NEAR, EARLIER, NEAR_EARLIER, EARLIER, MIXED)


def model_of(architecture):
    model = compile_architecture(architecture, seed=0).eval()
    randomise(model)
    return model


@torch.no_grad()
def test_decoding_and_reading_in_chunks_give_the_logits_of_one_pass():
    model = model_of(SHARED)
    tokens = torch.randint(29, (2, 23), generator=torch.Generator().manual_seed(0))
    whole = model(tokens)
    _, state = model.prefill(tokens[:, :4], model.init_state(2, 23))
    logits, state = model.prefill(tokens[:, 4:13], state)
    torch.testing.assert_close(logits, whole[:, 12], atol=1e-4, rtol=1e-4)
    for position in range(13, 23):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, whole[:, position], atol=1e-4, rtol=1e-4)
    changed = tokens.clone()
    changed[:, 15] = (changed[:, 15] + 1) % 29
    torch.testing.assert_close(model(changed)[:, :15], whole[:, :15], atol=1e-5, rtol=1e-5)


def test_a_layer_attends_to_the_keys_and_values_of_the_nearest_earlier_layer_with_its_window():
    model = model_of(network(OWN, NEAR, EARLIER))
    inputs: dict[int, Tensor] = {}
    for i, block in enumerate(model.blocks):
        block.mixer.register_forward_pre_hook(lambda module, given, i=i: inputs.update({i: given[0]}))
    outputs = {}
    model.blocks[2].mixer.register_forward_hook(lambda module, given, y: outputs.update(y=y[0]))
    model(torch.randint(29, (2, TOKENS), generator=torch.Generator().manual_seed(0)))
    source, reader = model.blocks[0].mixer, model.blocks[2].mixer
    _, k, v = source.qkv(inputs[0], Context())
    q = reader.qkv.queries(inputs[2], Context())
    expected = dense(q, k, v, torch.ones(TOKENS, TOKENS, dtype=torch.bool)).flatten(2)
    assert_same(outputs["y"], reader.out_proj(expected))


def test_what_is_shared_is_neither_stored_nor_a_parameter():
    model = model_of(SHARED)
    assert count_parameters(SHARED) == sum(p.numel() for p in model.parameters())
    alone = network(OWN, NEAR, HeadMix(parts=MIXED.parts[1:] * 2))
    token = 2 * 4 * 16
    full, window = 2 * 20 * token, 2 * 7 * token
    recurrent = count_state_bytes(alone, 20, dtype=torch.float32) - full - window
    assert count_state_bytes(SHARED, 20, dtype=torch.float32) == full + window + recurrent // 2
    assert model.blocks[2].mixer.state_traffic(1, 19, torch.float32) == full


def test_every_parameter_gets_a_gradient_and_sources_one_from_each_reader():
    model = model_of(SHARED)
    model(torch.randint(29, (2, 23), generator=torch.Generator().manual_seed(0))).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_sharing_survives_a_file_and_another_size():
    assert from_dict(to_dict(SHARED)) == SHARED
    for by in ("stack", "stretch"):
        larger = resized(SHARED, Scale(width=2, depth=2, depth_by=by))
        assert len(larger.blocks) == 12
        compile_architecture(larger)


@pytest.mark.parametrize(
    ("mixers", "message"),
    [
        ((EARLIER, OWN), r"blocks\[0\]: KV shared from a layer that has none: no earlier attention without a window"),
        ((OWN, NEAR_EARLIER), r"blocks\[1\]: KV shared from a layer that has none: no earlier attention with window=5"),
        ((OWN, replace(EARLIER, num_kv_heads=4)), r"num_kv_heads=2 of head_dim=16, but got num_kv_heads=4"),
        ((OWN, HeadMix(parts=(OWN, EARLIER))), r"blocks\[1\]: an attention that shares KV stands beside one"),
    ],
)
def test_sharing_from_a_layer_that_cannot_be_is_refused(mixers, message):
    with pytest.raises(ArchitectureError, match=message):
        network(*mixers)


def test_a_reader_without_a_pass_before_it_says_so():
    mixer = model_of(network(OWN, EARLIER)).blocks[1].mixer
    with pytest.raises(ValueError, match="KV is shared from an earlier layer, but none with the same window came"):
        mixer(torch.randn(1, 3, 32))
