"""Waiting for processes on a machine that is busy with other things: on what they do, and for as long as it takes."""

import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

PATIENCE = 400.0
"""Seconds after which something is broken; less than a test may take in all."""


def wait_until(holds: Callable[[], object], what: str, every: float = 0.02) -> None:
    """Look again and again whether `holds()`, after so many seconds; fails when that takes longer than anything may."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(every)


def exit_codes(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Of processes that end by themselves; None for one that does not, which is then ended."""
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
