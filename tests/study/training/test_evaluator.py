"""The ladder's stages on real architectures, with a meter and trainers that answer at once."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from nas.architecture import Architecture, Attention, Block, Glu, canonical_id
from nas.count import count_parameters
from nas.deployment import Deployment
from nas.measure import DeviceBusy, DeviceGone, DoesNotFit, Measured, NotInTable
from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.study.candidate import Candidate, CannotGoOn, Rejected
from nas.study.training.evaluator import ProxyEvaluator
from nas.study.training.outcomes import Outcome
from nas.study.training.task_training import Job
from nas.workload import Workload
from tests.study.toys import Silent

PROXY = Architecture(
    name="proxy",
    d_model=32,
    vocab_size=64,
    blocks=(Block(mixer=Attention(num_heads=2, head_dim=16), ffn=Glu(d_ff=64)),) * 2,
)
DEPLOYMENT = Deployment(parameters=300_000, vocab_size=128, workload=Workload(prompt=8, new_tokens=56), device="cpu")


def ms(value: float) -> Measurement:
    return Measurement(value=value, unit="ms", low=value, high=value, n=9)


@dataclass
class FakeMeter:
    """Answers with a time under each cost model, or raises what it is given."""

    error: Exception | None = None
    confirms: bool = True
    asked: list[Architecture] = field(default_factory=list)

    def measure(self, architecture: Architecture) -> Measured:
        self.asked.append(architecture)
        if self.error is not None:
            raise self.error
        costs: Any = {name: {"decode_latency_ms": ms(time)} for name, time in [("own", 3.0), ("best", 2.0)]}
        return Measured(numbers={"decode_latency_ms": ms(3.0)}, costs=costs)

    def confirm(self, architecture: Architecture) -> Measured | None:
        return self.measure(architecture) if self.confirms else None

    def describe(self) -> dict[str, Any]:
        return {"costs": "made up"}


@dataclass
class FakeTask:
    name: str


@dataclass
class FakeTrainer:
    """Trains in no time and says how long that took."""

    metric: str
    seconds: float

    @property
    def task(self) -> FakeTask:
        return FakeTask(self.metric)

    def __call__(self, job: Any, on_step: Any) -> Outcome:
        on_step(1, 1, 0.5)
        score = Measurement(value=job.seed + 0.5, unit="bits/byte", low=0.0, high=9.0, n=3, source="scored")
        return Outcome(scores={self.metric: score}, weights={self.metric: torch.ones(2)}, seconds=self.seconds)


def evaluator(meter: FakeMeter | None = None, parameters: int | None = None) -> ProxyEvaluator:
    trainers: Any = {"text": FakeTrainer("text_loss", 2.0), "recall": FakeTrainer("recall", 3.0)}
    return ProxyEvaluator(
        trainers=trainers,
        deployment=DEPLOYMENT,
        meter=meter or FakeMeter(),
        parameters=parameters,
        task_configs={"text": {"dataset": "toy"}, "recall": {}},
    )


def test_a_sample_is_matched_as_a_proxy_and_again_as_a_deployment() -> None:
    candidate = evaluator(parameters=20_000).admit(PROXY)
    assert count_parameters(candidate.architecture) == pytest.approx(20_000, rel=0.03)
    assert count_parameters(candidate.deployed) == pytest.approx(300_000, rel=0.03)
    assert evaluator().admit(PROXY).architecture is PROXY


def test_what_cannot_be_matched_is_rejected_under_its_own_heading() -> None:
    with pytest.raises(Rejected, match="alone take") as caught:
        evaluator(parameters=1000).admit(PROXY)
    assert caught.value.kind == "parameter matching"


def test_costs_are_those_of_the_deployment_under_every_cost_model() -> None:
    meter = FakeMeter()
    ladder = evaluator(meter)
    candidate = ladder.admit(PROXY)
    ladder.count(candidate)
    ladder.measure(candidate)
    assert meter.asked == [candidate.deployed]
    assert candidate.counts.parameters == count_parameters(candidate.deployed)
    assert candidate.costs == {"own": {"decode_latency_ms": 3.0}, "best": {"decode_latency_ms": 2.0}}
    assert OBJECTIVES["decode_latency_ms"](candidate).value == 3.0
    assert OBJECTIVES["sequence_bytes"](candidate).source == "counted"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DoesNotFit("x needs 9 bytes more than cpu has free."), "memory"),
        (NotInTable("the table of y lacks 3 blocks"), "blocks that the table lacks"),
    ],
)
def test_what_cannot_be_deployed_is_rejected_with_the_reason(error: Exception, kind: str) -> None:
    ladder = evaluator(FakeMeter(error))
    candidate = ladder.admit(PROXY)
    for stage in (ladder.measure, ladder.confirm):
        with pytest.raises(Rejected) as caught:
            stage(candidate)
        assert (str(caught.value), caught.value.kind) == (str(error), kind)


@pytest.mark.parametrize("error", [DeviceBusy("others use cpu"), DeviceGone("cuda:0 does not answer any more")])
def test_a_device_that_is_busy_or_gone_is_not_held_against_the_architecture(error: Exception) -> None:
    ladder = evaluator(FakeMeter(error))
    candidate = ladder.admit(PROXY)
    for stage in (ladder.measure, ladder.confirm):
        with pytest.raises(CannotGoOn, match=str(error)):
            stage(candidate)


def test_what_else_breaks_while_measuring_is_not_hidden() -> None:
    ladder = evaluator(FakeMeter(ZeroDivisionError("a mistake of ours")))
    with pytest.raises(ZeroDivisionError):
        ladder.measure(ladder.admit(PROXY))


def test_confirming_replaces_a_prediction_where_the_meter_measures() -> None:
    for confirms in (True, False):
        ladder = evaluator(FakeMeter(confirms=confirms))
        candidate = Candidate(architecture=PROXY, deployed=PROXY)
        assert ladder.confirm(candidate) is confirms
        assert bool(candidate.measurements) is confirms


def test_tasks_trained_one_after_the_other_take_the_sum_of_their_seconds() -> None:
    ladder = evaluator()
    candidate = ladder.admit(PROXY)
    ladder.train(candidate, 1, Silent())
    assert candidate.train_seconds == 5.0
    assert {name: score.value for name, score in candidate.scores.items()} == {"text_loss": 1.5, "recall": 1.5}
    assert list(candidate.weights) == ["text_loss"], "the first task's weights are kept"


def test_tasks_trained_side_by_side_take_as_long_as_the_slowest() -> None:
    class Workers:
        def train(self, job: Any, on_step: Any) -> dict[str, Outcome]:
            return {name: trainer(job, lambda *_: None) for name, trainer in ladder.trainers.items()}

    ladder = evaluator()
    ladder.workers = Workers()  # type: ignore[assignment]
    candidate = ladder.admit(PROXY)
    ladder.train(candidate, 0, Silent())
    assert candidate.train_seconds == 3.0


def test_weights_are_kept_with_their_task_and_its_settings(tmp_path) -> None:
    ladder = evaluator()
    candidate = ladder.admit(PROXY)
    ladder.train(candidate, 0, Silent())
    ladder.save(candidate, str(tmp_path / "one"))
    with safe_open(str(tmp_path / "one.safetensors"), "pt") as stored:
        metadata = stored.metadata()
    assert metadata["task"] == "text_loss"
    assert json.loads(metadata["task_config"]) == {"dataset": "toy"}
    assert metadata["recall"] == "0.5 bits/byte"


@pytest.mark.parametrize(
    ("error", "left"), [(None, True), (FloatingPointError("nan"), False), (KeyboardInterrupt(), True)], ids=str
)
def test_what_breaks_leaves_nothing_to_go_on_from_and_all_else_until_its_row_is_stored(
    error: BaseException | None, left: bool, tmp_path: Path
) -> None:
    ladder = replace(evaluator(), checkpoints=tmp_path, trial_seconds=60.0)
    jobs: list[Job] = []

    def train(job: Job, on_step: Any) -> Outcome:
        jobs.append(job)
        assert job.checkpoints is not None
        job.checkpoints.mkdir()
        if error is not None:
            raise error
        return Outcome(scores={}, weights={}, seconds=1.0, notes=("the disk is full",))

    ladder.trainers = {"text": train}  # type: ignore[dict-item]
    observer = Silent()
    with nullcontext() if error is None else pytest.raises(type(error)):
        ladder.train(ladder.admit(PROXY), 0, observer)
    assert [path.name for path in tmp_path.iterdir()] == ([canonical_id(PROXY)] if left else [])
    ladder.let_go(canonical_id(PROXY), ended=True)
    assert list(tmp_path.iterdir()) == []
    assert jobs[0].seconds == 60.0
    assert observer.messages == (["the disk is full"] if error is None else [])


def test_a_row_on_a_rung_keeps_what_a_longer_training_goes_on_from_and_nothing_else(tmp_path: Path) -> None:
    ladder = replace(evaluator(), checkpoints=tmp_path)
    (tmp_path / "one").mkdir()
    for name in ("text-0-0.25.done", "recall-0-0.25.done", "text-0-stable.ckpt"):
        (tmp_path / "one" / name).touch()
    ladder.let_go("one", ended=False)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["text-0-stable.ckpt"]


def test_work_that_hangs_in_this_process_is_told_and_what_ends_is_not() -> None:
    told: list[str] = []
    hangs = Event()

    def on_hang(reason: str) -> None:
        told.append(reason)
        hangs.set()

    ladder = replace(evaluator(), trial_seconds=60.0, on_hang=on_hang)
    ladder.train(ladder.admit(PROXY), 0, Silent())

    def hang(*_: Any) -> Any:
        assert hangs.wait(300), "nobody noticed"
        raise FloatingPointError("let go")

    ladder.trainers, ladder.trial_seconds = {"text": hang}, 0.05  # type: ignore[dict-item]
    with pytest.raises(FloatingPointError):
        ladder.train(ladder.admit(PROXY), 0, Silent())
    assert len(told) == 1 and told[0].startswith("TookTooLong: training text took longer than budget.trial_minutes=")

    hangs.clear()
    ladder.meter = SimpleNamespace(measure=hang)  # type: ignore[assignment]
    with pytest.raises(FloatingPointError):
        ladder.measure(ladder.admit(PROXY))
    assert len(told) == 2 and told[1].startswith("TookTooLong: measuring took longer than budget.trial_minutes=")


def test_a_gpu_that_is_gone_while_training_is_not_held_against_the_architecture(tmp_path: Path) -> None:
    ladder = replace(evaluator(), checkpoints=tmp_path)

    def train(job: Job, on_step: Any) -> Outcome:
        assert job.checkpoints is not None
        job.checkpoints.mkdir()
        raise DeviceGone("cuda does not answer any more")

    ladder.trainers = {"text": train}  # type: ignore[dict-item]
    with pytest.raises(CannotGoOn, match="cuda does not answer"):
        ladder.train(ladder.admit(PROXY), 0, Silent())
    assert [path.name for path in tmp_path.iterdir()] == [canonical_id(PROXY)], "it goes on from its checkpoint"
