"""The lock of a device: training steps of other processes and measurements never overlap, and nobody starves."""

import fcntl
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.measure import lock as lock_module
from nas.measure.child import started
from nas.measure.lock import DeviceLock
from nas.workload import WorkloadError
from tests.patience import wait_until

STEP = 0.02


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceLock:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return DeviceLock("cpu")


def train(lock: DeviceLock, pipe: Connection, count: Any) -> None:
    """Steps of 20 ms under the shared lock until told to stop, counted; sends when each began and ended."""
    steps = []
    with lock.shared():
        while not pipe.poll():
            begun = time.monotonic()
            time.sleep(STEP)
            steps.append((begun, time.monotonic()))
            count.value += 1
            lock.give_way()
    assert pipe.recv() == "stop"
    pipe.send(steps)
    with lock.shared():
        pipe.send("waiting to be killed")
        pipe.poll(None)


def test_no_training_step_overlaps_a_measurement_in_another_process(
    lock: DeviceLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = watched_gates(lock, monkeypatch)
    context = multiprocessing.get_context("forkserver")
    pipes, counts = [context.Pipe() for _ in range(2)], [context.Value("i", 0) for _ in range(2)]
    trainers = [started(train, lock, theirs, count) for (_, theirs), count in zip(pipes, counts, strict=True)]
    measurements = []
    for _ in range(5):
        before = [count.value for count in counts]
        for count, seen in zip(counts, before, strict=True):
            wait_until(lambda count=count, seen=seen: count.value >= seen + 2, "both train between measurements too")
        with lock.exclusive():
            begun = time.monotonic()
            time.sleep(0.05)
            measurements.append((begun, time.monotonic()))
    steps = []
    for ours, _ in pipes:
        ours.send("stop")
        steps.append(ours.recv())
        assert ours.recv() == "waiting to be killed"
    assert not [(s, m) for s in chain(*steps) for m in measurements if s[0] < m[1] and m[0] < s[1]]
    # Who looked at the gate just before it was shut takes one more step, and nobody two.
    for gate, (begun, _) in zip(shut, measurements, strict=True):
        assert all(sum(gate < step[0] < begun for step in of_one) <= 1 for of_one in steps)

    for trainer in trainers:
        assert trainer.pid
        os.kill(trainer.pid, signal.SIGKILL)
    with lock.exclusive():  # held by nobody any more
        pass
    for trainer in trainers:
        trainer.join()


def watched_gates(lock: DeviceLock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When this thread had shut the gate of the lock, each time."""
    shut: list[float] = []

    def flock(file: int, mode: int) -> None:
        fcntl.flock(file, mode)
        if mode == fcntl.LOCK_EX and file == lock.hold().gate:
            shut.append(time.monotonic())

    monkeypatch.setattr(lock_module, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    return shut


def test_who_wants_the_device_alone_keeps_newcomers_out(lock: DeviceLock) -> None:
    order: list[str] = []

    def measure() -> None:
        with lock.exclusive():
            order.append("measure")

    def newcomer() -> None:
        with lock.shared():
            order.append("newcomer")

    threads = [threading.Thread(target=measure), threading.Thread(target=newcomer)]
    with lock.shared():
        threads[0].start()
        wait_until(lock.hold().is_gate_shut, "somebody wants the device alone")
        threads[1].start()
        time.sleep(0.1)  # in which the newcomer would come in if it could
        assert order == []
        lock.give_way()
        assert order[0] == "measure"
    for thread in threads:
        thread.join()
    assert order == ["measure", "newcomer"]


def test_a_worker_holds_its_lock_once(lock: DeviceLock) -> None:
    again = DeviceLock("cpu")
    with lock.exclusive(), again.exclusive(), again.shared():
        again.give_way()
        assert again.hold().mode == "exclusive"
    with lock.shared(), again.shared():
        with again.exclusive(), lock.shared():
            assert lock.hold().mode == "exclusive"
        assert lock.hold().mode == "shared"
    assert lock.hold().mode is None
    lock.give_way()
    assert lock.hold().mode is None


def test_a_lock_is_put_down_after_an_error(lock: DeviceLock) -> None:
    with pytest.raises(KeyError), lock.shared(), lock.exclusive():
        raise KeyError
    assert lock.hold().mode is None
    assert lock.hold().lock == lock.hold().gate == -1


def test_giving_way_to_nobody_takes_two_calls_of_the_system(lock: DeviceLock, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def flock(file: int, mode: int) -> None:
        calls.append(mode)
        fcntl.flock(file, mode)

    with lock.shared():
        monkeypatch.setattr(lock_module, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock}))
        monkeypatch.setattr(lock_module, "os", SimpleNamespace())  # no file is opened or closed
        for _ in range(10):
            lock.give_way()
        monkeypatch.undo()
    assert calls == [fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_UN] * 10


def test_equal_keys_are_one_lock_and_others_are_not(lock: DeviceLock) -> None:
    copy = pickle.loads(pickle.dumps(lock))
    assert copy.lock == lock.lock == DeviceLock.of(torch.device("cpu")).lock
    with lock.exclusive(), DeviceLock("gpu-1").exclusive():
        assert copy.hold().mode == "exclusive"


def test_an_unusable_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(WorkloadError, match="set TMPDIR"):
        DeviceLock("cpu")
    (tmp_path / f"hybrid-nas-{os.getuid()}").symlink_to(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(WorkloadError, match="another user's; set TMPDIR"):
        DeviceLock("cpu")
