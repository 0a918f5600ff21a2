"""How much Python does, by the functions that it calls: the same on every machine, however busy that is."""

import sys
from collections.abc import Callable


def calls_of(work: Callable[[], object]) -> int:
    """Functions that are called within, those of Python and those written in C."""
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
