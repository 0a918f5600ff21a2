"""The device that measures: which one, what it is called, and what a number from it depends on."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nas.workload import WorkloadError

CPU_INFO = Path("/proc/cpuinfo")
MODEL_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}
"""What tells processors of one name apart, by the names of CPU_INFO."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DeviceGone(RuntimeError):
    """A device does not answer any more. The message is one sentence."""


@contextmanager
def while_it_answers(device: torch.device) -> Iterator[None]:
    """Raise DeviceGone for an error after which a GPU answers no call of this process any more."""
    try:
        yield
    except RuntimeError as error:
        # Running out of memory is an error of its own kind, and the device lives on.
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise DeviceGone(
            f"{device} does not answer any more ({reason}); what is finished is kept, and the same command goes on "
            "once the device is back."
        ) from None


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is the GPU if there is one, else the CPU; otherwise `cpu`, `cuda` or `cuda:1`. Raises WorkloadError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise WorkloadError(f"measure.device must be auto, cpu, cuda or cuda:<number>, but got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise WorkloadError(f"measure.device must be auto, cpu, cuda or cuda:<number>, but got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise WorkloadError(f"measure.device is {name!r}, but {count} CUDA devices are at hand; use auto or cpu.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, the types in which each is usually served."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def describe_device(device: torch.device | None = None) -> dict[str, str | int]:
    """What a measured number depends on: device, cores and threads, versions, driver. Plain values for a report."""
    device = choose_device() if device is None else device
    described: dict[str, str | int] = {
        "device": device.type,
        "name": device_name(device),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": installed_version("triton"),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "driver": driver_version(),
            "cuda": torch.version.cuda or "none",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
        }
    return described


def device_name(device: torch.device) -> str:
    """What tables and descriptions call a device: a GPU by its own name, a CPU by its own and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {usable_cores()} cores"


def cpu_name() -> str:
    """The processor's name as the system gives it; with family, model and stepping where the name says no model.

    Hypervisors call unlike processors of many generations `AMD EPYC` or `Intel(R) Xeon(R) Processor`, and what one of
    them measured must not be taken for another's.
    """
    fields: dict[str, str] = {}
    for line in CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())  # of the first core
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {fields[field]}" for key, field in MODEL_NUMBERS.items() if fields.get(field)]
    names_model = any(letter.isdigit() for letter in name.partition("@")[0])  # behind it stands a clock
    return name if names_model or not numbers else f"{name} ({', '.join(numbers)})"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def driver_version() -> str:
    """The NVIDIA driver's version; `unknown` where the system does not say."""
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text().split() if file.exists() else []
    numbers = [word for word in words if word[0].isdigit() and word.count(".") >= 1]
    return numbers[0] if numbers else "unknown"


@contextmanager
def pinned_threads(threads: int | None) -> Iterator[int]:
    """Run torch on that many CPU threads (None: as it is), and give the earlier number back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
