"""One lock for each device: training shares it, measuring has the device alone.

A latency that was taken beside another worker's training step is wrong, and nothing in it shows that. So every worker
trains under `shared` and measures under `exclusive`.

* Two files, locked by the kernel (flock), so that a lock dies with the process that holds it, however that ends.
* Measuring never starves: who wants the device alone first shuts a gate that every newcomer must pass, and training
  looks at the gate between steps (`give_way`), at the price of two system calls.
* A worker holds a lock once: within `exclusive` the others do nothing, and `exclusive` within `shared` puts the shared
  lock down meanwhile. That holds for each thread; two threads keep each other out as two processes do.
* Held by one user: the files lie in a temporary folder of the user's own.
"""

import fcntl
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from nas.workload import WorkloadError


class DeviceLock:
    """The lock of one device; equal keys are one lock, in every process of the user. It can be pickled.

    Raises WorkloadError when the folder for temporary files cannot be used.
    """

    def __init__(self, key: str) -> None:
        name = re.sub(r"[^\w.-]+", "-", key)
        folder = private_folder()
        self.key = key
        self.gate = folder / f"{name}.gate"
        self.lock = folder / f"{name}.lock"

    @classmethod
    def of(cls, device: torch.device) -> "DeviceLock":
        """The lock of `device`: the CPU's, or that of the physical GPU, whatever number it has in this process."""
        return cls(f"gpu-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else device.type)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the device together with others; waits while somebody has it alone or wants it alone."""
        hold = self.hold()
        if hold.mode is not None:
            yield
            return
        try:
            hold.take_shared()
            yield
        finally:
            hold.put_down()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the device alone; waits until everybody else has put it down, and keeps newcomers out meanwhile."""
        hold = self.hold()
        if hold.mode == "exclusive":
            yield
            return
        was_shared = hold.mode == "shared"
        hold.put_down()
        try:
            hold.take_exclusive()
            yield
        finally:
            hold.put_down()
            if was_shared:
                hold.take_shared()

    def give_way(self) -> None:
        """Let who wants the device alone have it now, and go on afterwards; to be called between training steps.

        Does nothing unless this thread holds the lock as one of several.
        """
        hold = self.hold()
        if hold.mode == "shared" and hold.is_gate_shut():
            hold.put_down()
            hold.take_shared()

    def hold(self) -> "Hold":
        return _holds.setdefault((threading.get_ident(), self.lock), Hold(self.gate, self.lock))


@dataclass
class Hold:
    """What one thread holds of one lock: the open files (-1: closed) and in which way."""

    gate_path: Path
    lock_path: Path
    gate: int = -1
    lock: int = -1
    mode: Literal["shared", "exclusive"] | None = None

    def take_shared(self) -> None:
        """Pass the gate, which is shut while somebody has or wants the device alone, and leave it open behind."""
        self.open()
        fcntl.flock(self.gate, fcntl.LOCK_SH)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        fcntl.flock(self.gate, fcntl.LOCK_UN)
        self.mode = "shared"

    def take_exclusive(self) -> None:
        """Shut the gate, and wait for those inside."""
        self.open()
        fcntl.flock(self.gate, fcntl.LOCK_EX)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.mode = "exclusive"

    def is_gate_shut(self) -> bool:
        try:
            fcntl.flock(self.gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.gate, fcntl.LOCK_UN)
        return False

    def open(self) -> None:
        # Truncating an empty file renews its date, so that no cleaner of old temporary files takes it away.
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self.gate = os.open(self.gate_path, flags, 0o600)
        self.lock = os.open(self.lock_path, flags, 0o600)

    def put_down(self) -> None:
        """Closing the files releases what is held, the lock before the gate; nothing happens when nothing is held."""
        for file in (self.lock, self.gate):
            if file >= 0:
                os.close(file)
        self.gate = self.lock = -1
        self.mode = None


_holds: dict[tuple[int, Path], Hold] = {}


def forget_in_child() -> None:
    """A forked child would share its parent's files, and a lock would outlive the parent in it."""
    for hold in _holds.values():
        hold.put_down()
    _holds.clear()


os.register_at_fork(after_in_child=forget_in_child)


def private_folder() -> Path:
    """The user's own folder for locks, made if need be. Raises WorkloadError when it is not to be had."""
    folder = Path(tempfile.gettempdir()) / f"hybrid-nas-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise WorkloadError(
            f"Locks of devices need a writable folder, but {folder} cannot be made ({error.strerror}); set TMPDIR."
        ) from None
    if owner != os.getuid() or folder.is_symlink():
        raise WorkloadError(f"Locks of devices need a folder of one's own, but {folder} is another user's; set TMPDIR.")
    return folder
