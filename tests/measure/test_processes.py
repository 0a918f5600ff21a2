"""Who takes the CPU's time: lines of /proc, descendants, limits."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas.measure import processes
from nas.measure.processes import (
    Process,
    busiest_other,
    busy_seconds,
    counted,
    descent,
    own_seconds,
    parse_process,
    read_processes,
    times_throttled,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")


def process(pid: int, parent: int, seconds: float = 0.0) -> Process:
    return Process(pid=pid, name=f"p{pid}", parent=parent, group=1, faults=0, seconds=seconds, waited=0.0)


def test_a_line_of_a_process_is_read_whatever_its_name() -> None:
    second = processes.TICKS_PER_SECOND
    line = f"12 (a) b (c)) S 7 9 9 0 -1 0 99 0 5 0 {2 * second} {second} {4 * second} 0 20 0 1 0 1"
    expected = Process(pid=12, name="a) b (c)", parent=7, group=9, faults=5, seconds=3.0, waited=4.0)
    assert parse_process(line) == expected


def test_descendants_are_found_at_any_depth() -> None:
    family = {p.pid: p for p in (process(1, 0), process(2, 1), process(3, 2), process(4, 1), process(5, 4))}
    assert descent(family, 2) == {2, 3}
    assert descent(family, 1) == {1, 2, 3, 4, 5}


def test_the_busiest_other_is_named_and_all_others_are_summed() -> None:
    me = os.getpid()
    before = {p.pid: p for p in (process(me, 1, 1.0), process(-2, me, 1.0), process(-3, 1, 1.0), process(-4, 1, 1.0))}
    after = {p.pid: p for p in (process(me, 1, 9.0), process(-2, me, 9.0), process(-3, 1, 1.5), process(-4, 1, 3.0))}
    assert busiest_other(before, after) == ("p-4 (process -4)", 2.5)
    assert busiest_other({}, after) == ("nobody", 0.0)


@linux
def test_the_time_of_a_child_is_ours_while_it_runs_and_after_it_ended() -> None:
    works = (
        "import os, time\n"
        "while time.process_time() < 0.4: pass\n"
        "os.write(1, str(time.process_time()).encode())\n"
        "os.read(0, 1)\n"  # until the pipe is closed
        "os._exit(0)"
    )
    own, before = time.process_time(), (own_seconds(read_processes()), busy_seconds())
    with subprocess.Popen([sys.executable, "-c", works], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        told = float(child.stdout.read1())
        running = own_seconds(read_processes()) - before[0]
        child.stdin.close()
        child.wait()
        ended = own_seconds(read_processes()) - before[0]
    own = time.process_time() - own
    ticks = 0.1  # that each process, and each of its threads, is rounded by
    assert told - ticks < running <= ended < told + own + 2 * ticks
    assert busy_seconds() - before[1] > told / 2, "the system counts whole ticks of cores"


@pytest.mark.parametrize(
    ("hierarchy", "folders"),
    [
        ("0::/a/b", ["a/b", "a", "."]),
        ("0::/a/b", ["unified/a", "unified"]),
        ("4:memory:/m\n1:cpu,cpuacct:/a/b\n0::/", ["cpu,cpuacct/a/b", "cpu,cpuacct"]),
        ("1:cpu,cpuacct:/a", ["cpu/a"]),
    ],
)
def test_limits_of_all_groups_around_a_process_count(hierarchy: str, folders: list[str], tmp_path, monkeypatch) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(hierarchy + "\n")
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "cpu.stat").write_text("nr_periods 9\nnr_throttled 5\nthrottled_usec 7\n")
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(processes, "PROC", tmp_path)
    monkeypatch.setattr(processes, "CGROUPS", tmp_path)
    assert times_throttled() == 5 * len(folders)


def test_a_system_that_tells_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path / "none")
    monkeypatch.setattr(processes, "CGROUPS", tmp_path / "none")
    assert read_processes() == {}
    assert own_seconds({}) == busy_seconds() == times_throttled() == processes.pages_from_swap() == 0
    assert counted("pswpin 12\npswpinx 4\n", "pswpin") == 12
