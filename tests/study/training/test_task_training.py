"""One task's copy of an architecture, trained and scored: what comes back, and that measuring is given way."""

import math
import pickle
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.architecture import Architecture, Attention, Block, Glu
from nas.compile import compile_architecture
from nas.measure import DeviceGone, DeviceLock
from nas.study.training import task_training
from nas.study.training.task_training import Job, NonFiniteScore, TaskTrainer, TookTooLong
from nas.tasks import RecallTask
from nas.tasks.base import Score
from nas.training import Recipe
from nas.training import loop as training_loop

ATTENTION = Attention(num_heads=1, head_dim=16, window=8)


@dataclass
class Lock:
    """A device's lock that remembers what was asked of it."""

    asked: list[str] = field(default_factory=list)

    def shared(self) -> "Lock":
        return self

    def __enter__(self) -> None:
        self.asked.append("take")

    def __exit__(self, *_: object) -> None:
        self.asked.append("put down")

    def give_way(self) -> None:
        self.asked.append("give way")


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Lock, list[int]]:
    lock, steps = Lock(), []
    task = RecallTask(sequence_length=16, num_pairs=2, vocab_size=16, easier=0, score_sequences=32)
    trainer = TaskTrainer(
        task=task,
        recipe=Recipe(tokens=3 * 4 * 16, batch_size=4),
        tokens=0.5,
        device="cpu",
        lock=lock,  # type: ignore[arg-type]
    )
    architecture = Architecture(d_model=16, vocab_size=99, blocks=(Block(mixer=ATTENTION, ffn=Glu(d_ff=16)),))
    outcome = trainer(Job(architecture=architecture, seed=0), lambda step, total, loss: steps.append(step))
    return outcome, lock, steps


def test_scores_say_that_they_were_scored(trained) -> None:
    scores = trained[0].scores
    assert set(scores) == {"recall", "recall_bits"}
    for score in scores.values():
        assert score.source == "scored"
        assert score.low <= score.value <= score.high
        assert score.n > 1


def test_the_network_has_the_vocabulary_of_its_task(trained) -> None:
    assert trained[0].weights["embedding.weight"].shape == (16, 16)
    assert all(tensor.device == torch.device("cpu") for tensor in trained[0].weights.values())
    assert trained[0].seconds > 0


def test_the_device_is_shared_and_left_to_who_measures_after_every_step(trained) -> None:
    _, lock, steps = trained
    assert steps == [1, 2, 3]
    assert lock.asked == ["take", "give way", "give way", "give way", "put down"]


def test_a_trainer_can_be_sent_to_a_process_of_its_own() -> None:
    task = RecallTask(sequence_length=16, num_pairs=2, vocab_size=16, easier=0, score_sequences=32)
    trainer = TaskTrainer(
        task=task, recipe=Recipe(tokens=64, batch_size=4), tokens=1.0, device="cpu", lock=DeviceLock("test")
    )
    assert pickle.loads(pickle.dumps(trainer)).recipe == trainer.recipe


def quick_trainer(steps: int) -> TaskTrainer:
    task = RecallTask(sequence_length=16, num_pairs=2, vocab_size=16, easier=0, score_sequences=32)
    recipe = Recipe(tokens=steps * 4 * 16, batch_size=4)
    return TaskTrainer(task=task, recipe=recipe, tokens=0.5, device="cpu", lock=Lock())  # type: ignore[arg-type]


ARCHITECTURE = Architecture(d_model=16, vocab_size=99, blocks=(Block(mixer=ATTENTION, ffn=Glu(d_ff=16)),))


def test_an_interrupted_training_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "RESUME_SECONDS", 0.0)
    trainer, steps = quick_trainer(8), []
    whole = trainer(Job(architecture=ARCHITECTURE, seed=3), lambda *_: None)
    job = Job(architecture=ARCHITECTURE, seed=3, checkpoints=tmp_path / "id")

    def interrupt(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(job, interrupt)
    assert [path.name for path in (tmp_path / "id").iterdir()] == ["recall-3.ckpt"]
    again = trainer(job, lambda step, total, loss: steps.append(step))
    assert steps == [5, 6, 7, 8]
    assert again.scores == whole.scores
    assert [path.name for path in (tmp_path / "id").iterdir()] == ["recall-3.done"]


def test_a_score_that_is_not_finite_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"recall": 0.5, "recall_bits": math.nan}
    scores = {name: Score(value=value, spread=0.0, n=1) for name, value in values.items()}
    monkeypatch.setattr(task_training, "evaluate", lambda *_, **__: scores)
    with pytest.raises(NonFiniteScore, match="recall_bits is nan after training; a lower learning rate may hold"):
        quick_trainer(1)(Job(architecture=ARCHITECTURE, seed=0), lambda *_: None)


