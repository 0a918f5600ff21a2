"""The model around the blocks: decoding, costs, families of parameters and initialisation, on mixed blocks."""

import dataclasses

import pytest
import torch
from torch import Tensor

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    BlockSparseAttention,
    GatedDeltaNet,
    GatedLinearAttention,
    Glu,
    HeadMix,
    Mamba1,
    Mamba2,
    Moe,
    NoFfn,
    NoMixer,
)
from nas.compile import compile_architecture
from nas.context import Context
from nas.model import DecodeState, Model, filled_state, no_weight_decay

ARCHITECTURE = Architecture(
    d_model=32,
    vocab_size=50,
    blocks=(
        Block(mixer=Attention(num_heads=2, num_kv_heads=1, head_dim=16, window=6), ffn=Glu(d_ff=48)),
        Block(mixer=Mamba2(num_heads=4, head_dim=16, state_dim=8), ffn=NoFfn()),
        Block(mixer=NoMixer(), ffn=Moe(num_experts=4, top_k=2, d_ff=16, num_shared=1)),
        Block(mixer=BlockSparseAttention(num_heads=2, head_dim=16, block_size=4, top_k=1), ffn=Glu(d_ff=48)),
        Block(
            mixer=HeadMix(parts=(GatedDeltaNet(num_heads=1, head_dim=16), Mamba1(num_heads=2, head_dim=16))),
            ffn=Glu(d_ff=48),
        ),
        Block(mixer=GatedLinearAttention(num_heads=2, head_dim=16), ffn=Glu(d_ff=48)),
    ),
)
ATTENTION_ONLY = dataclasses.replace(ARCHITECTURE, blocks=ARCHITECTURE.blocks[:1])


@pytest.fixture
def model() -> Model:
    return compile_architecture(ARCHITECTURE, seed=0)


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(50, (3, 17))


def shapes(state: DecodeState) -> list[dict[str, tuple[torch.Size, torch.dtype]]]:
    return [{name: (t.shape, t.dtype) for name, t in layer.items()} for layer in state.layers]


def test_prefill_in_chunks_and_steps_give_the_logits_of_one_forward_pass(model: Model, tokens: Tensor):
    expected = model(tokens)
    logits, state = model.prefill(tokens[:, :5], model.init_state(3, 17))
    torch.testing.assert_close(logits, expected[:, 4], rtol=1e-4, atol=1e-5)
    logits, state = model.prefill(tokens[:, 5:11], state)
    torch.testing.assert_close(logits, expected[:, 10], rtol=1e-4, atol=1e-5)
    for position in range(11, 17):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, expected[:, position], rtol=1e-4, atol=1e-5)
    assert state.position == int(state.clock) == 17


