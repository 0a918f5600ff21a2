"""What is timed: phases of a workload, the quantities behind each name, and a sentence for each mistake."""

import pytest

from nas.objectives import OBJECTIVES
from nas.workload import (
    DENOISED,
    LONGEST_CONTEXT,
    QUANTITIES,
    TRAINING_MEMORY,
    WORKLOADS,
    Decode,
    Prefill,
    TrainStep,
    Workload,
    WorkloadError,
    describe_phase,
    phase_from_dict,
    phase_to_dict,
    quantities_behind,
    quantities_of,
)

WORKLOAD = Workload(prompt=100, new_tokens=30, concurrency=4, batch=8, tokens=64)


def test_what_is_not_causal_reads_a_text_and_its_masks_for_every_token() -> None:
    changed = {name: WORKLOAD.phase(name, causal=False) for name in QUANTITIES}
    changed = {name: phase for name, phase in changed.items() if phase != WORKLOAD.phase(name)}
    assert changed == {
        "time_to_first_token_ms": Prefill(batch=1, prompt=100 + DENOISED),
        "time_per_output_token_ms": Prefill(batch=4, prompt=115 + DENOISED),
        "decode_latency_ms": Prefill(batch=1, prompt=130 + DENOISED),
        "batched_decode_latency_ms": Prefill(batch=8, prompt=130 + DENOISED),
    }


def test_each_quantity_is_the_time_of_its_phase() -> None:
    assert {name: WORKLOAD.phase(name) for name in QUANTITIES} == {
        "time_to_first_token_ms": Prefill(batch=1, prompt=100),
        "time_per_output_token_ms": Decode(batch=4, context=115),  # the middle of the answer
        "prefill_latency_ms": Prefill(batch=8, prompt=100),
        "decode_latency_ms": Decode(batch=1, context=130),
        "batched_decode_latency_ms": Decode(batch=8, context=130),
        "train_step_ms": TrainStep(batch=8, tokens=64),
    }


def test_the_context_is_the_end_of_the_answer_unless_it_is_given() -> None:
    assert WORKLOAD.length == 130
    given = Workload(prompt=100, new_tokens=30, context=4096)
    assert given.length == 4096
    assert given.phase("decode_latency_ms") == Decode(batch=1, context=4096)
    assert given.phase("time_per_output_token_ms") == Decode(batch=1, context=115)


def test_every_quantity_belongs_to_one_workload_and_is_an_objective() -> None:
    named = [quantity for quantities in WORKLOADS.values() for quantity in quantities]
    assert sorted(named) == sorted(QUANTITIES)
    assert set(named) | set(TRAINING_MEMORY) <= set(OBJECTIVES)


def test_workloads_are_one_name_or_a_list() -> None:
    assert quantities_of("serve") == ("time_to_first_token_ms", "time_per_output_token_ms")
    assert quantities_of(["decode", "train_step", "decode"]) == (
        "decode_latency_ms",
        "batched_decode_latency_ms",
        "train_step_ms",
    )


@pytest.mark.parametrize(
    ("workloads", "says"),
    [
        ("serving", r"no workload 'serving'\. Did you mean 'serve'\?"),
        (["serve", "train"], r"no workload 'train'\. Did you mean 'train_step'\?"),
        ([["serve"]], r"no workload \['serve'\]"),
        ([None], "no workload None"),
        ([], "must name at least one workload"),
        (None, "must name at least one workload, but got None"),
        (3, "must name at least one workload, but got 3"),
        ({"serve": 1}, "must name at least one workload"),
    ],
)
def test_what_is_no_workload_is_one_sentence(workloads: object, says: str) -> None:
    with pytest.raises(WorkloadError, match=says):
        quantities_of(workloads)


def test_what_must_be_timed_for_a_number() -> None:
    assert quantities_behind("decode_latency_ms") == ("decode_latency_ms",)
    assert quantities_behind("optimizer_bytes") == ("train_step_ms",)
    assert quantities_behind("sequence_bytes") == quantities_behind("recall") == ()


@pytest.mark.parametrize("name", ["prompt", "new_tokens", "concurrency", "context", "batch", "tokens"])
@pytest.mark.parametrize("value", [0, -3, 2.5, "many", True])
def test_a_size_that_is_no_whole_number_is_one_sentence(name: str, value: object) -> None:
    with pytest.raises(WorkloadError, match=rf"measure\.{name} must be a whole number of at least 1, but got"):
        Workload(**{name: value})  # type: ignore[arg-type]


def test_a_context_beyond_exact_positions_is_refused() -> None:
    Workload(context=LONGEST_CONTEXT)
    with pytest.raises(WorkloadError, match=r"measure\.context must be at most 16,777,216 tokens.*got 16,777,217"):
        Workload(context=LONGEST_CONTEXT + 1)
    with pytest.raises(WorkloadError, match=r"measure\.prompt \+ measure\.new_tokens must be at most 16,777,216"):
        Workload(prompt=LONGEST_CONTEXT, new_tokens=1, context=5)


@pytest.mark.parametrize("phase", [WORKLOAD.phase(name) for name in QUANTITIES], ids=list(QUANTITIES))
def test_a_phase_is_read_back_as_it_was_written(phase) -> None:
    assert phase_from_dict(phase_to_dict(phase)) == phase


def test_phases_read_as_words() -> None:
    assert describe_phase(Decode(batch=1, context=4096)) == "decoding 1 sequence at 4,096 tokens"
    assert describe_phase(Prefill(batch=8, prompt=512)) == "reading 8 sequences of 512 tokens"
    assert describe_phase(TrainStep(batch=2, tokens=64)) == "a training step on 2 sequences of 64 tokens"
