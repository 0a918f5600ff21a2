"""The journal under crashes, full disks and several writers."""

import errno
import json
import multiprocessing
import os

import pytest

from nas.study.storage import journal
from nas.study.storage.journal import Journal, KernelLock
from tests.patience import PATIENCE, exit_codes


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def append_many(path, name, count):
    backend = Journal(path)
    for i in range(count):
        backend.append_logs([{"name": name, "i": i, "text": "x" * 500}])


def test_what_several_processes_append_is_whole_and_in_each_ones_order(tmp_path):
    path = tmp_path / "journal.log"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_many, args=(path, name, 50)) for name in "abcd"]
    for process in processes:
        process.start()
    assert exit_codes(processes) == [0] * 4
    written = lines(path)
    for name in "abcd":
        assert [line["i"] for line in written if line["name"] == name] == list(range(50))
    assert list(Journal(path).read_logs(0)) == written


def hold_for_ever(path, ready):
    KernelLock(path).acquire()
    ready.set()
    multiprocessing.Event().wait(2 * PATIENCE)


def test_the_lock_dies_with_its_holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_for_ever, args=(tmp_path / journal.LOCK, ready))
    holder.start()
    assert ready.wait(PATIENCE)
    holder.kill()
    Journal(tmp_path / "journal.log").append_logs([{"a": 1}])
    holder.join(PATIENCE)
    assert lines(tmp_path / "journal.log") == [{"a": 1}]


def test_what_a_crash_tore_off_is_cut_before_the_next_line_is_written(tmp_path):
    path = tmp_path / "journal.log"
    backend = Journal(path)
    backend.append_logs([{"a": 1}])
    with path.open("ab") as file:
        file.write(b'{"b":' + b"2" * (3 * journal.CHUNK))
    assert list(backend.read_logs(0)) == [{"a": 1}]
    backend.append_logs([{"c": 3}])
    assert lines(path) == [{"a": 1}, {"c": 3}]
    assert list(backend.read_logs(1)) == [{"c": 3}]


@pytest.mark.parametrize("taken", [0, 5])
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch, taken):
    path = tmp_path / "journal.log"
    backend = Journal(path)
    backend.append_logs([{"a": 1}])
    original = os.pwrite
    room = [taken]

    def pwrite(file, data, place):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part, room[0] = data[: room[0]], 0
        return original(file, part, place)

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "pwrite", pwrite)
        with pytest.raises(OSError, match="No space left"):
            backend.append_logs([{"b": 2}])
    assert lines(path) == [{"a": 1}]
    backend.append_logs([{"b": 2}])
    assert lines(path) == [{"a": 1}, {"b": 2}]
