"""Blocks beside the stream whose weights return, with adapters of each use: the wiring of Zamba2."""

from dataclasses import replace

import pytest
import torch

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    HeadMix,
    Mamba2,
    Mlp,
    Moe,
    Scale,
    canonical_id,
    from_dict,
    resized,
    to_dict,
)
from nas.compile import compile_architecture
from nas.context import Context
from nas.count import count_flops, count_parameters, match_parameters
from nas.devices import DeviceSpec
from nas.measure.roofline import roofline
from nas.workload import Decode
from tests.test_parity import randomise

D, VOCAB, TOKENS = 32, 29, 17
M = Block(mixer=Mamba2(num_heads=2, head_dim=16, state_dim=8))
WIDE = Attention(num_heads=4, num_kv_heads=2, head_dim=16, reads="with_embedding", output_gate="sigmoid")
S = Block(
    mixer=WIDE, ffn=Glu(d_ff=40), mixer_skip=0.0, ffn_skip=0.0, mixer_adapter_rank=3, ffn_adapter_rank=5, aside=True
)
U = Block(ffn=Mlp(d_ff=24), ffn_adapter_rank=2)


def network(*blocks: Block, **options) -> Architecture:
    return Architecture(d_model=D, vocab_size=VOCAB, blocks=blocks, **options)


SHARED = network(M, S, M, U, replace(S, weights_of=3), replace(U, weights_of=2), S)


def model_of(architecture):
    model = compile_architecture(architecture, seed=0).eval()
    randomise(model)
    return model


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def low_rank(part, x):
    return x @ part.down_proj.weight.T @ part.up_proj.weight.T


