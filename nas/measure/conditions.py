"""What disturbed a measurement: other processes, clocks held down, swapping.

A number taken on a busy machine looks like any other. So what the system counts is read before and after, never
between samples, and what moved too much is told in short sentences beside the number.

* CPU: the time that processes other than this one and its descendants took, time that a hypervisor gave away, stops by
  a control group's limit, pages from swap or disk. Time is counted in ticks of 10 ms: of a short block it says little.
* GPU: the CPU all the same (launches come from there), other processes on the GPU, what holds its clocks down. Its
  utilisation is an average over up to a second that holds this process's own work, so it has to be waited for, and is
  looked at once a minute at most.
* What the system does not tell is no disturbance, except that a GPU without nvidia-smi is flagged.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from nas.measure.nvidia_smi import (
    IDLE,
    GpuState,
    GpuUnknown,
    gpu_state,
    other_users,
    settled_utilisation,
    slowing_reasons,
)
from nas.measure.processes import (
    busiest_other,
    busy_seconds,
    own_seconds,
    pages_from_swap,
    read_processes,
    times_throttled,
    usable_cores,
)

FLAG_KINDS = ("busy", "throttled", "swapping")
"""How a flag begins."""

BUSY = 0.1  # of the device, taken by others
LEAST_BUSY_SECONDS = 0.05  # five ticks; less is not resolved
MANY_FAULTS = 100
SLOWED = 0.9  # of the highest clock
LOOK_EVERY = 60.0  # seconds between two looks at a GPU's utilisation
IDLE_SAMPLE = 0.25  # seconds over which `check_idle` watches the CPU


class DeviceBusy(RuntimeError):
    """Others use the device, and the user wants no number taken beside them. The message is one sentence."""


@dataclass
class Conditions:
    """What disturbed the block, one short sentence each; empty before its end, and when nothing did."""

    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class CpuReading:
    """What the system has counted so far. busy, own: CPU seconds of all, and of this process and its descendants."""

    when: float
    busy: float
    own: float
    throttled: int
    swapped: int
    faults: int

    @classmethod
    def now(cls) -> "CpuReading":
        processes = read_processes()
        this = processes.get(os.getpid())
        return cls(
            when=time.monotonic(),
            busy=busy_seconds(),
            own=own_seconds(processes),
            throttled=times_throttled(),
            swapped=pages_from_swap(),
            faults=this.faults if this else 0,
        )


@contextmanager
def watch(device: torch.device) -> Iterator[Conditions]:
    """Tell in the yielded object's `flags`, after the block, what disturbed it on `device`.

    Costs milliseconds on either side; on a GPU two calls of nvidia-smi besides, and once a minute up to a second.
    """
    conditions = Conditions()
    used = gpu_use(device)
    before = CpuReading.now()
    yield conditions
    after = CpuReading.now()
    conditions.flags = (*used, *cpu_flags(before, after), *gpu_flags(device))


def cpu_flags(before: CpuReading, after: CpuReading) -> tuple[str, ...]:
    """What was wrong between two readings."""
    flags = []
    offered = (after.when - before.when) * len(usable_cores())
    others = (after.busy - before.busy) - (after.own - before.own)
    if others > max(BUSY * offered, LEAST_BUSY_SECONDS):
        flags.append(f"busy: other processes took {100 * min(1.0, others / offered):.0f} % of the CPU")
    if throttled := after.throttled - before.throttled:
        flags.append(f"throttled: the control group's CPU limit stopped this process {throttled} times")
    if swapped := after.swapped - before.swapped:
        flags.append(f"swapping: {swapped} pages came back from swap")
    elif (faults := after.faults - before.faults) >= MANY_FAULTS:
        flags.append(f"short of memory: pages were read from disk {faults} times")
    return tuple(flags)


_looked: dict[torch.device, float] = {}


def gpu_use(device: torch.device) -> tuple[str, ...]:
    """Whether the GPU is used before this process uses it; only looked at when the last look is long ago."""
    if device.type != "cuda" or time.monotonic() - _looked.get(device, -LOOK_EVERY) < LOOK_EVERY:
        return ()
    try:
        used = settled_utilisation(device, BUSY)
    except GpuUnknown:
        return ()  # said after the block
    if used > BUSY:
        return (f"busy: the GPU was {100 * used:.0f} % used before measuring began",)
    _looked[device] = time.monotonic()
    return ()


def gpu_flags(device: torch.device) -> tuple[str, ...]:
    """What is wrong with the GPU right after the block; nothing for a CPU."""
    if device.type != "cuda":
        return ()
    try:
        state, others = gpu_state(device), other_users(device)
    except GpuUnknown as error:
        return (f"conditions unknown: {error}",)
    users = (f"busy: {' and '.join(others)} on the GPU",) if others else ()
    return (*users, *clock_flags(state))


def clock_flags(state: GpuState) -> tuple[str, ...]:
    """Clocks held down. A GPU that has gone idle since says nothing."""
    mask = state.reasons or 0
    if mask & IDLE:
        return ()
    if reasons := slowing_reasons(mask):
        return (f"throttled: the GPU's clocks are held down by {', '.join(reasons)}",)
    if state.clock is not None and state.highest_clock and state.clock < SLOWED * state.highest_clock:
        return (f"throttled: the GPU runs at {state.clock:.0f} of {state.highest_clock:.0f} MHz",)
    return ()


def check_idle(device: torch.device) -> None:
    """Raise DeviceBusy, with what runs there and what to do, when others use the device now.

    Watches the CPU for a quarter of a second; waits up to a second for a GPU to finish this process's own work.
    """
    start, before = time.monotonic(), read_processes()
    time.sleep(IDLE_SAMPLE)
    seconds, (who, used) = time.monotonic() - start, busiest_other(before, read_processes())
    cores = len(usable_cores())
    if used > max(BUSY * cores * seconds, LEAST_BUSY_SECONDS):
        raise busy("the CPU", f"others take {used / seconds:.1f} of {cores} cores, {who} most")
    if device.type != "cuda":
        return
    try:
        if others := other_users(device):
            raise busy(str(device), f"{' and '.join(others)} use it")
        used = settled_utilisation(device, BUSY)
    except GpuUnknown:
        return  # not known to be busy; the numbers are flagged
    if used > BUSY:
        raise busy(str(device), f"it is {100 * used:.0f} % used by others")


def busy(device: str, what: str) -> DeviceBusy:
    return DeviceBusy(
        f"With measure.busy=refuse {device} must be idle, but {what}; end that or wait for it, or have the numbers "
        "flagged instead: measure.busy=flag."
    )
