"""The study's journal as a file that several processes append to, and that no crash makes unreadable.

* The format is Optuna's own; `optuna-dashboard` opens it as it is.
* The lock is the kernel's (flock) on a file of its own, so that it dies with its holder, however that ends. Optuna's
  own locks are files that a killed process leaves behind.
* A line is appended whole or not at all: what a crash or a full disk tore off is cut before the next line is written,
  and only while the lock is held.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

NAME = "journal.log"
LOCK = ".journal.lock"
CHUNK = 1 << 16


class KernelLock(BaseJournalFileLock):
    """Held by one process at a time, on one machine or on a shared disk that knows locks; waits for its turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = -1

    def acquire(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except BaseException:
            os.close(file)
            raise
        self.file = file
        return True

    def release(self) -> None:
        # Unlocked before it is closed: a forked child may hold a copy of the file, and with it the lock.
        fcntl.flock(self.file, fcntl.LOCK_UN)
        os.close(self.file)
        self.file = -1

    def __enter__(self) -> "KernelLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Journal(JournalFileBackend):
    """Optuna's journal file with our lock; `append_logs` raises OSError and leaves the file as it was."""

    def __init__(self, path: Path) -> None:
        self.lock = KernelLock(path.with_name(LOCK))
        with self.lock:
            mend_journal(path)
        self.path = path
        super().__init__(str(path), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self.lock:
            file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                end = cut_torn_line(file)
                try:
                    write_all(file, lines, end)
                    os.fsync(file)
                except BaseException:
                    os.ftruncate(file, end)
                    raise
            finally:
                os.close(file)


def write_all(file: int, data: bytes, place: int) -> None:
    """Write `data` at `place`; a disk that is nearly full takes a part, and says so only when asked again."""
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def cut_torn_line(file: int) -> int:
    """Cut what follows the last end of line; returns the size of what is left, in bytes."""
    size = place = os.fstat(file).st_size
    while place > 0:
        start = max(0, place - CHUNK)
        end = os.pread(file, place - start, start).rfind(b"\n")
        if end >= 0:
            place = start + end + 1
            break
        place = start
    if place < size:
        os.ftruncate(file, place)
    return place


def mend_journal(path: Path) -> int:
    """Cut a torn last line off the journal; returns the number of bytes cut (0 for a sound journal).

    Hold the journal's lock: a line that another process is writing looks torn.
    """
    if not path.exists():
        return 0
    data = path.read_bytes()
    sound = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(sound - 1, 0)) + 1
    if sound and not _is_json(data[start:sound]):
        sound = start
    if sound < len(data):
        os.truncate(path, sound)
    return len(data) - sound


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
