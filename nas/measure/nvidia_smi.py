"""What nvidia-smi says about a GPU: how busy it is, who uses it, and what holds its clocks down.

* One call costs tens of milliseconds, so it belongs before or after a measurement.
* Processes in other containers are not listed; only the utilisation shows them.
"""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass

import torch

from nas.measure.processes import descent, read_processes

WAIT_SECONDS = 10
# NVML API reference, "NvmlClocksEventReasons". A user's own clock setting and a boost group hold clocks down too.
IDLE = 0x1
REASONS = {
    0x2: "application clocks setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
# Drivers before 535 know the second name alone.
REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
LONGEST_AVERAGE = 1.2  # seconds: the utilisation is an average over up to one


class GpuUnknown(Exception):
    """nvidia-smi is missing, or did not answer. The message says which."""


@dataclass(frozen=True)
class GpuState:
    """utilisation: share of the last second or less in which the GPU worked. clock, highest_clock: of the
    multiprocessors, in MHz. reasons: a mask of what holds the clocks down. None: this GPU does not tell."""

    utilisation: float | None
    clock: float | None
    highest_clock: float | None
    reasons: int | None


def gpu_state(device: torch.device) -> GpuState:
    """Raises GpuUnknown."""
    rows: list[list[str]] = []
    for field in REASON_FIELDS:
        try:
            rows = query(device, f"--query-gpu=utilization.gpu,clocks.sm,clocks.max.sm,{field}")
        except GpuUnknown:
            if field == REASON_FIELDS[-1]:
                raise
            continue
        break
    if not rows or len(rows[0]) != 4:
        raise GpuUnknown("nvidia-smi does not know the GPU")
    used, clock, highest, reasons = rows[0]
    share = number(used)
    return GpuState(
        utilisation=None if share is None else share / 100,
        clock=number(clock),
        highest_clock=number(highest),
        reasons=int(reasons, 16) if reasons.startswith("0x") else None,
    )


def other_users(device: torch.device) -> list[str]:
    """Processes on the GPU that were started neither by this one nor together with it; those take turns by lock.

    Raises GpuUnknown.
    """
    processes = read_processes()
    ours = descent(processes, os.getpid())
    numbers = [int(row[0]) for row in query(device, "--query-compute-apps=pid") if row[0].isdigit()]
    visible = [processes[pid] for pid in numbers if pid in processes and pid not in ours]
    return [f"{p.name} (process {p.pid})" for p in visible if p.group != os.getpgrp()]


def settled_utilisation(device: torch.device, low: float) -> float:
    """The utilisation once this process's own work has left the average, or has fallen to `low`. Raises GpuUnknown."""
    torch.cuda.synchronize(device)
    start = time.monotonic()
    while True:
        used = gpu_state(device).utilisation or 0.0
        if used <= low or time.monotonic() - start > LONGEST_AVERAGE:
            return used
        time.sleep(0.1)


def query(device: torch.device, what: str) -> list[list[str]]:
    """Rows of one query about one GPU. Raises GpuUnknown."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise GpuUnknown("nvidia-smi is missing")
    command = [program, f"--id={gpu_id(device)}", what, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise GpuUnknown(f"nvidia-smi did not answer within {WAIT_SECONDS} seconds") from None
    if answer.returncode != 0:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        raise GpuUnknown(f"nvidia-smi failed ({said[0] if said else f'code {answer.returncode}'})")
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def gpu_id(device: torch.device) -> str:
    """The physical GPU, whatever number it has in this process."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def number(cell: str) -> float | None:
    """A cell's number; None for `[N/A]` and its like."""
    try:
        return float(cell)
    except ValueError:
        return None


def slowing_reasons(mask: int) -> list[str]:
    return [name for bit, name in REASONS.items() if mask & bit]
