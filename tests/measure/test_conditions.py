"""What disturbed a measurement is said; what the system does not tell is no error."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nas.measure import conditions, nvidia_smi
from nas.measure.conditions import CpuReading, DeviceBusy, check_idle, clock_flags, cpu_flags, watch
from nas.measure.nvidia_smi import GpuState
from nas.measure.processes import Process, read_processes
from tests.patience import wait_until

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
QUIET = CpuReading(when=0.0, busy=0.0, own=0.0, throttled=0, swapped=0, faults=0)
FULL_SPEED = GpuState(utilisation=0.9, clock=1980.0, highest_clock=1980.0, reasons=0)


@pytest.fixture
def stranger() -> Iterator[None]:
    """A process that keeps a core busy and is no descendant of this one."""
    command = ["sh", "-c", "timeout 600 sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $!"]
    number = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    yield
    subprocess.run(["kill", f"-{int(signal.SIGTERM)}", str(number)], check=False)


def others_took(before: CpuReading) -> float:
    """CPU seconds since then."""
    now = CpuReading.now()
    return (now.busy - before.busy) - (now.own - before.own)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"busy": 2.0, "own": 1.95}, ""),
        ({"busy": 2.0, "own": 1.5}, "busy: other processes took 25 % of the CPU"),
        ({"busy": 1.0, "own": 1.2}, ""),  # ticks are not exact
        ({"when": 0.1, "busy": 0.14, "own": 0.1}, ""),  # too few ticks to tell
        ({"throttled": 3}, "throttled: the control group's CPU limit stopped this process 3 times"),
        ({"swapped": 7, "faults": 200}, "swapping: 7 pages came back from swap"),
        ({"faults": 200}, "short of memory: pages were read from disk 200 times"),
        ({"faults": 5}, ""),
    ],
)
def test_disturbances_of_a_cpu_are_told(changes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "usable_cores", lambda: {0, 1})
    assert "".join(cpu_flags(QUIET, replace(QUIET, **{"when": 1.0, **changes}))) == says


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_another_process_is_noticed_and_refused(stranger: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "usable_cores", lambda: {0, 1})
    monkeypatch.setattr(conditions, "BUSY", 0.01)  # the share of a stranger that is seldom let run
    with watch(CPU) as seen:
        before = CpuReading.now()
        wait_until(lambda: others_took(before) > 0.5, "the stranger works")
    assert any(flag.startswith("busy: other processes took ") for flag in seen.flags)
    with pytest.raises(DeviceBusy, match=r"measure\.busy=refuse the CPU must be idle, but others take .* cores, "):
        wait_until(lambda: check_idle(CPU), "others are noticed")


def test_watching_looks_at_all_processes_once_on_either_side_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []

    def look() -> dict[int, Process]:
        looks.append(1)
        return read_processes()

    monkeypatch.setattr(conditions, "read_processes", look)
    monkeypatch.setattr(conditions, "time", SimpleNamespace(monotonic=time.monotonic))  # without a sleep
    with watch(CPU):
        assert len(looks) == 1
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"reasons": 0x44}, "throttled: the GPU's clocks are held down by power cap, heat (hardware)"),
        ({"clock": 1200.0}, "throttled: the GPU runs at 1200 of 1980 MHz"),
        ({"clock": 345.0, "reasons": 0x1}, ""),  # idle since
        ({"clock": None, "reasons": None}, ""),
    ],
)
def test_clocks_of_a_gpu_that_are_held_down_are_told(changes, says: str) -> None:
    assert "".join(clock_flags(replace(FULL_SPEED, **changes))) == says


def pretend_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, state: str, users: str, known: str) -> None:
    """An nvidia-smi that answers with `state` to queries that name the field `known`, and with `users`."""
    program = folder / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f"*--query-compute-apps=pid*) printf '{users}' ;;\n"
        f"*--id=GPU-1*{known}.active*) echo '{state}' ;;\n"
        "*) echo 'Field is not a valid field to query.'; exit 2 ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(nvidia_smi, "gpu_id", lambda device: "GPU-1")
    monkeypatch.setattr(nvidia_smi, "LONGEST_AVERAGE", 0.2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(conditions, "cpu_flags", lambda before, after: ())
    monkeypatch.setattr(conditions, "_looked", {})
    monkeypatch.setattr(conditions, "busiest_other", lambda before, after: ("nobody", 0.0))


@pytest.mark.parametrize("known", ["clocks_throttle_reasons", "clocks_event_reasons"])
def test_a_gpu_is_asked_before_and_after(known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(tmp_path, monkeypatch, "3, 1980, 1980, 0x0000000000000004", "", known)
    with watch(GPU) as seen:
        pass
    assert seen.flags == ("throttled: the GPU's clocks are held down by power cap",)
    check_idle(GPU)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_other_users_of_a_gpu_are_noticed_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(tmp_path, monkeypatch, "[N/A], [N/A], [N/A], [N/A]", "1\\n999999999\\n", "clocks_throttle_reasons")
    with watch(GPU) as seen:
        pass
    assert len(seen.flags) == 1
    assert seen.flags[0].startswith("busy: ")
    assert seen.flags[0].endswith("(process 1) on the GPU")
    with pytest.raises(DeviceBusy, match=r"cuda:0 must be idle, but .*\(process 1\) use it; .*measure\.busy=flag"):
        check_idle(GPU)


def test_a_gpu_that_is_used_from_elsewhere_is_noticed_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(tmp_path, monkeypatch, "80, 1980, 1980, 0x0", "", "clocks_throttle_reasons")
    with watch(GPU) as seen:
        pass
    assert seen.flags == ("busy: the GPU was 80 % used before measuring began",)
    with pytest.raises(DeviceBusy, match="it is 80 % used by others"):
        check_idle(GPU)


def test_a_gpu_without_the_tool_is_flagged_and_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(tmp_path, monkeypatch, "", "", "nothing")
    with watch(GPU) as seen:
        pass
    assert seen.flags == ("conditions unknown: nvidia-smi failed (Field is not a valid field to query.)",)
    (tmp_path / "nvidia-smi").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with watch(GPU) as seen:
        pass
    assert seen.flags == ("conditions unknown: nvidia-smi is missing",)
    check_idle(GPU)
