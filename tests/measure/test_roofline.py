"""The bound by hand: for each part arithmetic or traffic, whichever takes longer."""

import pytest
import torch

from nas.architecture import Architecture, Attention, Block, Glu, Moe, NoFfn, NoMixer
from nas.devices import spec_from
from nas.measure.phases import phase_call
from nas.measure.random_model import random_model
from nas.measure.roofline import ends_bound, part_bound, part_work, reached_parameters, roofline
from nas.parts import active_parameters, ffn_parameters
from nas.workload import Decode, Phase, Prefill, TrainStep
from tests.measure.examples import ATTENTION, CPU, GLU, MAMBA2, MOE, SPEC, VOCAB, D, network, seconds_of

BF16 = torch.bfloat16
WIDE = 512
BIG = Glu(d_ff=1024)
GQA = Attention(num_heads=8, num_kv_heads=2, head_dim=64)
BIG_WEIGHTS = 3 * WIDE * 1024 + WIDE  # gate, up and down, and the norm
GQA_WEIGHTS = WIDE * (8 + 2 + 2) * 64 + 8 * 64 * WIDE + WIDE
NARROW = spec_from({"tflops": {"bfloat16": 1}, "bandwidth": 1000, "memory": 1})  # 1e12 FLOP/s, 1e12 byte/s


def test_one_token_through_a_glu_moves_its_weights() -> None:
    flops, moved = part_work(BIG, WIDE, Decode(batch=1, context=100), BF16)
    assert flops == 2 * 3 * WIDE * 1024
    assert moved == 2 * BIG_WEIGHTS + 2 * WIDE * 2  # the stream in and out
    bound = part_bound(BIG, WIDE, Decode(batch=1, context=100), NARROW, "bfloat16")
    assert bound == pytest.approx(1e3 * max(3_145_728, 2 * BIG_WEIGHTS + 4 * WIDE) / 1e12)


def test_a_prompt_through_a_glu_is_bound_by_arithmetic() -> None:
    phase = Prefill(batch=4, prompt=1000)
    flops, moved = part_work(BIG, WIDE, phase, BF16)
    assert flops == 4000 * 2 * 3 * WIDE * 1024
    assert moved == 2 * BIG_WEIGHTS + 2 * 4000 * WIDE * 2
    assert part_bound(BIG, WIDE, phase, NARROW, "bfloat16") == pytest.approx(1e3 * flops / 1e12)


def test_one_token_of_attention_reads_the_keys_of_every_sequence_and_the_weights_once() -> None:
    token = 2 * 2 * 64 * 2
    for batch in (1, 8):
        flops, moved = part_work(GQA, WIDE, Decode(batch=batch, context=4095), BF16)
        projections = 2 * (GQA_WEIGHTS - WIDE)
        assert flops == batch * (projections + 4 * 4096 * 8 * 64)
        assert moved == 2 * GQA_WEIGHTS + batch * (4096 + 1) * token + 2 * batch * WIDE * 2


def test_a_prompt_of_attention_sees_half_of_all_pairs() -> None:
    flops, moved = part_work(GQA, WIDE, Prefill(batch=1, prompt=2000), BF16)
    assert flops == 2000 * 2 * (GQA_WEIGHTS - WIDE) + 4 * (2000 * 2001 // 2) * 8 * 64
    assert moved == 2 * GQA_WEIGHTS + 2 * 2000 * 2 * 2 * 64 * 2 + 2 * 2000 * WIDE * 2


def test_a_training_step_is_three_passes_and_the_optimizers_traffic_in_float32() -> None:
    flops, moved = part_work(BIG, WIDE, TrainStep(batch=2, tokens=100), BF16)
    assert flops == 3 * 200 * 2 * 3 * WIDE * 1024
    assert moved == 9 * 4 * BIG_WEIGHTS + 3 * 2 * 200 * WIDE * 2


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 100])
def test_tokens_reach_as_many_experts_as_they_have_choices_and_no_more_than_there_are(tokens: int) -> None:
    moe = Moe(num_experts=8, top_k=2, d_ff=16, num_shared=1)
    expert = 3 * D * 16
    fixed = D + 8 * D + expert  # norm, router and the shared expert
    assert reached_parameters(moe, D, tokens) == fixed + min(8, 2 * tokens) * expert


def test_all_experts_of_a_dense_mixture_are_always_reached() -> None:
    dense = Moe(num_experts=3, top_k=3, d_ff=16)
    assert reached_parameters(dense, D, 1) == ffn_parameters(dense, D) == active_parameters(dense, D)


def test_absent_parts_take_no_time() -> None:
    for part in (NoMixer(), NoFfn()):
        assert part_bound(part, D, Decode(batch=1, context=8), SPEC, "float32") == 0.0


def test_the_head_runs_for_the_tokens_whose_logits_are_asked_for() -> None:
    vocab = 50_000
    decode, prefill = Decode(batch=3, context=10), Prefill(batch=3, prompt=10)
    moved = (vocab + 3) * WIDE * 2
    assert ends_bound(WIDE, vocab, True, decode, NARROW, "bfloat16") == pytest.approx(
        1e3 * max(2 * 3 * vocab * WIDE, moved) / 1e12
    )
    read = (vocab + 30) * WIDE * 2  # embeddings of the prompt; one row of logits for each sequence
    assert ends_bound(WIDE, vocab, True, prefill, NARROW, "bfloat16") == pytest.approx(
        1e3 * max(2 * 3 * vocab * WIDE, read) / 1e12
    )
    step = TrainStep(batch=3, tokens=10)
    assert ends_bound(WIDE, vocab, True, step, NARROW, "bfloat16") == pytest.approx(
        1e3 * max(3 * 2 * 30 * vocab * WIDE, 9 * 4 * vocab * WIDE) / 1e12
    )


def test_a_network_is_bound_by_the_sum_of_its_parts_and_says_that_it_is_an_estimate() -> None:
    phase = Decode(batch=1, context=500)
    bound = roofline(network(Block(mixer=ATTENTION, ffn=GLU), Block(mixer=MAMBA2)), phase, SPEC, "float32")
    parts = sum(part_bound(part, D, phase, SPEC, "float32") for part in (ATTENTION, GLU, MAMBA2))
    assert bound.value == pytest.approx(parts + ends_bound(D, VOCAB, True, phase, SPEC, "float32"))
    assert bound.low == bound.high == bound.value
    assert (bound.source, bound.unit, bound.notes) == (
        "estimate",
        "ms",
        ("roofline of toy device, float32",),
    )


@pytest.mark.parametrize(
    "phase",
    [Decode(batch=1, context=256), Prefill(batch=2, prompt=64), TrainStep(batch=2, tokens=64)],
    ids=lambda phase: type(phase).__name__,
)
def test_no_processor_is_faster_than_the_bound_of_a_device_as_fast_as_any(phase: Phase) -> None:
    """One core of any machine that runs this is slower than these numbers; a bound above a time would be wrong."""
    fastest = spec_from({"tflops": {"float32": 10}, "bandwidth": 1000, "memory": 1})
    architecture = Architecture(
        name="x", d_model=D, vocab_size=VOCAB, blocks=(Block(mixer=ATTENTION, ffn=MOE), Block(mixer=MAMBA2, ffn=GLU))
    )
    call = phase_call(random_model(architecture, CPU, torch.float32), phase, CPU)
    call()
    least = min(seconds_of(call) for _ in range(5))
    assert 0 < roofline(architecture, phase, fastest, "float32").value < 1e3 * least
