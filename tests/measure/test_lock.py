"""The lock of a device: training steps of other processes and measurements never overlap, and nobody waits long."""

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from nas.measure.lock import DeviceLock
from nas.workload import WorkloadError

STEP = 0.02


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceLock:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return DeviceLock("cpu")


def train(lock: DeviceLock, pipe: Connection) -> None:
    """Steps of 20 ms under the shared lock until told to stop; sends when each began and ended."""
    steps = []
    with lock.shared():
        pipe.send("training")
        while not pipe.poll():
            begun = time.monotonic()
            time.sleep(STEP)
            steps.append((begun, time.monotonic()))
            lock.give_way()
    pipe.send(steps)
    with lock.shared():
        pipe.send("waiting to be killed")
        time.sleep(60)


def test_no_training_step_overlaps_a_measurement_in_another_process(lock: DeviceLock) -> None:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    trainers = [context.Process(target=train, args=(lock, theirs), daemon=True) for _, theirs in pipes]
    for trainer in trainers:
        trainer.start()
    assert [ours.recv() for ours, _ in pipes] == ["training"] * 2
    measurements = []
    for _ in range(5):
        asked = time.monotonic()
        with lock.exclusive():
            begun = time.monotonic()
            time.sleep(0.05)
            measurements.append((begun, time.monotonic()))
        assert begun - asked < 10.0, "a step lasts a fiftieth of a second"
        time.sleep(0.05)
    steps = []
    for ours, _ in pipes:
        ours.send("stop")
        steps += ours.recv()
        assert ours.recv() == "waiting to be killed"
    assert len(steps) >= 10
    overlaps = [(step, m) for step in steps for m in measurements if step[0] < m[1] and m[0] < step[1]]
    assert not overlaps
    # Both train between measurements too.
    assert sum(measurements[0][1] < begun < measurements[-1][0] for begun, _ in steps) >= 4

    for trainer in trainers:
        assert trainer.pid
        os.kill(trainer.pid, signal.SIGKILL)
    asked = time.monotonic()
    with lock.exclusive():  # held by nobody any more
        assert time.monotonic() - asked < 10.0
    for trainer in trainers:
        trainer.join()


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
        for thread in threads:
            thread.start()
            time.sleep(0.1)
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


def test_giving_way_to_nobody_takes_microseconds(lock: DeviceLock) -> None:
    with lock.shared():
        begun = time.thread_time()
        for _ in range(1000):
            lock.give_way()
        assert (time.thread_time() - begun) / 1000 < 100e-6


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