def test_greedy_generation_appends_the_likeliest_token_each_time(model: Model, tokens: Tensor):
    expected = tokens
    with torch.no_grad():
        for _ in range(5):
            expected = torch.cat((expected, model(expected)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(model.generate(tokens, 5), expected)
    assert torch.equal(model.generate(tokens, 0), tokens)


def test_sampling_follows_the_generator_and_the_temperature(model: Model, tokens: Tensor):
    first, second = (torch.manual_seed(3) and model.generate(tokens, 4, temperature=1.0) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3, 21) and first.max() < 50
    assert torch.equal(model.generate(tokens, 4, temperature=1e-6), model.generate(tokens, 4))


def test_more_tokens_than_there_is_room_for_are_refused_in_one_sentence(model: Model, tokens: Tensor):
    _, state = model.prefill(tokens)
    with pytest.raises(ValueError, match="holds 17 of at most 17 tokens, but got 1 more"):
        model.step(tokens[:, 0], state)
    with pytest.raises(ValueError, match="holds 0 of at most 10 tokens, but got 17 more"):
        model.prefill(tokens, model.init_state(3, 10))


def test_a_filled_state_looks_like_a_real_one_and_decodes(model: Model, tokens: Tensor):
    state = filled_state(model, 3, 17, new_tokens=2)
    _, real = model.prefill(tokens, model.init_state(3, 19))
    assert shapes(state) == shapes(real)
    assert (state.position, state.max_len, state.clock) == (real.position, real.max_len, real.clock)
    for _ in range(2):
        logits, state = model.step(tokens[:, 0], state)
        assert torch.isfinite(logits).all()
    assert shapes(state) == shapes(real)


def test_a_part_that_is_none_has_no_norm_and_no_parameters(model: Model):
    def names(block: int) -> set[str]:
        return {name.split(".")[0] for name, _ in model.blocks[block].named_parameters()}

    assert names(1) == {"mixer", "mixer_norm"}
    assert names(2) == {"ffn", "ffn_norm"}


def test_a_tied_head_is_the_embedding():
    tied = compile_architecture(ATTENTION_ONLY)
    untied = compile_architecture(dataclasses.replace(ATTENTION_ONLY, tie_embeddings=False))
    assert tied.head is None
    assert untied.head is not None and untied.head.weight.shape == (50, 32)


def test_every_parameter_belongs_to_one_family(model: Model):
    families = model.parameter_families()
    listed = [name for members in families.values() for name, _ in members]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())
    family_of = {name: family for family, members in families.items() for name, _ in members}
    expected = {
        "embedding.weight": "shared",
        "norm.weight": "shared",
        "blocks.0.mixer.out_proj.weight": "attention",
        "blocks.0.ffn.in_proj.weight": "attention",
        "blocks.0.mixer_norm.weight": "attention",
        "blocks.2.ffn.experts_in": "shared",
        "blocks.3.mixer.qkv.linear.weight": "attention",
        "blocks.4.mixer.parts.0.in_proj.weight": "gated_deltanet",
        "blocks.4.mixer.parts.1.A_log": "mamba1",
        "blocks.4.mixer.norms.0.weight": "shared",
        "blocks.4.ffn.in_proj.weight": "shared",
        "blocks.5.mixer.gate_proj.weight": "gated_linear_attention",
    }
    assert {name: family_of[name] for name in expected} == expected


def test_only_matrices_decay(model: Model):
    free = {name for name, p in model.named_parameters() if no_weight_decay(name, p)}
    ends = {name.rsplit(".", 1)[-1] for name in free}
    assert ends == {"weight", "bias", "A_log", "dt_bias", "D", "filter", "gate_bias"}
    assert {name for name in free if name.endswith(".weight")} == {
        name for name, _ in model.named_parameters() if "norm" in name.split(".")[-2] or "norms" in name
    }


def test_the_seed_decides_the_weights_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (compile_architecture(ARCHITECTURE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b, c in zip(first.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.ndim < 2 or name.endswith("A_log") or not torch.equal(a, c), name


def test_fresh_weights_have_the_stated_spread():
    block = Block(mixer=Attention(num_heads=8, head_dim=16), ffn=Glu(d_ff=256))
    model = compile_architecture(Architecture(d_model=128, vocab_size=300, blocks=(block,) * 8), seed=0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            expected = 0.02 / 4 if name.endswith("out_proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_decay_parameters_start_in_their_published_ranges():
    """With many heads, the extremes of every range are nearly reached."""
    lowest_rate = {
        Mamba2(num_heads=400, head_dim=4, state_dim=2): 1.0,
        GatedDeltaNet(num_heads=400, head_dim=4): 0.0,
        Mamba1(num_heads=400, head_dim=4, state_dim=16): 1.0,
    }
    for mixer, low in lowest_rate.items():
        model = compile_architecture(dataclasses.replace(ARCHITECTURE, blocks=(Block(mixer=mixer),)), seed=0)
        parameters = dict(model.blocks[0].mixer.named_parameters())
        rate, step = parameters["A_log"].exp(), torch.nn.functional.softplus(parameters["dt_bias"])
        assert (rate.min().item(), rate.max().item()) == pytest.approx((low, 16), abs=0.2)
        assert rate.min() >= low and rate.max() < 16.001
        assert (step.log10().min().item(), step.log10().max().item()) == pytest.approx((-3, -1), abs=0.05)


def test_every_branch_of_a_fresh_model_adds_little_to_the_stream(tokens: Tensor):
    """A normalised head mix must not outweigh what a plain mixer adds."""
    parts = (Attention(num_heads=2, head_dim=16), Attention(num_heads=2, head_dim=16))
    added = []
    for mixer in (Attention(num_heads=4, head_dim=16), HeadMix(parts=parts)):
        model = compile_architecture(dataclasses.replace(ARCHITECTURE, blocks=(Block(mixer=mixer),)), seed=0)
        torch.manual_seed(0)
        added.append(model.blocks[0].mixer(torch.randn(2, 9, 32))[0].square().mean().sqrt().item())
    assert added[1] == pytest.approx(added[0], rel=1.0)


def test_balance_losses_reach_the_caller_through_the_context(model: Model, tokens: Tensor):
    context = Context()
    model(tokens, context)
    assert len(context.losses) == 1 and context.losses[0].requires_grad


def test_a_large_model_compiles_on_the_meta_device_without_memory():
    mixer = HeadMix(parts=(Attention(num_heads=32, head_dim=128), Mamba2(num_heads=64, head_dim=64)))
    block = Block(mixer=mixer, ffn=Moe(num_experts=64, top_k=4, d_ff=2048))
    large = Architecture(d_model=4096, vocab_size=100_000, blocks=(block,) * 8)
    with torch.device("meta"):
        model = compile_architecture(large)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) > 10e9
