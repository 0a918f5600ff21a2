"""How many bytes a call takes at its peak, and whether a network fits on a device at all.

On a GPU the allocator keeps the peak. On a CPU every allocation and release that goes through torch's allocator is
taken from the profiler's record and summed in order of time: exact to the byte, temporaries inside operators included,
at some tens of microseconds per operator. Not in it: scratch space that a BLAS library takes for itself.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import profile

# The profiler announces each start and stop on standard error, in the middle of a progress display.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


class DoesNotFit(Exception):
    """The network and its state need more memory than the device has: a result, not a failure of the tool."""


@dataclass(frozen=True)
class Peak:
    """The most bytes at once beyond what was held before. reserved: all that the allocator then held of the device,
    what was there before and gaps included; None on a CPU."""

    allocated: int
    reserved: int | None


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `call()` holds at once beyond what was held before it, its result included."""
    return peak_memory(call, device).allocated


def peak_memory(call: Callable[[], object], device: torch.device) -> Peak:
    """As `peak_bytes`, and on a GPU what its allocator reserves meanwhile, from a state without reserves."""
    return cuda_peak(call, device) if device.type == "cuda" else Peak(cpu_peak_bytes(call), None)


def cuda_peak(call: Callable[[], object], device: torch.device) -> Peak:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    allocated = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return Peak(torch.cuda.max_memory_allocated(device) - allocated, torch.cuda.max_memory_reserved(device))


def cpu_peak_bytes(call: Callable[[], object]) -> int:
    record: Any = profile(profile_memory=True)  # the types that torch declares lack the results
    with record:
        result = call()
    del result
    events = record.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak


def storage_bytes(tree: object) -> int:
    """Bytes of all tensors in a nest of lists, tuples, dicts and objects with attributes; shared storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()

    def visit(node: object) -> None:
        if id(node) in seen or node is None or isinstance(node, str | int | float | bool):
            return
        seen.add(id(node))
        if isinstance(node, torch.Tensor):
            storages[node.untyped_storage().data_ptr()] = node.untyped_storage().nbytes()
        elif isinstance(node, dict):
            for child in node.values():
                visit(child)
        elif isinstance(node, list | tuple):
            for child in node:
                visit(child)
        elif hasattr(node, "__dict__"):
            visit(vars(node))

    visit(tree)
    return sum(storages.values())


def saved_for_backward_bytes(forward: Callable[[], object]) -> int:
    """Bytes that `forward()` keeps for the backward pass, each storage once and whole, parameters not.

    Counts on any device, the meta device too. Copies of parameters, as mixed precision makes them, are counted; so are
    constant tensors that are no parameters.
    """
    saved: dict[int, torch.UntypedStorage] = {}
    weights: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        owner = tensor if tensor._base is None else tensor._base
        if isinstance(owner, torch.nn.Parameter):
            weights.add(storage._cdata)
        # A result that its own operator saves would hold that operator, and the operator the result, for ever.
        return tensor.detach()

    # The result holds the graph, and the graph what it saved: no storage can take another's place.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    total = sum(storage.nbytes() for key, storage in saved.items() if key not in weights)
    del result
    return total


def total_bytes(device: torch.device) -> int:
    """Bytes of memory that a device has; of a CPU those of the machine, or what a container of it may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    given = limit.read_text().strip() if limit.exists() else "max"
    return machine if given == "max" else min(machine, int(given))


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be had on the device now; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    info = Path("/proc/meminfo")
    found = []
    if info.exists():
        fields = dict(line.split(":") for line in info.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(used.read_text()))
    return min(found) if found else None


@contextmanager
def out_of_memory_is_a_result(device: torch.device) -> Iterator[None]:
    """Turn running out of memory into DoesNotFit, and give memory back to the device in any case."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        told = str(error).lower()
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            if "out of memory" not in told and "allocate memory" not in told:
                raise
        # The traceback holds the frames, and they hold the tensors.
        error.__traceback__ = None
        raise DoesNotFit(f"measuring ran out of memory on {device}.") from None
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
