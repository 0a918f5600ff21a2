"""Tests of measuring compare work, not moments of a busy machine."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from nas.measure import clock
from tests.measure.counted_work import CountedWork, counting_work


@pytest.fixture(autouse=True)
def processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock counts this thread's time on a processor: what other processes take from it is in no sample."""
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=time.thread_time))


@pytest.fixture
def counted_work(processor_time: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountedWork]:
    """The clock counts what operators read and write: for tests that compare one time with another."""
    with counting_work(monkeypatch) as work:
        yield work
