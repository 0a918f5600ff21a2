"""Whole models: the numbers a deployment gives, and that nothing is left behind."""

import gc
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2, MixerOptions, Moe
from nas.count import count
from nas.measure import DoesNotFit, choose_device, choose_dtype, describe_device, measure_model
from nas.measure.device import pinned_threads
from nas.measure.random_model import STRETCH, RepeatedRandomNumbers, random_model, random_state
from nas.measure.workloads import Phases
from nas.objectives import OBJECTIVES
from nas.workload import Deployment, Workload, WorkloadError

CPU = torch.device("cpu")
CONF = Path(__file__).parents[2] / "conf" / "measure"
ATTENTION = Attention(num_heads=4, head_dim=32)
MAMBA2 = Mamba2(num_heads=4, head_dim=32, state_dim=16)


def build(mixer: MixerOptions, layers: int = 2) -> Architecture:
    block = Block(mixer=mixer, ffn=Glu(d_ff=128))
    return Architecture(name="small", d_model=128, vocab_size=64, blocks=(block,) * layers)


def small(**workload: int) -> Deployment:
    given = {"prompt": 16, "context": 64} | workload
    return Deployment(parameters=None, width=1.0, workload=Workload(**given), device="cpu", threads=1, seconds=0.2)


@pytest.mark.parametrize("mixer", [ATTENTION, MAMBA2], ids=lambda m: m.kind)
def test_every_measured_objective_is_given_in_its_unit(mixer: MixerOptions) -> None:
    measured = measure_model(build(mixer), small())
    for objective in OBJECTIVES.values():
        if objective.stage == "measure":
            number = measured[objective.name]
            assert number.unit == objective.unit
            assert 0 < number.low <= number.value <= number.high
            assert number.n >= 1


def test_bytes_per_sequence_are_those_counted() -> None:
    for mixer in (ATTENTION, MAMBA2):
        measured = measure_model(build(mixer), small())
        assert measured["sequence_bytes"].value == count(build(mixer), small().workload).sequence_bytes


def test_the_peak_holds_weights_and_the_state_of_the_batch() -> None:
    deployment = small(batch=3, context=256)
    counts = count(build(ATTENTION), deployment.workload)
    peak = measure_model(build(ATTENTION), deployment)["peak_memory_bytes"].value
    least = counts.weight_bytes + 3 * counts.sequence_bytes
    assert least < peak < 1.5 * least


def test_decoding_slows_with_the_context_for_attention_and_not_for_mamba2() -> None:
    def decode(mixer: MixerOptions, context: int) -> float:
        with pinned_threads(1), torch.inference_mode():
            phases = Phases(random_model(build(mixer), CPU, torch.float32), Workload(context=context), CPU)
            step = phases.decoding(phases.read_context())
            step()
            # The least of several calls: this compares work, and other processes only ever add to it.
            return min(seconds_of(step) for _ in range(15))

    assert decode(ATTENTION, 32768) > 3 * decode(ATTENTION, 64)
    assert decode(MAMBA2, 32768) < 2 * decode(MAMBA2, 64)


def seconds_of(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_every_sample_of_decoding_is_at_the_context() -> None:
    phases = Phases(random_model(build(ATTENTION), CPU, torch.float32), Workload(context=8, new_tokens=1), CPU)
    step = phases.decoding(phases.read_context())
    for _ in range(5):
        assert step().position == 8  # type: ignore[attr-defined]


def test_memory_is_released_after_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters: list[weakref.ref] = []

    def remember(architecture, device, dtype):
        model = random_model(architecture, device, dtype)
        parameters.extend(weakref.ref(p) for p in model.parameters())
        return model

    monkeypatch.setattr("nas.measure.whole_model.random_model", remember)
    measure_model(build(ATTENTION), small())
    gc.collect()
    assert parameters
    assert all(ref() is None for ref in parameters)


def test_a_context_beyond_the_memory_is_a_result() -> None:
    with pytest.raises(DoesNotFit, match=r"The weights and the state need .* bytes"):
        measure_model(build(ATTENTION), small(context=10**13))


def test_random_weights_are_ordinary_numbers_of_the_true_size() -> None:
    block = Block(mixer=MAMBA2, ffn=Moe(num_experts=4, top_k=1, d_ff=256))
    architecture = Architecture(name="x", d_model=256, vocab_size=512, blocks=(block,))
    model = random_model(architecture, CPU, torch.float32)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert not ((parameter != 0) & (parameter.abs() < torch.finfo(torch.float32).tiny)).any(), name
        if parameter.numel() > STRETCH:
            assert 0.005 < parameter.std() < 0.1, name
    state = random_state(model, Workload(context=32))
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


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"contxt": 4}, r"no measure.contxt. Did you mean 'context'\?"),
        ({"context": "long"}, "measure.context must be a whole number of at least 1, but got 'long'"),
        ({"batch": 0}, "measure.batch must be a whole number of at least 1, but got 0"),
        ({"parameters": 2500000.5}, "measure.parameters must be a whole number of at least 1, but got 2500000.5"),
        ({"seconds": "few"}, "measure.seconds must be a number above zero, but got 'few'"),
        ({"depth": -1}, "measure.depth must be a number above zero, but got -1"),
        ({"dtype": "float31"}, r"no measure.dtype 'float31'. Did you mean 'float32'\?"),
        ({"parameters": None}, "measure.width must be given"),
        ({"depth_by": "magic"}, "depth_by must be stack or stretch"),
    ],
)
def test_a_mistake_in_the_deployment_is_one_sentence(config, says: str) -> None:
    with pytest.raises(WorkloadError, match=says):
        Deployment.from_config(config)


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    deployment = Deployment.from_config({"parameters": 3e7, "context": 8192})
    assert deployment.parameters == 30_000_000
    assert deployment.workload.context == 8192


@pytest.mark.parametrize("name", sorted(p.stem for p in CONF.glob("*.yaml")))
def test_shipped_deployments_parse(name: str) -> None:
    config = OmegaConf.to_container(
        OmegaConf.merge(OmegaConf.load(CONF / "model.yaml"), OmegaConf.load(CONF / f"{name}.yaml"))
    )
    assert isinstance(config, dict)
    config.pop("defaults", None)
    deployment = Deployment.from_config({str(key): value for key, value in config.items()})
    if name == "model":
        assert config["device"] == "${device}"
        assert replace(deployment, device="auto") == Deployment()
        fields = set(config)
        assert fields >= {"parameters", "context", "prompt", "batch", "dtype", "device", "seconds"}
