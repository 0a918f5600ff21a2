"""The contract of a mixer that reads both ways, held over every kind, and of networks made of such mixers."""

from dataclasses import replace
from typing import Any

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
    MixerOptions,
    Moe,
    NoMixer,
    RwkvChannelMix,
)
from nas.compile import build_mixer, compile_architecture
from nas.context import Context
from nas.count import count_parameters, count_state_bytes
from nas.mixers.base import Mixer
from nas.mixers.both_ways import BothWays
from tests.contract.test_mixers import BATCH, CASES, D_MODEL, TOKENS

CPU = torch.device("cpu")
READING = {
    name: options
    for name, options in CASES.items()
    if not isinstance(options, NoMixer) and getattr(options, "kv_from", "own") == "own"
}


def both_and_forward(options: MixerOptions) -> tuple[Mixer, Mixer]:
    """Of the same weights, one that reads both ways and one that reads forwards."""
    built = []
    for direction in ("both", "forward"):
        torch.manual_seed(0)
        mixer = build_mixer(replace(options, direction=direction), D_MODEL)
        assert mixer is not None
        built.append(mixer.eval())
    return built[0], built[1]


def context() -> Context:
    return Context(tokens=torch.arange(BATCH * TOKENS).view(BATCH, TOKENS))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(BATCH, TOKENS, D_MODEL, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", READING)
def test_a_mixer_reads_both_ways_as_it_reads_one_way_and_keeps_nothing(name, x):
    both, forward = both_and_forward(READING[name])
    y, state = both(x, {}, context())
    torch.testing.assert_close(both(x, None, context())[0], y)
    if isinstance(both, BothWays):
        there, back = forward(x, None, context())[0], forward(x.flip(1), None, context().backwards())[0].flip(1)
        torch.testing.assert_close(y, (there + back) / 2)
    elif not isinstance(READING[name], HeadMix):  # the last token sees all others either way
        torch.testing.assert_close(y[:, -1], forward(x, None, context())[0][:, -1])
    assert state == {} == both.init_state(BATCH, TOKENS, torch.float32, CPU)
    assert both.state_bytes(TOKENS, torch.float32) == both.state_traffic(TOKENS, 0, torch.float32) == 0
    assert forward.flops(TOKENS, 0) <= both.flops(TOKENS, 0) <= 2 * forward.flops(TOKENS, 0)
    assert sum(p.numel() for p in both.parameters()) == sum(p.numel() for p in forward.parameters())
    with pytest.raises(ValueError, match="direction: both has no step"):
        both.step(x[:, 0], {}, Context())


@pytest.mark.parametrize("name", READING)
def test_later_tokens_count(name, x):
    both, forward = both_and_forward(READING[name])
    x = x.requires_grad_()
    half = TOKENS // 2
    (seen,) = torch.autograd.grad(both(x, None, context())[0][:, :half].square().sum(), x)
    assert seen.isfinite().all()
    assert (seen[:, half:] != 0).any() == (name != "attention window of one")
    assert not torch.autograd.grad(forward(x, None, context())[0][:, :half].sum(), x)[0][:, half:].any()


def test_parts_of_a_head_mix_read_as_the_whole_does():
    mixed = next(options for options in CASES.values() if isinstance(options, HeadMix))
    both = build_mixer(replace(mixed, direction="both"), D_MODEL)
    assert not any(part.causal for part in both.parts)
    with pytest.raises(ArchitectureError, match="Parts of head_mix read as the whole does"):
        replace(mixed, parts=tuple(replace(part, direction="both") for part in mixed.parts))


def test_no_mixer_has_no_direction():
    with pytest.raises(ArchitectureError, match="direction is of a mixer"):
        NoMixer(direction="both")


ATTENDING = Attention(num_heads=2, head_dim=16, direction="both")
NEAR = replace(ATTENDING, window=4)
SCAN = Mamba2(num_heads=2, head_dim=16, state_dim=8, direction="both")
SHARED = Block(mixer=replace(ATTENDING, reads="with_embedding"), ffn=Glu(d_ff=8), mixer_adapter_rank=2, aside=True)
WIRINGS: dict[str, dict[str, Any]] = {
    "meta tokens": {"blocks": (Block(mixer=replace(NEAR, num_global=3)), Block(mixer=SCAN)), "num_meta_tokens": 3},
    "keys and values of an earlier window": {
        "blocks": (Block(mixer=NEAR), Block(mixer=SCAN), Block(mixer=replace(NEAR, kv_from="earlier")))
    },
    "keys and values of an earlier layer": {
        "blocks": (Block(mixer=ATTENDING), Block(mixer=replace(ATTENDING, kv_from="earlier")))
    },
    "a shared block beside the stream": {
        "blocks": (SHARED, Block(mixer=SCAN), replace(SHARED, weights_of=2), Block(mixer=NEAR))
    },
    "hashed experts and a look at the token before": {
        "blocks": (
            Block(mixer=SCAN, ffn=Moe(num_experts=4, top_k=1, d_ff=8, choice="hash")),
            Block(mixer=NEAR, ffn=RwkvChannelMix(d_ff=16)),
        )
    },
    "heads behind one projection": {
        "blocks": (
            Block(
                mixer=HeadMix(
                    parts=(replace(NEAR, direction="forward"), replace(SCAN, direction="forward")),
                    shared_out=True,
                    direction="both",
                )
            ),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WIRINGS)
def test_networks_that_read_both_ways_learn_count_and_write_however_they_are_wired(name):
    architecture = Architecture(d_model=32, vocab_size=19, loss="masked_diffusion", **WIRINGS[name])
    model = compile_architecture(architecture, seed=0)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(architecture)
    assert count_state_bytes(architecture, 100, dtype=torch.float32) == 0
    assert model.init_state(2, 100).layers == [{}] * len(architecture.blocks)
    tokens = torch.arange(22).view(2, 11) % 19
    logits = model(tokens)
    logits.logsumexp(-1).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    masked = tokens.clone()
    masked[:, -1] = model.mask_token
    assert not torch.allclose(model(masked)[:, :8], logits[:, :8], atol=1e-6)
    assert model.eval().generate(tokens, 3).shape == (2, 14)


def test_a_loss_of_a_layer_that_reads_twice_counts_once():
    routed = replace(CASES["attention"], head_share=0.5, window=5, direction="both")
    mixer, forward = build_mixer(routed, D_MODEL), build_mixer(replace(routed, direction="forward"), D_MODEL)
    forward.load_state_dict(mixer.mixer.state_dict())
    x, both, there, back = torch.randn(BATCH, TOKENS, D_MODEL), context(), context(), context()
    mixer.train()(x, None, both)
    forward.train()(x, None, there)
    forward(x.flip(1), None, back)
    assert len(there.losses) == len(back.losses) == 1
    torch.testing.assert_close(sum(both.losses), (there.losses[0] + back.losses[0]) / 2)


def test_sharing_with_a_layer_that_reads_otherwise_is_refused():
    sharing = replace(ATTENDING, kv_from="earlier")
    with pytest.raises(
        ArchitectureError, match="no earlier attention without a window that reads both ways as it does"
    ):
        Architecture(
            d_model=32,
            vocab_size=19,
            loss="masked_diffusion",
            blocks=(Block(mixer=replace(ATTENDING, position="relative")), Block(mixer=sharing)),
        )
