"""One task's copy of an architecture, trained and scored: what comes back, and that measuring is given way."""

import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from nas.architecture import Architecture, Attention, Block, Glu
from nas.measure import DeviceLock
from nas.study.task_training import Job, TaskTrainer
from nas.tasks import RecallTask
from nas.training import Recipe

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
