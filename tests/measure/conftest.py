"""Tests of measuring compare work, not moments of a busy machine."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from nas.measure import blocks, clock
from tests.measure.counted_work import CountedWork


@pytest.fixture(autouse=True)
def processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock counts this thread's time on a processor: what other processes take from it is in no sample."""
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=time.thread_time))


@pytest.fixture
def counted_work(processor_time: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountedWork]:
    """The clock counts what operators of this process read and write: for tests that compare one time with another.

    As there is no cache to overflow, networks need not be large.
    """
    monkeypatch.setattr(blocks, "CPU_NETWORK_BYTES", 1_000_000)
    with CountedWork() as work:
        monkeypatch.setattr(clock, "time", work)
        yield work