@torch.no_grad()
def test_what_a_block_puts_aside_is_read_by_the_next_one_and_does_not_join_the_stream(tokens):
    """M, S, M written out; the adapters of S by hand, its attention as it stands with them in its projections."""
    model = model_of(network(M, S, M))
    first, shared, last = model.blocks
    (own,) = shared.own
    x0 = model.embedding(tokens)
    x1 = x0 + first.mixer(first.mixer_norm(x0))[0]

    wide = shared.mixer_norm(torch.cat((x1, x0), dim=-1))
    added = torch.cat([part.up_proj.weight @ part.down_proj.weight for part in own.mixer.parts])
    weight = shared.mixer.qkv.linear.weight
    weight += added
    attended = shared.mixer(wide)[0]
    weight -= added
    normed = shared.ffn_norm(attended)
    gate, up = (normed @ shared.ffn.in_proj.weight.T + low_rank(own.ffn.parts[0], normed)).chunk(2, dim=-1)
    aside = own.out_proj(shared.ffn.out_proj(torch.nn.functional.silu(gate) * up))

    x2 = x1 + last.mixer(last.mixer_norm(x1 + aside))[0]
    torch.testing.assert_close(model(tokens), model.norm(x2) @ model.embedding.weight.T, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_the_last_block_puts_aside_is_read_by_the_head_alone(tokens):
    model = model_of(network(M, S))
    context = Context()
    y = model(tokens, context)
    assert context.aside is None
    plain = compile_architecture(network(M)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.1.")})
    assert not torch.allclose(y, plain(tokens), atol=1e-2)
    model.blocks[1].own[0].out_proj.weight.zero_()
    torch.testing.assert_close(model(tokens), plain(tokens))


@torch.no_grad()
@pytest.mark.parametrize("meta", [0, 3])
def test_decoding_gives_the_logits_of_one_pass(tokens, meta):
    model = model_of(replace(SHARED, num_meta_tokens=meta))
    whole = model(tokens)
    _, state = model.prefill(tokens[:, :5], model.init_state(2, TOKENS))
    logits, state = model.prefill(tokens[:, 5:9], state)
    torch.testing.assert_close(logits, whole[:, 8], atol=1e-4, rtol=1e-4)
    for position in range(9, TOKENS):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, whole[:, position], atol=1e-4, rtol=1e-4)


def test_each_use_has_its_own_adapters_which_learn_apart(tokens):
    model = model_of(SHARED)
    assert model.uses == [0, 0, 0, 0, 1, 1, 0]
    assert [len(block.own) for block in model.blocks] == [0, 2, 0, 2, 1]
    model(tokens).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    first, second = (own.ffn.parts[0].down_proj.weight.grad for own in model.blocks[1].own)
    assert not torch.allclose(first, second)
    families = {name: family for family, named in model.parameter_families().items() for name, _ in named}
    assert families["blocks.1.own.1.out_proj.weight"] == "attention"


def test_what_each_use_has_is_counted_for_each_and_the_rest_once():
    for architecture in (SHARED, replace(SHARED, norm="layernorm", norm_bias=True)):
        assert count_parameters(architecture) == sum(p.numel() for p in compile_architecture(architecture).parameters())
    plain = replace(SHARED, blocks=tuple(replace(b, mixer_adapter_rank=0, ffn_adapter_rank=0) for b in SHARED.blocks))
    mixer = 3 * 3 * 2 * D + 3 * (4 + 2 + 2) * 16
    adapters = 3 * (mixer + 5 * (D + 80)) + 2 * 2 * (D + 24)
    assert count_parameters(SHARED) - count_parameters(plain) == adapters
    assert count_flops(SHARED, 7, 5) - count_flops(plain, 7, 5) == 2 * 7 * adapters
    spec = DeviceSpec(name="toy", tflops={"float32": 1.0}, bandwidth=100.0, memory=1.0)
    phase = Decode(batch=1, context=8)
    assert roofline(SHARED, phase, spec, "float32").value > roofline(plain, phase, spec, "float32").value


def test_parameters_are_matched_with_adapters_that_grow_with_the_width():
    target = 2 * count_parameters(SHARED)
    matched = match_parameters(SHARED, target)
    assert abs(count_parameters(matched) - target) <= 0.03 * target
    assert matched.blocks[1].ffn == matched.blocks[4].ffn != S.ffn
    compile_architecture(matched)


def test_a_shared_block_survives_a_file_resizing_and_the_canonical_form():
    assert from_dict(to_dict(SHARED)) == SHARED
    larger = resized(SHARED, Scale(depth=2, width=2))
    assert larger.blocks[1].aside and larger.blocks[1].ffn_adapter_rank == 5
    compile_architecture(larger)
    ffn, mixer = Block(ffn=Glu(d_ff=40)), Block(mixer=WIDE)
    one = network(replace(mixer, ffn=ffn.ffn))
    assert canonical_id(network(mixer, ffn)) == canonical_id(one)
    for blocks in ((replace(mixer, aside=True), ffn), (mixer, replace(ffn, aside=True))):
        assert canonical_id(network(*blocks)) not in (
            canonical_id(one),
            canonical_id(network(replace(one.blocks[0], aside=True))),
        )
    adapted = replace(ffn, ffn_adapter_rank=2)
    assert canonical_id(network(mixer, adapted)) == canonical_id(network(replace(one.blocks[0], ffn_adapter_rank=2)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: replace(M, mixer_adapter_rank=2),
            "mixer_adapter_rank needs a mixer of kind attention, but got 2 with",
        ),
        (
            lambda: Block(mixer=WIDE, ffn=Moe(num_experts=2, top_k=1, d_ff=8), ffn_adapter_rank=2),
            "ffn_adapter_rank needs an FFN of kind glu or mlp, but got 2 with moe",
        ),
        (
            lambda: Block(mixer=WIDE, mixer_norm="residual"),
            "reads the embedding beside the stream needs one norm before",
        ),
        (lambda: Block(mixer=WIDE, ffn=Glu(d_ff=8), parallel=True), "no FFN in parallel, but got .* parallel=True"),
        (lambda: HeadMix(parts=(WIDE, M.mixer)), "Parts of head_mix read the stream alone"),
        (lambda: network(S, replace(S, weights_of=1, ffn_adapter_rank=2)), "must be the same in every other way"),
    ],
)
def test_shared_blocks_that_cannot_be_are_refused(build, message):
    with pytest.raises(ArchitectureError, match=message):
        build()
