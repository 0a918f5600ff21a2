"""One block measured on the device at hand: what an entry says, and that repeats overflow the cache."""

from dataclasses import replace

import pytest
import torch

from nas.architecture import Attention, Glu
from nas.measure import blocks
from nas.measure.blocks import (
    CPU_NETWORK_BYTES,
    LEAST_REPEATS,
    MOST_REPEATS,
    copies_for,
    how_launched,
    measure_block,
    measure_here,
    repeats_for,
    stack_of,
)
from nas.measure.device import pinned_threads
from nas.measure.memory import DoesNotFit, storage_bytes
from nas.measure.rivals import Rival
from nas.measure.table_parts import Part
from nas.measure.timing import Effort
from nas.parts import mixer_parameters
from nas.workload import Decode, Phase, Prefill, TrainStep
from tests.measure.counted_work import CountedWork
from tests.measure.examples import ATTENTION, CPU, DECODE, ENDS, GLU, MAMBA2, MOE, SPARSE, D, bench

PREFILL = Prefill(batch=2, prompt=32)
TRAIN = TrainStep(batch=2, tokens=32)


@pytest.fixture(autouse=True)
def one_thread():
    with pinned_threads(1):
        yield


@pytest.mark.parametrize("phase", [DECODE, PREFILL, TRAIN], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("part", [ATTENTION, MAMBA2, SPARSE, GLU, MOE, ENDS], ids=lambda p: type(p).__name__)
def test_an_entry_says_all_about_a_block(part: Part, phase: Phase) -> None:
    entry = measure_here(part, D, phase, bench(0.02))
    assert (entry.part, entry.d_model, entry.phase, entry.dtype) == (part, D, phase, "float32")
    for time in (entry.own, entry.best):
        assert time.unit == "ms" and time.source == "measured"
        assert 0 <= time.low <= time.value <= time.high
    assert entry.best.value <= entry.own.value
    assert entry.best_by == "own"
    assert entry.bytes_each >= 0 and entry.bytes_once >= 0 and entry.bytes_each + entry.bytes_once > 0
    assert entry.launches == "portable"
    assert entry.roofline_ms > 0
    assert entry.operations and entry.environment["device"] == "cpu"


def test_what_a_block_keeps_for_the_backward_pass_counts_for_each_and_work_space_once() -> None:
    inference = measure_here(Glu(d_ff=256), D, PREFILL, bench(0.02))
    training = measure_here(Glu(d_ff=256), D, TRAIN, bench(0.02))
    hidden = 64 * 256 * 4  # tokens, width, float32
    assert inference.bytes_each == 0
    assert inference.bytes_once >= 2 * hidden
    weights = 3 * D * 256 * 4
    assert training.bytes_each >= max(weights, 3 * hidden), "gradients at the end; gate, up and product before"


def test_a_longer_context_takes_longer_in_attention(counted_work: CountedWork) -> None:
    near, far = (measure_here(ATTENTION, D, Decode(batch=1, context=c), bench()) for c in (16, 16384))
    assert far.own.value > 10 * near.own.value


def test_a_stack_is_one_kind_of_block_and_hardly_any_vocabulary() -> None:
    model = stack_of(ATTENTION, D, 3, DECODE, bench())
    assert len(model.blocks) == 3
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 3 * mixer_parameters(ATTENTION, D) + blocks.SMALL_VOCAB * D + D
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(weights) == len(list(model.parameters())), "each repeat has weights of its own"
    assert all(p.dtype == torch.float32 for p in stack_of(GLU, D, 1, TRAIN, bench()).parameters())


def test_there_are_as_many_copies_as_come_to_the_wanted_bytes_within_limits() -> None:
    assert copies_for(1000, 7900) == 8
    assert copies_for(1000, 1000) == LEAST_REPEATS
    assert copies_for(1, 1e9) == copies_for(0, 1e9) == MOST_REPEATS


def test_repeats_overflow_the_cache_and_in_decoding_a_networks_memory() -> None:
    assert bench().cache_bytes == 2e6, "twice the cache of the example"
    assert bench().network_bytes == CPU_NETWORK_BYTES
    gpu = replace(bench(), device=torch.device("cuda"))
    assert gpu.network_bytes == gpu.cache_bytes
    one = stack_of(ATTENTION, D, 1, DECODE, bench())
    assert repeats_for(one, Decode(batch=1, context=16), bench()) == MOST_REPEATS
    token = 2 * 2 * 32 * 4
    batch = round(CPU_NETWORK_BYTES / 5 / (8192 * token))
    assert repeats_for(one, Decode(batch=batch, context=8192), bench()) == 5, "a long cache fills it by itself"
    reading = repeats_for(one, Prefill(batch=8, prompt=8192), bench())
    assert reading == copies_for(storage_bytes(list(one.parameters())), bench().cache_bytes), (
        "prompts wait for no state"
    )


def test_the_fastest_at_hand_stands_beside_our_own(counted_work: CountedWork) -> None:
    def instant(q: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return q

    rivals = {"attention_step": [Rival(name="instant", function="attention_step", call=instant, devices=("cpu",))]}
    effort = Effort(seconds=0.05, spread=0.05, rivals=rivals)
    entry = measure_here(ATTENTION, D, Decode(batch=1, context=16384), replace(bench(), effort=effort))
    assert entry.best_by == "instant"
    assert entry.best.value < entry.own.value


def test_on_a_cpu_a_block_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(blocks, "in_child", lambda function, *given: asked.append(function) or function(*given))
    monkeypatch.setattr(blocks, "_measure_part", lambda part, *_: part)
    assert measure_block(ATTENTION, D, DECODE, bench()) is ATTENTION  # type: ignore[comparison-overlap]
    assert asked == [measure_here]
    measure_block(ATTENTION, D, DECODE, replace(bench(), device=torch.device("meta")))
    assert len(asked) == 1


def test_the_least_certain_launch_is_the_one_that_is_told() -> None:
    assert how_launched({}) == "portable"
    assert how_launched({"a": "tuned", "b": "tuned"}) == "tuned"
    assert how_launched({"a": "tuned", "b": "nearest"}) == "nearest"
    assert how_launched({"a": "default", "b": "nearest", "c": "tuned"}) == "default"


def test_a_block_that_runs_out_of_memory_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(blocks, "stack_of", exhausted)
    with pytest.raises(DoesNotFit, match=r"measuring ran out of memory on cpu\."):
        measure_here(Attention(num_heads=2), D, DECODE, bench())


def test_weights_are_of_the_served_type_but_in_training() -> None:
    assert bench().dtype_of(TRAIN) == torch.float32
    half = blocks.Bench(device=CPU, dtype="bfloat16", spec=bench().spec, effort=bench().effort)
    assert half.dtype_of(DECODE) == torch.bfloat16
    assert half.dtype_of(TRAIN) == torch.float32
