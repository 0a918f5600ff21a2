"""Phases as calls: again and again the same work, decoding stays at its context, training leaves weights alone."""

import pytest
import torch

from nas.architecture import Attention, Block, GatedDeltaNet, GatedLinearAttention, HeadMix, Mamba1, MixerOptions
from nas.measure.memory import peak_bytes
from nas.measure.phases import decode, phase_call
from nas.measure.random_model import random_model, random_state
from nas.workload import Decode, Phase, Prefill, TrainStep
from tests.measure.counted_work import CountedWork
from tests.measure.examples import ATTENTION, CPU, GLU, MAMBA2, MOE, SPARSE, VOCAB, network

MIXERS: list[MixerOptions] = [
    ATTENTION,
    Attention(num_heads=2, num_kv_heads=1, head_dim=16, window=8),
    SPARSE,
    MAMBA2,
    Mamba1(num_heads=2, head_dim=16),
    GatedLinearAttention(num_heads=2, head_dim=16),
    GatedDeltaNet(num_heads=2, head_dim=16),
    HeadMix(parts=(ATTENTION, MAMBA2)),
]
PHASES: list[Phase] = [Prefill(batch=2, prompt=21), Decode(batch=3, context=33)]


@pytest.mark.parametrize("phase", PHASES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: m.kind)
def test_a_call_gives_the_same_logits_however_often_it_runs(mixer: MixerOptions, phase: Phase) -> None:
    """What went before, such as keys written and states moved on, must not change what the next sample does."""
    call = phase_call(random_model(network(Block(mixer=mixer, ffn=GLU)), CPU, torch.float32), phase, CPU)
    first = call()
    assert isinstance(first, torch.Tensor) and first.shape == (phase.batch, VOCAB) and first.isfinite().all()
    for _ in range(3):
        again = call()
        assert isinstance(again, torch.Tensor)
        torch.testing.assert_close(again, first, rtol=0, atol=0)


def test_decoding_starts_at_the_context_without_a_prompt() -> None:
    model = random_model(network(Block(mixer=ATTENTION)), CPU, torch.float32)
    state = random_state(model, Decode(batch=2, context=50))
    assert (state.position, state.max_len) == (50, 51)
    assert state.layers[0]["k"].shape[:2] == (2, 51)


def test_every_sample_of_decoding_is_at_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(network(Block(mixer=ATTENTION)), CPU, torch.float32)
    positions: list[int] = []
    step = model.step

    def remember(tokens, state):
        positions.append(state.position)
        return step(tokens, state)

    monkeypatch.setattr(model, "step", remember)
    call = decode(model, Decode(batch=1, context=9), CPU)
    for _ in range(5):
        call()
    assert positions == [9] * 5


def test_a_training_step_leaves_the_weights_and_makes_the_optimizers_state() -> None:
    model = random_model(network(Block(mixer=ATTENTION, ffn=MOE), Block(mixer=MAMBA2)), CPU, torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    step = phase_call(model, TrainStep(batch=2, tokens=12), CPU)
    for _ in range(3):
        optimizer = step()
    assert isinstance(optimizer, torch.optim.AdamW)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
        moments = optimizer.state[new]
        assert moments["exp_avg"].isfinite().all() and moments["exp_avg_sq"].shape == new.shape
        assert int(moments["step"]) == 3


def test_a_training_step_holds_activations_beyond_the_gradients() -> None:
    model = random_model(network(*[Block(mixer=ATTENTION, ffn=GLU)] * 2), CPU, torch.float32)
    gradients = sum(p.nbytes for p in model.parameters())
    peaks = []
    for tokens in (16, 64):
        step = phase_call(model, TrainStep(batch=2, tokens=tokens), CPU)
        step()
        peaks.append(peak_bytes(step, CPU))
    assert gradients < peaks[0] < peaks[1]


def test_decoding_slows_with_the_context_for_attention_and_not_for_mamba2() -> None:
    def seconds(mixer: MixerOptions, context: int) -> float:
        call = phase_call(
            random_model(network(Block(mixer=mixer, ffn=GLU)), CPU, torch.float32),
            Decode(batch=1, context=context),
            CPU,
        )
        with CountedWork() as work:
            call()
        return work.seconds

    assert seconds(ATTENTION, 65536) > 10 * seconds(ATTENTION, 64)
    assert seconds(MAMBA2, 65536) == seconds(MAMBA2, 64)
