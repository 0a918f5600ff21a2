"""Tests of measuring compare work, not moments of a busy machine."""

import time
from types import SimpleNamespace

import pytest

from nas.measure import clock


@pytest.fixture(autouse=True)
def processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock counts this thread's time on a processor: what other processes take from it is in no sample."""
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=time.thread_time))
