"""The deployment: every searched choice reaches it, and every mistake in its configuration is one sentence."""

import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from optuna.trial import FixedTrial

from nas.architecture import canonical_id
from nas.count import CannotMatch, count_parameters, deployed, match_parameters
from nas.deployment import Deployment
from nas.devices import described_devices
from nas.workload import Workload, WorkloadError
from scripts.settings import SearchSettings
from search_spaces import SPACES

CONF = Path(__file__).parents[1] / "conf" / "measure"
SETTINGS = {name: SearchSettings.from_overrides([f"search_space={name}"]) for name in SPACES}
LAYOUTS = [
    ("hybrid", "free"),
    ("hybrid", "tiled"),
    ("hybrid", "staged"),
    ("pattern", None),
    ("head_mix", None),
    ("linear", None),
]


class RandomTrial:
    """Draws every choice from a seed, except those that are given; remembers choices and what they were among."""

    def __init__(self, seed: int, given: dict[str, Any] | None = None) -> None:
        self.random = random.Random(seed)
        self.given = given or {}
        self.params: dict[str, Any] = {}
        self.choices: dict[str, list[Any]] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.choices[name] = list(choices)
        drawn = self.random.choice(list(choices))
        self.params[name] = self.given.get(name, drawn)
        return self.params[name]


def deployed_id(settings: SearchSettings, trial: Any) -> str:
    proxy = match_parameters(settings.space(trial), settings.space.params, tolerance=1.0)
    return canonical_id(deployed(proxy, settings.deployment))


@pytest.mark.parametrize(("space", "layout"), LAYOUTS)
def test_changing_any_searched_choice_changes_the_deployed_architecture(space, layout):
    overrides = [f"search_space={space}", "search_space.params=2000000", "measure.parameters=60000000"]
    settings = SearchSettings.from_overrides(overrides + ([f"search_space.layout={layout}"] if layout else []))
    changed: set[str] = set()
    for seed in range(12):
        trial = RandomTrial(seed)
        try:
            before = deployed_id(settings, trial)
        except CannotMatch:
            continue
        for name, choices in trial.choices.items():
            kind = name.rsplit(".", 1)[-1]
            if kind.startswith("period") or kind in changed or len(choices) < 2:
                continue
            other = next(c for c in choices if c != trial.params[name])
            try:
                after = deployed_id(settings, RandomTrial(seed, {**trial.params, name: other}))
            except CannotMatch:
                continue
            assert after != before, f"{name}: {trial.params[name]} -> {other} is lost at the deployment"
            changed.add(kind)
    assert {"num_layers", "d_model"} & changed or space != "hybrid"
    assert len(changed) >= 5


@pytest.mark.parametrize("design", [d.name for d in SETTINGS["hybrid"].designs])
def test_reference_designs_are_matched_at_the_proxy_and_at_the_deployment(design):
    settings = SETTINGS["hybrid"]
    params = dict(settings.space.references(settings.designs))[design]
    proxy = match_parameters(settings.space(FixedTrial(params)), settings.space.params)
    large = deployed(proxy, settings.deployment)
    assert count_parameters(proxy) == pytest.approx(settings.space.params, rel=0.03)
    assert count_parameters(large) == pytest.approx(settings.deployment.parameters, rel=0.03)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"contxt": 4}, r"no measure.contxt. Did you mean 'context'\?"),
        ({"quantities": ["decode_latency_ms"]}, r"no measure.quantities\."),
        ({"context": "long"}, "measure.context must be a whole number of at least 1, but got 'long'"),
        ({"context": 2**25}, "measure.context must be at most 16,777,216 tokens, because rotary positions"),
        ({"prompt": 2**24}, r"measure.prompt \+ measure.new_tokens must be at most 16,777,216 tokens"),
        ({"batch": 0}, "measure.batch must be a whole number of at least 1, but got 0"),
        ({"parameters": 2500000.5}, "measure.parameters must be a whole number of at least 1, but got 2500000.5"),
        ({"threads": 0}, "measure.threads must be a whole number of at least 1, but got 0"),
        ({"seconds": "few"}, "measure.seconds must be a number above zero, but got 'few'"),
        ({"block_seconds": 0}, "measure.block_seconds must be a number above zero, but got 0"),
        ({"spread": float("nan")}, "measure.spread must be a number above zero, but got nan"),
        ({"depth": -1}, "measure.depth must be a number above zero, but got -1"),
        ({"dtype": "float31"}, r"no measure.dtype 'float31'. Did you mean 'float32'\?"),
        ({"method": "tables"}, r"no measure.method 'tables'. Did you mean 'table'\?"),
        ({"cost_model": "rooflin"}, r"no measure.cost_model 'rooflin'. Did you mean 'roofline'\?"),
        ({"cost_model": ["own"]}, r"no measure.cost_model \['own'\]"),
        ({"busy": "ignore"}, "no measure.busy 'ignore'"),
        ({"table": 3}, "measure.table must be the path of a table, or null, but got 3"),
        ({"parameters": None}, "measure.width must be given"),
        ({"depth_by": "magic"}, "depth_by must be stack or stretch"),
        ({"workloads": ["serving"]}, r"no workload 'serving'. Did you mean 'serve'\?"),
        ({"workloads": []}, "measure.workloads must name at least one workload"),
        ({"device": "h20"}, r"measure.device must be .*, but got 'h20'. Did you mean 'h200'\?"),
        ({"device": 3}, "measure.device must be auto, cpu, cuda, cuda:<number> or a described device, but got 3"),
        ({"device": ["cpu"]}, r"measure.device must be .*, but got \['cpu'\]"),
        ({"device": {"tflops": 989, "memory": 141}}, "measure.device must give .* but bandwidth is missing"),
        ({"device": {"tflops": 1, "memory": 1, "bandwidth": "fast"}}, "measure.device.bandwidth must be a number"),
        ({"device": "h200"}, "NVIDIA H200 is described, not at hand, so nothing can be measured on it"),
        ({"device": "h200", "cost_model": "best"}, "take measure.cost_model=roofline, or measure=table"),
        ({"device": "h200", "method": "auto"}, "so its front cannot be measured: take measure=table"),
    ],
)
def test_a_mistake_in_the_deployment_is_one_sentence(config: dict[str, Any], says: str) -> None:
    with pytest.raises(WorkloadError, match=says) as caught:
        Deployment.from_config(config)
    assert "\n" not in str(caught.value)


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    deployment = Deployment.from_config({"parameters": 3e7, "context": 8192.0, "spread": 1})
    assert deployment.parameters == 30_000_000
    assert deployment.workload.context == 8192
    assert isinstance(deployment.parameters, int) and isinstance(deployment.workload.context, int)


