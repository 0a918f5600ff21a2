"""The run loop in several processes on one study: nothing twice, nothing lost, the total respected."""

import multiprocessing
import os
import signal
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from nas.study.storage.studies import open_study
from nas.study.trials import PROXY, RETRY_OF, WORKER, note_start
from tests.study.toys import OBJECTIVES, FreeEvaluator, run_toy, space

TOTAL = 12


def work(directory: Path, seed: int, dies_at: int | None, gate: Any) -> None:
    """One worker; it kills itself in the training after so many."""
    trained = 0

    def on_train(name: str) -> None:
        nonlocal trained
        time.sleep(0.15)
        if trained == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        trained += 1

    gate.wait(60)
    run_toy(directory, trials=TOTAL, evaluator=FreeEvaluator(on_train=on_train), seed=seed, patience=500)


def run_workers(directory: Path, dies_at: int | None) -> list[int | None]:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(3)
    arguments = [(directory, seed, dies_at if seed == 0 else None, gate) for seed in range(3)]
    processes = [context.Process(target=work, args=own) for own in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("dies_at", [None, 1], ids=["all live", "one is killed"])
def test_workers_share_the_total_and_train_nothing_twice(tmp_path: Path, dies_at: int | None) -> None:
    assert run_workers(tmp_path, dies_at) == [0 if dies_at is None else -signal.SIGKILL, 0, 0]
    loop = run_toy(tmp_path, trials=TOTAL)
    trials = loop.study.trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == TOTAL and loop.evaluator.trained == [], "the workers had finished the study"
    assert len({trial.user_attrs[PROXY] for trial in complete}) == TOTAL
    assert len({trial.user_attrs[WORKER] for trial in complete}) >= 2, "more than one has worked"
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    interrupted = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    assert len(interrupted) == (0 if dies_at is None else 1)
    assert [trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs] == interrupted
    kept = {path.stem for path in (tmp_path / "architectures").glob("*.safetensors")}
    front = {row.id for row in loop.rows if row.number in loop.bars.members(loop.rows)}
    assert kept == front, "weights of the front, and of nothing else"


def hang(directory: Path) -> None:
    """One worker whose third training never ends."""
    evaluator = FreeEvaluator()

    def on_train(name: str) -> None:
        if len(evaluator.trained) == 3:
            threading.Timer(0.05, evaluator.on_hang, ["TookTooLong: it hangs"]).start()
            time.sleep(600)

    evaluator.on_train = on_train
    run_toy(directory, trials=6, evaluator=evaluator)


def test_a_worker_whose_training_hangs_ends_and_its_trial_is_failed_and_not_tried_again(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hang, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 1
    loop = run_toy(tmp_path, trials=4)
    (failed,) = [row for row in loop.rows if row.state == "failed"]
    assert (failed.number, failed.reason) == (2, "TookTooLong: it hangs")
    assert not [trial for trial in loop.study.trials if RETRY_OF in trial.user_attrs]
    assert loop.done == 4


def test_who_has_nothing_new_to_train_takes_up_what_a_killed_worker_left(tmp_path: Path) -> None:
    evaluator = FreeEvaluator()

    def on_train(name: str) -> None:
        if len(evaluator.trained) == 15:  # another takes the last architecture, and is killed
            other = open_study(tmp_path, "toy", OBJECTIVES, {"search_space": {"mixers": ["a", "m"]}}, None)
            (left,) = {*map("".join, product("am", repeat=4))} - {n for n, _ in evaluator.trained}
            other.enqueue_trial({f"layers.{i}.mixer": {"a": "attention", "m": "mamba2"}[m] for i, m in enumerate(left)})
            trial = other.ask()
            note_start(trial, space(trial))
            trial.set_user_attr(WORKER, "killed")

    evaluator.on_train = on_train
    loop = run_toy(tmp_path, trials=16, evaluator=evaluator, sampler="brute_force")
    assert loop.done == 16 and len({name for name, _ in evaluator.trained}) == 16
    assert len([trial for trial in loop.study.trials if RETRY_OF in trial.user_attrs]) == 1
