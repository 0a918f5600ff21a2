"""The run loop in several processes on one study: nothing twice, nothing lost, the total respected."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from nas.architecture import canonical_id
from nas.measure.child import started
from nas.measurement import Measurement
from nas.study.candidate import Candidate
from nas.study.rungs import Fidelity
from nas.study.storage.studies import close_study, open_study
from nas.study.trials import PROXY, RETRY_OF, WORKER, note_start
from tests.patience import PATIENCE, exit_codes
from tests.study.postgresql import running_server
from tests.study.toys import OBJECTIVES, FreeEvaluator, Silent, run_toy, space

WORKERS = 4
TRAINED = "trained.txt"
STEPS = "steps.txt"
GIVEN_UP = "given_up.txt"
RUNGS = Fidelity(shares=(0.25, 1.0), decay=0.2)


class GoesOn(FreeEvaluator):
    """Trains on from what lies in a folder that all workers share, and writes down from where to where."""

    def __init__(self, directory: Path, on_train: Any = None) -> None:
        super().__init__(on_train=on_train)
        self.directory = directory

    def kept(self, identity: str) -> Path:
        return self.directory / f"{identity}.share"

    def train(self, candidate: Candidate, seed: int, observer: Any, share: float = 1.0) -> None:
        identity = canonical_id(candidate.architecture)
        kept = self.kept(identity)
        begun = float(kept.read_text()) if kept.exists() else 0.0
        super().train(candidate, seed, observer, share)
        candidate.scores["text_loss"] = Measurement.exact(candidate.scores["text_loss"].value + 1 - share, "bits/byte")
        if begun < share:  # else the trial of who was killed after it
            kept.write_text(str(share))
            with (self.directory / STEPS).open("a") as file:
                file.write(f"{candidate.architecture.name} {begun} {share} {identity}\n")

    def let_go(self, identity: str, *, ended: bool) -> None:
        kept = self.kept(identity)
        if ended and kept.exists():
            if float(kept.read_text()) < 1:
                with (self.directory / GIVEN_UP).open("a") as file:
                    file.write(f"{identity}\n")
            kept.unlink()


def work(
    directory: Path,
    storage: str | None,
    total: int,
    seed: int,
    dies_at: int | None,
    signs: tuple[Any, Any],
    fidelity: Fidelity | None = None,
) -> None:
    """One worker, which writes down what it has trained; it kills itself in the training after so many.

    signs: a barrier, at which all meet in their first training, and an event: once that is set, nobody is to be killed
    any more, and who ends a second training waits for it. So each has its share, however fast the others are.
    """
    gate, is_over = signs
    trained = 0

    def on_train(name: str) -> None:
        nonlocal trained
        if trained == 0:
            gate.wait(PATIENCE)
        time.sleep(0.15)
        if trained == dies_at:
            is_over.set()
            os.kill(os.getpid(), signal.SIGKILL)
        if trained == 1:
            assert is_over.wait(PATIENCE)
        trained += 1
        with (directory / TRAINED).open("a") as file:
            file.write(f"{name}\n")

    gate.wait(PATIENCE)
    evaluator = FreeEvaluator(on_train=on_train) if fidelity is None else GoesOn(directory, on_train)
    options: dict[str, Any] = {"storage": storage, "fidelity": fidelity}
    run_toy(directory, trials=total, evaluator=evaluator, seed=seed, patience=500, **options)


def run_workers(
    directory: Path, storage: str | None, total: int, dies_at: int | None, fidelity: Fidelity | None = None
) -> list[int | None]:
    context = multiprocessing.get_context("forkserver")
    signs = context.Barrier(WORKERS), context.Event()
    if dies_at is None:
        signs[1].set()
    deaths = [dies_at, *[None] * (WORKERS - 1)]
    arguments = [(directory, storage, total, seed, death, signs, fidelity) for seed, death in enumerate(deaths)]
    return exit_codes([started(work, *own) for own in arguments])


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """A storage of its own: a journal, or a server that ends with the test."""
    if request.param == "journal":
        yield None
    else:
        with running_server() as server:
            yield server.url


@pytest.mark.parametrize(
    ("storage", "total", "dies_at"),
    [("journal", 12, None), ("journal", 12, 1), ("postgresql", 6, 0)],
    ids=["journal, all live", "journal, one is killed", "PostgreSQL, one is killed"],
    indirect=["storage"],
)
def test_workers_share_the_total_lose_nothing_and_train_nothing_twice(
    tmp_path: Path, storage: str | None, total: int, dies_at: int | None
) -> None:
    codes = run_workers(tmp_path, storage, total, dies_at)
    assert codes == [0 if dies_at is None else -signal.SIGKILL, *[0] * (WORKERS - 1)]
    evaluator = FreeEvaluator()
    loop = run_toy(tmp_path, trials=total, evaluator=evaluator, storage=storage)
    trials = loop.study.trials
    close_study(loop.study)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == total and evaluator.trained == [], "the workers had finished the study"
    assert len({trial.user_attrs[PROXY] for trial in complete}) == total
    names = sorted(row.architecture.name for row in loop.rows if row.state == "complete")
    assert names == sorted((tmp_path / TRAINED).read_text().split()), "each is in the study that was trained to its end"
    lives = WORKERS if dies_at != 0 else WORKERS - 1
    assert len({trial.user_attrs[WORKER] for trial in complete}) >= lives, "each has worked that had the time"
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    interrupted = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    assert len(interrupted) == (0 if dies_at is None else 1)
    assert [trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs] == interrupted
    kept = {path.stem for path in (tmp_path / "architectures").glob("*.safetensors")}
    front = {row.id for row in loop.rows if row.number in loop.bars.members(loop.rows)}
    assert kept == front, "weights of the front, and of nothing else"


def test_workers_on_rungs_go_on_from_what_any_of_them_trained_and_share_the_total(tmp_path: Path) -> None:
    total = 6
    codes = run_workers(tmp_path, None, total, 1, RUNGS)
    assert codes == [-signal.SIGKILL, *[0] * (WORKERS - 1)]
    evaluator = GoesOn(tmp_path)
    loop = run_toy(tmp_path, trials=total, evaluator=evaluator, fidelity=RUNGS)
    trials = loop.study.trials
    close_study(loop.study)
    assert evaluator.trained == [], "the workers had finished the study"
    assert total - RUNGS.cost(1, 1) < loop.spent <= total + 1e-9
    steps = [line.split() for line in (tmp_path / STEPS).read_text().splitlines()]
    given_up = (tmp_path / GIVEN_UP).read_text().split() if (tmp_path / GIVEN_UP).exists() else []
    ways = {(begun, share) for _, begun, share, identity in steps if identity not in given_up}
    assert ways == {("0.0", "0.25"), ("0.25", "1.0")}, "nothing begins again but what was too far behind to be kept"
    trained = sorted((name, float(share)) for name, _, share, _ in steps)
    assert len(trained) == len(set(trained)), "nothing is trained twice"
    assert trained == sorted((row.architecture.name, rung.share) for row in loop.rows for rung in row.rungs)
    assert [row for row in loop.rows if row.promoted_from is not None], "somebody went on"
    assert len({trial.user_attrs[WORKER] for trial in trials if trial.state == TrialState.COMPLETE}) >= 2
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    interrupted = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    assert len(interrupted) == 1
    assert [trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs] == interrupted


def hang(directory: Path) -> None:
    """One worker whose third training never ends."""
    evaluator = FreeEvaluator()

    def on_train(name: str) -> None:
        if len(evaluator.trained) == 3:
            threading.Timer(0.05, evaluator.on_hang, ["TookTooLong: it hangs"]).start()
            time.sleep(2 * PATIENCE)

    evaluator.on_train = on_train
    run_toy(directory, trials=6, evaluator=evaluator)


def test_a_worker_whose_training_hangs_ends_and_its_trial_is_failed_and_not_tried_again(tmp_path: Path) -> None:
    assert exit_codes([started(hang, tmp_path)]) == [1]
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
    assert isinstance(loop.observer, Silent)
    assert "1 interrupted trials, of workers that are gone, are taken up again" in loop.observer.messages
    assert loop.done == 16 and len({name for name, _ in evaluator.trained}) == 16
    assert len([trial for trial in loop.study.trials if RETRY_OF in trial.user_attrs]) == 1
