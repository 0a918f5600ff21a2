"""One block measured on the device at hand: what an entry says, and that repeats overflow the cache."""

import pytest
import torch

from nas.architecture import Attention, Glu
from nas.measure import blocks
from nas.measure.block_table import Part
from nas.measure.blocks import MOST_REPEATS, copies_for, how_launched, measure_block, repeats_for, stack_of
from nas.measure.device import pinned_threads
from nas.measure.memory import DoesNotFit
from nas.parts import mixer_parameters
from nas.workload import Decode, Phase, Prefill, TrainStep
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
    entry = measure_block(part, D, phase, bench(0.02))
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
    inference = measure_block(Glu(d_ff=256), D, PREFILL, bench(0.02))
    training = measure_block(Glu(d_ff=256), D, TRAIN, bench(0.02))
    hidden = 64 * 256 * 4  # tokens, width, float32
    assert inference.bytes_each == 0
    assert inference.bytes_once >= 2 * hidden
    weights = 3 * D * 256 * 4
    assert training.bytes_each >= max(weights, 3 * hidden), "gradients at the end; gate, up and product before"


def test_a_longer_context_takes_longer_in_attention() -> None:
    near, far = (measure_block(ATTENTION, D, Decode(batch=1, context=c), bench(0.1)) for c in (16, 16384))
    assert far.own.value > 2 * near.own.value


def test_a_stack_is_one_kind_of_block_and_hardly_any_vocabulary() -> None:
    model = stack_of(ATTENTION, D, 3, DECODE, bench())
    assert len(model.blocks) == 3
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 3 * mixer_parameters(ATTENTION, D) + blocks.SMALL_VOCAB * D + D
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(weights) == len(list(model.parameters())), "each repeat has weights of its own"
    assert all(p.dtype == torch.float32 for p in stack_of(GLU, D, 1, TRAIN, bench()).parameters())


def test_there_are_as_many_repeats_as_overflow_the_cache() -> None:
    cache = bench().spec.cache_mb * 1e6
    assert copies_for(int(cache), bench()) == 3
    assert copies_for(int(cache / 4), bench()) == 8
    assert copies_for(1, bench()) == MOST_REPEATS
    one = stack_of(ATTENTION, D, 1, DECODE, bench())
    assert repeats_for(one, Decode(batch=1, context=16), bench()) == MOST_REPEATS
    assert repeats_for(one, Decode(batch=8, context=4096), bench()) == 3, "a long cache overflows by itself"
    assert repeats_for(one, Prefill(batch=8, prompt=4096), bench()) == MOST_REPEATS


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
        measure_block(Attention(num_heads=2), D, DECODE, bench())


def test_weights_are_of_the_served_type_but_in_training() -> None:
    assert bench().dtype_of(TRAIN) == torch.float32
    half = blocks.Bench(device=CPU, dtype="bfloat16", spec=bench().spec, effort=bench().effort)
    assert half.dtype_of(DECODE) == torch.bfloat16
    assert half.dtype_of(TRAIN) == torch.float32
