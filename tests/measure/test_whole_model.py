"""Whole models: the numbers a deployment gives, and that nothing is left behind."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2, MixerOptions, Moe
from nas.context import Context
from nas.count import count, count_parameters
from nas.deployment import Deployment
from nas.measure import DeviceBusy, DoesNotFit, choose_device, choose_dtype, describe_device, whole_model
from nas.measure.conditions import Conditions
from nas.measure.device import pinned_threads
from nas.measure.memory import available_bytes, saved_for_backward_bytes
from nas.measure.phases import training_loss
from nas.measure.random_model import STRETCH, RepeatedRandomNumbers, random_model, random_state
from nas.measure.whole_model import Measured, check_fits, measure_model, training_memory
from nas.objectives import OBJECTIVES
from nas.workload import QUANTITIES, Decode, Prefill, TrainStep, Workload, WorkloadError
from tests.measure.examples import CPU, QUICK, SPEC

ATTENTION = Attention(num_heads=4, head_dim=32)
MAMBA2 = Mamba2(num_heads=4, head_dim=32, state_dim=16)


def build(mixer: MixerOptions, layers: int = 2) -> Architecture:
    block = Block(mixer=mixer, ffn=Glu(d_ff=128))
    return Architecture(name="small", d_model=128, vocab_size=64, blocks=(block,) * layers)


def small(*quantities: str, **workload: int) -> Deployment:
    """On one thread of the CPU; without quantities those of the workload serve."""
    given = {"prompt": 16, "new_tokens": 48, "batch": 2, "tokens": 16} | workload
    fixed: dict[str, Any] = {"quantities": quantities} if quantities else {}
    return Deployment(parameters=None, width=1.0, workload=Workload(**given), device="cpu", threads=1, **fixed)


def measure(mixer: MixerOptions, deployment: Deployment) -> Measured:
    return measure_model(build(mixer), deployment, SPEC, QUICK)


@pytest.mark.parametrize("mixer", [ATTENTION, MAMBA2], ids=lambda m: m.kind)
def test_every_measured_objective_is_given_in_its_unit_and_says_that_it_was_measured(mixer: MixerOptions) -> None:
    measured = measure(mixer, small(*QUANTITIES))
    # What the process takes from the system is known to who started it.
    reserved = {"peak_reserved_bytes", "train_peak_reserved_bytes"}
    expected = {o.name for o in OBJECTIVES.values() if o.stage == "measure"} - reserved
    assert set(measured.numbers) == expected
    for name, number in measured.numbers.items():
        assert number.unit == OBJECTIVES[name].unit
        assert 0 < number.low <= number.value <= number.high
        assert number.n >= 1
        assert number.source == ("counted" if name == "optimizer_bytes" else "measured"), name


def test_every_time_stands_under_all_cost_models_and_the_deployments_own_one_counts() -> None:
    measured = measure(ATTENTION, small())
    assert set(measured.costs) == {"own", "best", "roofline"}
    for times in measured.costs.values():
        assert set(times) == {"time_to_first_token_ms", "time_per_output_token_ms"}
    for quantity, time in measured.costs["own"].items():
        assert measured.numbers[quantity] == time
        assert measured.costs["best"][quantity].value <= time.value
        assert measured.costs["roofline"][quantity].source == "estimate"


def test_times_say_what_stopped_them_and_what_disturbed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disturbed(Conditions):
        def __enter__(self) -> Conditions:
            return Conditions(flags=("busy: others",))

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(whole_model, "watch", lambda device: Disturbed())
    measured = measure(ATTENTION, small())
    for model in ("own", "best"):
        for time in measured.costs[model].values():
            assert "busy: others" in time.notes
            assert any(note.startswith(("median known", "stopped by")) for note in time.notes)


def test_a_busy_device_is_refused_where_that_is_wanted_and_flagged_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: torch.device) -> None:
        raise DeviceBusy("cpu is busy: others use it; wait, or take measure.busy=flag.")

    monkeypatch.setattr(whole_model, "check_idle", busy)
    assert measure(ATTENTION, small("decode_latency_ms")).numbers
    refusing = Deployment(parameters=None, width=1.0, device="cpu", busy="refuse")
    with pytest.raises(DeviceBusy, match="others use it"):
        measure(ATTENTION, refusing)


def test_the_peak_holds_weights_and_the_state_of_the_batch() -> None:
    deployment = small("batched_decode_latency_ms", batch=3, context=256)
    counts = count(build(ATTENTION), 257)
    peak = measure(ATTENTION, deployment).numbers["peak_memory_bytes"].value
    least = counts.weight_bytes + 3 * counts.sequence_bytes
    assert least < peak < 1.5 * least


def test_training_takes_weights_gradients_the_optimizer_and_what_is_saved() -> None:
    numbers = measure(ATTENTION, small("train_step_ms", tokens=64)).numbers
    parameters = count_parameters(build(ATTENTION))
    assert numbers["optimizer_bytes"].value == 8 * parameters
    assert numbers["train_peak_memory_bytes"].value > 16 * parameters
    tokens = 2 * 64
    assert numbers["saved_for_backward_bytes"].value > 2 * tokens * 4 * (3 * 128 + 3 * 128)  # of attention and FFN
    more = measure(ATTENTION, small("train_step_ms", tokens=128)).numbers
    for name in ("train_peak_memory_bytes", "saved_for_backward_bytes"):
        assert more[name].value > numbers[name].value
    assert "peak_memory_bytes" not in numbers, "nothing is served, so nothing is said of serving"


def test_what_is_saved_for_backward_is_that_of_the_timed_loss_and_holds_no_whole_logits() -> None:
    architecture = replace(build(ATTENTION), vocab_size=16384)
    model = random_model(architecture, CPU, torch.float32)
    phases = [TrainStep(batch=1, tokens=tokens) for tokens in (64, 128)]
    saved = [training_memory(model, phase, CPU)["saved_for_backward_bytes"].value for phase in phases]
    assert saved == [saved_for_backward_bytes(training_loss(model, phase, CPU)) for phase in phases]
    model_alone = saved_for_backward_bytes(lambda: model(torch.zeros(1, 128, dtype=torch.long), context=Context()))
    assert saved[1] != model_alone, "the loss keeps something, too"
    assert 0 < saved[1] - saved[0] < 64 * 16384 * 4


def test_memory_is_released_after_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters: list[weakref.ref] = []

    def remember(architecture, device, dtype):
        model = random_model(architecture, device, dtype)
        parameters.extend(weakref.ref(p) for p in model.parameters())
        return model

    monkeypatch.setattr("nas.measure.whole_model.random_model", remember)
    measure(ATTENTION, small("decode_latency_ms", "train_step_ms"))
    gc.collect()
    assert parameters
    assert all(ref() is None for ref in parameters)


def test_a_context_beyond_the_memory_is_a_result() -> None:
    with pytest.raises(
        DoesNotFit, match=r"small needs .* bytes for decoding 1 sequence at .*, .* more than cpu has free"
    ):
        measure_model(build(ATTENTION, layers=2000), small("decode_latency_ms", context=2**24), SPEC, QUICK)


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    architecture, free = build(ATTENTION), 2_000_000
    phases = {Decode(batch=1, context=10_000)}
    with pytest.raises(DoesNotFit) as caught:
        check_fits(architecture, phases, torch.float32, free, "cpu")
    needed = 4 * count_parameters(architecture) + count(architecture, 10_001).sequence_bytes
    longest = (free - 4 * count_parameters(architecture)) // (2 * 2 * 4 * 32 * 4) - 1
    assert str(caught.value) == (
        f"small needs {needed:,} bytes for decoding 1 sequence at 10,000 tokens, {needed - free:,} more than cpu has "
        f"free; the longest context that fits is {longest:,} tokens."
    )
    check_fits(architecture, {Decode(batch=1, context=longest)}, torch.float32, free, "cpu")
    with pytest.raises(DoesNotFit):
        check_fits(architecture, {Decode(batch=1, context=longest + 1)}, torch.float32, free, "cpu")


@pytest.mark.parametrize(
    ("phase", "advice"),
    [
        (Prefill(batch=4, prompt=5000), r"the longest prompt that fits is \d+ tokens"),
        (TrainStep(batch=1, tokens=1), "fewer parameters fit"),
    ],
)
def test_the_advice_is_about_what_can_be_changed(phase, advice: str) -> None:
    with pytest.raises(DoesNotFit, match=advice):
        check_fits(build(ATTENTION), {phase}, torch.float32, 2_500_000, "cpu")


def test_of_weights_that_do_not_fit_no_context_does() -> None:
    with pytest.raises(DoesNotFit, match="fewer parameters fit"):
        check_fits(build(MAMBA2), {Decode(batch=1, context=1)}, torch.float32, 1000, "cpu")


def test_nothing_is_refused_where_the_system_does_not_say_what_is_free() -> None:
    check_fits(build(ATTENTION), {Decode(batch=1, context=2**24)}, torch.float32, None, "cpu")
    assert available_bytes(CPU) is None or available_bytes(CPU) > 0  # type: ignore[operator]


def test_running_out_of_memory_is_a_result_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(whole_model, "time_phase", exhausted)
    with pytest.raises(DoesNotFit, match="measuring ran out of memory on cpu"):
        measure(ATTENTION, small())


def test_random_weights_are_ordinary_numbers_of_the_true_size() -> None:
    block = Block(mixer=MAMBA2, ffn=Moe(num_experts=4, top_k=1, d_ff=256))
    architecture = Architecture(name="x", d_model=256, vocab_size=512, blocks=(block,))
    model = random_model(architecture, CPU, torch.float32)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert not ((parameter != 0) & (parameter.abs() < torch.finfo(torch.float32).tiny)).any(), name
        if parameter.numel() > STRETCH:
            assert 0.005 < parameter.std() < 0.1, name
    state = random_state(model, Decode(batch=1, context=32))
    assert all(t.isfinite().all() for layer in state.layers for t in layer.values())


def test_long_draws_repeat_a_stretch_and_short_ones_are_drawn() -> None:
    with RepeatedRandomNumbers():
        long, short = torch.empty(2 * STRETCH + 5).normal_(), torch.empty(2, 50).uniform_(1, 2)
    assert torch.equal(long[:STRETCH], long[STRETCH : 2 * STRETCH])
    assert torch.equal(long[-5:], long[:5])
    assert long[:STRETCH].unique().numel() > 0.9 * STRETCH
    assert short.unique().numel() > 90


def test_threads_are_pinned_and_given_back() -> None:
    before = torch.get_num_threads()
    with pinned_threads(1) as threads:
        assert threads == torch.get_num_threads() == describe_device(CPU)["threads"] == 1
    assert torch.get_num_threads() == before


def test_the_device_says_what_a_number_depends_on() -> None:
    described = describe_device(CPU)
    assert described["torch"] == torch.__version__
    assert all(isinstance(value, str | int) and value for value in described.values())


@pytest.mark.parametrize("name", ["gpu", "tpu", "cuda:99", "cuda:x", "meta"])
def test_unknown_or_absent_device_is_one_sentence(name: str) -> None:
    with pytest.raises(WorkloadError, match=r"measure\.device"):
        choose_device(name)


def test_the_default_type_is_the_one_served() -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("float16", CPU) == torch.float16
