"""Who takes the CPU's time, as Linux counts it in /proc; where it does not, nobody seems to take any.

All times are seconds since start, to compare two readings. Time of a process that has ended is found in the one that
waited for it, so the sum over a process and its descendants never falls.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Columns of a core in /proc/stat: user, nice, system, irq, softirq, and what a hypervisor gave to others.
BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)


@dataclass(frozen=True)
class Process:
    """seconds: its own. waited: of its children that have ended. faults: pages that had to be read from a disk."""

    pid: int
    name: str
    parent: int
    group: int
    faults: int
    seconds: float
    waited: float


Processes = Mapping[int, Process]


def usable_cores() -> set[int]:
    """Numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def read_processes() -> dict[int, Process]:
    """All processes that can be seen from here, by their number."""
    if not PROC.is_dir():
        return {}
    lines = (text_of(folder / "stat") for folder in PROC.iterdir() if folder.name.isdigit())
    return {process.pid: process for process in map(parse_process, filter(None, lines))}


def parse_process(line: str) -> Process:
    """A line of /proc/<pid>/stat (proc_pid_stat(5)); the name may hold spaces and parentheses."""
    start, _, rest = line.rpartition(")")
    pid, _, name = start.partition(" (")
    fields = rest.split()
    user, system, waited_user, waited_system = (int(ticks) / TICKS_PER_SECOND for ticks in fields[11:15])
    return Process(
        pid=int(pid),
        name=name,
        parent=int(fields[1]),
        group=int(fields[2]),
        faults=int(fields[9]),
        seconds=user + system,
        waited=waited_user + waited_system,
    )


def descent(processes: Processes, root: int) -> set[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, open_ends = {root}, [root]
    while open_ends:
        young = children.get(open_ends.pop(), [])
        found.update(young)
        open_ends += young
    return found


def own_seconds(processes: Processes) -> float:
    """CPU time of this process and its descendants."""
    ours = descent(processes, os.getpid())
    return sum(p.seconds + p.waited for p in processes.values() if p.pid in ours)


def busiest_other(before: Processes, after: Processes) -> tuple[str, float]:
    """Who took most time between two readings besides this process and its descendants, and the time of all others."""
    ours = descent(after, os.getpid())
    took = {
        pid: process.seconds - before[pid].seconds
        for pid, process in after.items()
        if pid in before and pid not in ours
    }
    if not took:
        return "nobody", 0.0
    busiest = max(took, key=lambda pid: took[pid])
    return f"{after[busiest].name} (process {busiest})", sum(took.values())


def busy_seconds() -> float:
    """Time that the usable cores have not been idle, whoever used them."""
    cores = {f"cpu{core}" for core in usable_cores()}
    rows = [line.split() for line in text_of(PROC / "stat").splitlines()]
    ticks = sum(int(row[i]) for row in rows if row and row[0] in cores for i in BUSY_COLUMNS if i < len(row))
    return ticks / TICKS_PER_SECOND


def times_throttled() -> int:
    """How often a limit of this process's control groups, or of those around them, has stopped it."""
    return sum(counted(text_of(file), "nr_throttled") for file in limit_files())


def limit_files() -> set[Path]:
    """`cpu.stat` of the control groups of this process up to the root, in both versions of the hierarchy."""
    files: set[Path] = set()
    for line in text_of(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        bases = [CGROUPS, CGROUPS / "unified"] if not controllers else [CGROUPS / controllers, CGROUPS / "cpu"]
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = Path(path.lstrip("/"))
        files |= {base / group / "cpu.stat" for base in bases for group in (inner, *inner.parents)}
    return {file.resolve() for file in files if file.exists()}


def pages_from_swap() -> int:
    return counted(text_of(PROC / "vmstat"), "pswpin")


def counted(text: str, name: str) -> int:
    """The number after `name` in lines of a name and a number; 0 where it is not."""
    return sum(int(row[1]) for row in map(str.split, text.splitlines()) if len(row) == 2 and row[0] == name)


def text_of(file: Path) -> str:
    """What a file of the system says; nothing where there is none, or its process has just ended."""
    try:
        return file.read_text()
    except OSError:
        return ""