def test_a_training_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(TookTooLong, match=r"training recall took longer than budget.trial_minutes=0.0001"):
        quick_trainer(10_000)(Job(architecture=ARCHITECTURE, seed=0, seconds=0.006), lambda *_: None)


def test_a_training_that_runs_out_of_memory_holds_none_while_its_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[weakref.ref[torch.nn.Module]] = []

    def remembered(*arguments: Any, **options: Any) -> torch.nn.Module:
        model = compile_architecture(*arguments, **options)
        models.append(weakref.ref(model))
        return model

    def run_out(step: int, total: int, loss: float) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(task_training, "compile_architecture", remembered)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        try:
            quick_trainer(2)(Job(architecture=ARCHITECTURE, seed=0), run_out)
        finally:
            assert [model() for model in models] == [None]


def test_a_training_whose_gpu_is_gone_says_so_and_gives_nothing_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(step: int, total: int, loss: float) -> None:
        raise RuntimeError("CUDA error: the GPU has fallen off the bus\nsecond line")

    monkeypatch.setattr(task_training, "release", lambda error: pytest.fail("the device was spoken to again"))
    with pytest.raises(DeviceGone, match=r"does not answer any more .CUDA error: the GPU has fallen off the bus."):
        quick_trainer(2)(Job(architecture=ARCHITECTURE, seed=0), die)


def test_a_training_that_ended_is_not_repeated_when_its_trial_is_taken_up_again(tmp_path: Path) -> None:
    trainer, steps = quick_trainer(3), []
    job = Job(architecture=ARCHITECTURE, seed=3, checkpoints=tmp_path / "id")
    first = trainer(job, lambda *_: None)
    again = trainer(job, lambda step, total, loss: steps.append(step))
    assert steps == [] and again.scores == first.scores and again.seconds == 0.0
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in first.weights.items())
    longer = quick_trainer(4)
    longer(job, lambda step, total, loss: steps.append(step))
    assert steps == [1, 2, 3, 4], "another recipe is another training"


def test_what_a_training_gave_is_given_up_where_its_file_is_torn_or_the_disk_is_full(tmp_path: Path) -> None:
    trainer, steps = quick_trainer(3), []
    job = Job(architecture=ARCHITECTURE, seed=3, checkpoints=tmp_path / "id")
    first = trainer(job, lambda *_: None)
    path = tmp_path / "id" / "recall-3.done"
    path.write_bytes(path.read_bytes()[:100])
    again = trainer(job, lambda step, total, loss: steps.append(step))
    assert steps == [1, 2, 3] and again.scores == first.scores
    (tmp_path / "full" / "recall-3.done.partial").mkdir(parents=True)
    nowhere = Job(architecture=ARCHITECTURE, seed=3, checkpoints=tmp_path / "full")
    noted = trainer(nowhere, lambda *_: None)
    assert noted.scores == first.scores
    assert any("could not be written to" in note and "it counts all the same" in note for note in noted.notes)


def test_who_is_killed_on_a_later_rung_takes_up_all_rungs_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training_loop, "RESUME_SECONDS", math.inf
    )  # no checkpoint but the branch, however long it takes
    recipe = Recipe(tokens=20 * 4 * 16, batch_size=4, schedule="wsd", warmup=0.1, decay=0.2)
    trainer = replace(quick_trainer(1), recipe=recipe)

    def rungs(folder: Path, on_step: Any) -> list[Any]:
        jobs = (Job(architecture=ARCHITECTURE, seed=3, checkpoints=folder, share=share) for share in (0.25, 1.0))
        return [trainer(job, on_step).scores for job in jobs]

    def stop_at_18(step: int, total: int, loss: float) -> None:
        if (step, total) == (18, 20):  # beyond where the decay of the last rung begins
            raise KeyboardInterrupt

    whole = rungs(tmp_path / "whole", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        rungs(tmp_path / "killed", stop_at_18)
    steps: list[tuple[int, int]] = []
    assert rungs(tmp_path / "killed", lambda step, total, loss: steps.append((step, total))) == whole
    assert steps == [(step, 20) for step in range(17, 21)], "the first rung is over, the last goes on from its branch"
    with pytest.raises(KeyboardInterrupt):
        rungs(tmp_path / "poor", stop_at_18)
    for path in (tmp_path / "poor").glob("*.done"):  # as where they could not be written
        path.unlink()
    assert rungs(tmp_path / "poor", lambda *_: None) == whole