def test_what_is_timed_follows_the_workloads() -> None:
    deployment = Deployment.from_config({"workloads": ["decode"], "batch": 3, "context": 99})
    assert deployment.quantities == ("decode_latency_ms", "batched_decode_latency_ms")
    assert deployment.workload == Workload(batch=3, context=99)


def test_what_an_objective_needs_is_timed_beside_the_workloads() -> None:
    asked = Deployment().asked_for(["text_loss", "sequence_bytes", "decode_latency_ms", "time_to_first_token_ms"])
    assert asked.quantities == ("time_to_first_token_ms", "time_per_output_token_ms", "decode_latency_ms")
    assert Deployment().asked_for(["train_peak_memory_bytes"]).quantities[-1] == "train_step_ms"
    assert Deployment().asked_for(["recall"]) == Deployment()
    training = Deployment(quantities=("train_step_ms",))
    assert training.asked_for(["peak_memory_bytes"]).served == Deployment().quantities
    assert training.asked_for(["train_peak_reserved_bytes"]) == training


@pytest.mark.parametrize("name", ["peak_reserved_bytes", "train_peak_reserved_bytes", "saved_for_backward_bytes"])
def test_what_only_a_whole_network_shows_is_asked_of_no_table_and_of_no_description(name: str) -> None:
    Deployment().asked_for([name])
    described = {"device": "h200", "cost_model": "roofline"}
    for config in ({"method": "table"}, {"method": "auto"}, described):
        with pytest.raises(WorkloadError, match=f"{name} is known of whole networks .* take measure=model"):
            Deployment.from_config(config).asked_for([name])


def test_a_device_is_at_hand_or_described_by_name_or_by_numbers() -> None:
    for name in ("auto", "cpu", "cuda", "cuda:1"):
        assert Deployment.from_config({"device": name}).spec is None
    named = Deployment.from_config({"device": "h200", "cost_model": "roofline"})
    assert named.spec == described_devices()["h200"]
    numbers = {"tflops": 989, "bandwidth": 4800, "memory": 141}
    described = Deployment.from_config({"device": numbers, "method": "table"})
    assert described.spec is not None
    assert (described.spec.tflops["bfloat16"], described.spec.bandwidth, described.spec.memory) == (989, 4800, 141)
    assert described.device == "described"
    assert named.is_estimate and not described.is_estimate


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_shipped_deployments_parse(name: str) -> None:
    merged = OmegaConf.merge(OmegaConf.load(CONF / "model.yaml"), OmegaConf.load(CONF / f"{name}.yaml"))
    whole = OmegaConf.to_container(OmegaConf.create({"device": "auto", "measure": merged}), resolve=True)
    assert isinstance(whole, dict)
    config = {str(key): value for key, value in whole["measure"].items() if key != "defaults"}
    assert replace(Deployment.from_config(config), method="model") == Deployment()
    assert Deployment.from_config(config).method == name
    inner = {field.name for cls in (Deployment, Workload) for field in fields(cls)}
    assert set(config) == inner - {"workload", "quantities", "spec"} | {"workloads"}
