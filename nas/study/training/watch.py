"""Notices work that hangs, such as a training within a step, where nothing can stop it but the end of the process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nas.study.training.task_training import too_long

LENIENCE = 1.2  # of the time allowed: a training that still steps gives up by itself before


@contextmanager
def watched(what: str, seconds: float | None, on_hang: Callable[[str], None] | None) -> Iterator[None]:
    """Calls `on_hang` with the reason, in a thread of its own, when the block takes longer than it may."""
    if seconds is None or on_hang is None:
        yield
        return
    timer = threading.Timer(LENIENCE * seconds, on_hang, [f"TookTooLong: {too_long(what, seconds)}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
