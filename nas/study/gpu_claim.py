"""Which GPUs a worker takes: those with the fewest workers, held by lock files for as long as the worker lives.

* A GPU has so many places, and a place is a file locked by the kernel (flock) in the user's own folder, so that it is
  free again however its holder ends. All studies of a user on a machine share them.
* What is taken is made all that this process and its children see, before CUDA is started: everything else goes on
  saying `cuda`.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from nas.measure.lock import private_folder
from nas.study.errors import StudyError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_TO_LIST = 30


@contextmanager
def claimed_gpus(device: str, workers_per_gpu: int, number: int = 1) -> Iterator[str | None]:
    """Hold so many GPUs of this machine for the block; yields their names as CUDA_VISIBLE_DEVICES has them.

    device: `auto` or `cuda` claim; a device that the user named by number, or `cpu`, is left alone (None), as is a
    machine without a GPU. To be entered before anything asks torch for a GPU. Raises StudyError when too few places are
    left.
    """
    gpus = visible_gpus() if device in ("auto", "cuda") else {}
    if not gpus:
        yield None
        return
    with ExitStack() as stack:
        if number > len(gpus):
            raise StudyError(
                f"devices_per_trial={number} needs as many GPUs, and this worker may use {len(gpus)}; lower it, or "
                f"give the worker more in {VISIBLE}."
            )
        taken: list[str] = []
        for _ in range(number):
            left = {gpu: key for gpu, key in gpus.items() if gpu not in taken}
            taken.append(take_place(left, workers_per_gpu, private_folder(), stack))
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = ",".join(taken)
        try:
            yield os.environ[VISIBLE]
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def take_place(gpus: dict[str, str], workers_per_gpu: int, folder: Path, stack: ExitStack) -> str:
    """Lock the first free place: the first of every GPU before the second of any. Closing `stack` frees it.

    gpus: the name of each GPU in CUDA_VISIBLE_DEVICES and the key under which it is locked.
    """
    for place in range(workers_per_gpu):
        for gpu, key in gpus.items():
            name = re.sub(r"[^\w.-]+", "-", key)
            file = os.open(folder / f"{name}.worker-{place}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            stack.callback(os.close, file)
            return gpu
    raise StudyError(
        f"Every GPU of this machine may have {workers_per_gpu} worker(s), and all places are taken "
        f"({len(gpus)} GPU(s)); start fewer workers, or set workers_per_gpu={workers_per_gpu + 1}."
    )


def visible_gpus() -> dict[str, str]:
    """GPUs that this process may use: name in CUDA_VISIBLE_DEVICES -> key that is the same in every process.

    Asks nvidia-smi, because asking torch starts CUDA, after which the choice is made. Empty without a GPU, or with a
    build of torch that knows none.
    """
    if torch.version.cuda is None:
        return {}
    by_index = list_gpus()
    wanted = os.environ.get(VISIBLE)
    if wanted is None:
        return {uuid: uuid for uuid in by_index}
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    return {name: key_of(name, by_index) for name in names}


def key_of(name: str, by_index: Sequence[str]) -> str:
    """The GPU's UUID for a number or the beginning of a UUID; what names no GPU of the list is its own key."""
    if name.isdigit() and int(name) < len(by_index):
        return by_index[int(name)]
    return next((uuid for uuid in by_index if uuid.startswith(name)), name)


def list_gpus() -> list[str]:
    """UUIDs of the machine's GPUs in the driver's order; empty where nvidia-smi is missing or knows none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_LIST, check=False)
    except subprocess.TimeoutExpired:
        return []
    lines = answer.stdout.split("\n") if answer.returncode == 0 else []
    return [line.strip() for line in lines if line.strip().startswith("GPU-")]
