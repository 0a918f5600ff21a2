"""A command that a signal reaches in the midst of a training: the same place on every machine, however busy that is."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import os, runpy, sys
from nas.measure.lock import DeviceLock

training, step, number, *sys.argv = *map(int, sys.argv[1:4]), *sys.argv[4:]
begun = steps = 0
shared, give_way = DeviceLock.shared, DeviceLock.give_way

def counted_training(lock):
    global begun, steps
    begun, steps = begun + 1, 0
    return shared(lock)

def counted_step(lock):
    global steps
    steps += 1
    if (begun, steps) == (training, step):
        os.kill(os.getpid(), number)
    give_way(lock)

DeviceLock.shared, DeviceLock.give_way = counted_training, counted_step
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_until(
    number: signal.Signals,
    script: str,
    *arguments: str,
    training: int,
    step: int,
    cwd: Path,
    environment: dict[str, str],
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository, which gets a signal after so many steps of its `training`th training, from 1.

    environment: must let tasks train one after the other, as OMP_NUM_THREADS=1 does.
    """
    program = [sys.executable, "-c", PROGRAM, str(training), str(step), str(int(number)), str(ROOT / script)]
    return subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
