"""Which launch configuration a kernel gets: one measured on this model of GPU where there is one, else the default.

* Nothing is tuned here. `scripts/tune_kernels.py` measures, this file looks up.
* A launch is `tuned` when its very key was measured on this model of GPU, `nearest` when a configuration that was
  measured at other sizes was at least checked for correctness at these, and `default` otherwise.
* A configuration is never taken on trust: the same source may be compiled wrongly at one tile size and rightly at the
  next (Triton 3.4 to 3.7 on Hopper), so what was not checked is not launched.
* A lookup takes microseconds: every answer is kept for the life of the process.

Where somebody else's implementation computes the same, the table may also say who is faster: an entry whose kernel is
"operation.implementation" has {"torch": 1} or {"torch": 0} for its configuration, and ours runs unless it says the
former.

`record_launches` tells which kernels ran and how they were configured. `leave_out_launches`, `force_launches` and
`watch_launches` are what the tuner needs: list the launches of a GPU that need not be there, try another configuration,
and time a launch inside the operation that makes it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, Literal

import torch

from kernels import backend, tuned_table
from kernels.source_hash import source_hash
from kernels.tuned_table import Config, Entry, Key, minor_version, read_entries, slug

Status = Literal["tuned", "nearest", "default"]
Implementation = Literal["ours", "torch"]
Watcher = Callable[[Key, Callable[[], object]], None]

IMPLEMENTATION = "implementation"  # what the last part of a key's kernel is called where it is a choice of who computes
CHOICES: dict[Implementation, Config] = {"ours": {"torch": 0}, "torch": {"torch": 1}}
LARGEST_GRID = (2**31 - 1, 65_535, 65_535)
_STATUSES: tuple[Status, ...] = ("default", "nearest", "tuned")  # from the least known to the best

_choices: dict[tuple[Key, torch.device], tuple[Config, Status]] = {}
_records: tuple[dict[str, Status], ...] = ()
_forced: dict[Key, Config] = {}
_watcher: Watcher | None = None


def key(kernel: str, element_bytes: int, sizes: Mapping[str, int], flags: Mapping[str, int]) -> Key:
    """The key of a launch; sizes are rounded up to powers of two."""
    rounded = tuple((name, 1 << (size - 1).bit_length()) for name, size in sizes.items())
    return Key(kernel, element_bytes, rounded, tuple((name, int(flag)) for name, flag in flags.items()))


def distinct(candidates: Callable[[Key], Iterable[Config]]) -> Callable[[Key], list[Config]]:
    """A function that lists what this one gives for a key, each configuration once."""

    @wraps(candidates)
    def listed(key: Key) -> list[Config]:
        found: list[Config] = []
        for config in candidates(key):
            if config not in found:
                found.append(config)
        return found

    return listed


def choose(key: Key, kernel: Any, default: Callable[[Key], Config], device: torch.device) -> Config:
    """The launch configuration for a key on a device; `kernel` is the Triton function, `default` the built-in one.

    Raises ValueError when the file of this GPU is corrupt.
    """
    if key in _forced:
        return _forced[key]
    place = (key, device)
    if place not in _choices:
        _choices[place] = _look_up(key, source_hash(kernel), default(key), device)
    config, status = _choices[place]
    _record(key.kernel, status)
    return config


def choose_implementation(key: Key, kernels: Sequence[Any], device: torch.device) -> Implementation:
    """Who computes a call for which somebody else has an implementation, measured beside these kernels of ours.

    Ours where a backend is asked for by name, where nothing was measured, and where the kernels, Triton or torch are
    no longer those that were.
    """
    if _watcher is not None:
        _watcher(key, lambda: None)
    if key in _forced:
        return _named(_forced[key])
    if backend.is_overridden():
        return "ours"
    place = (key, device)
    if place not in _choices:
        _choices[place] = _look_up(key, implementation_source(kernels), CHOICES["ours"], device)
    config, status = _choices[place]
    chosen = _named(config)
    if chosen != "ours":
        _record(key.kernel, status)
    return chosen


def is_choice(key: Key) -> bool:
    """Whether a key is a choice of who computes, and not a launch."""
    return key.kernel.endswith(f".{IMPLEMENTATION}")


def implementation_source(kernels: Sequence[Any]) -> str:
    """What a choice depends on: the kernels that took part, and the torch that the others came with."""
    hashes = "-".join(source_hash(kernel)[:8] for kernel in kernels)
    return f"{hashes}-torch-{'.'.join(minor_version(torch.__version__))}"


def _named(config: Config) -> Implementation:
    return "torch" if config == CHOICES["torch"] else "ours"


def _record(kernel: str, status: Status) -> None:
    for record in _records:
        known = record.setdefault(kernel, status)
        if _STATUSES.index(status) < _STATUSES.index(known):
            record[kernel] = status


def run(key: Key, kernel: Any, grid: tuple[int, ...], /, *arguments: Any, **constants: Any) -> None:
    """Launch a kernel, or let the watcher do so.

    Raises ValueError for a grid that no GPU takes.
    """
    if any(programs > most for programs, most in zip(grid, LARGEST_GRID, strict=False)):
        raise ValueError(
            f"A GPU takes a grid of at most {list(LARGEST_GRID)} programs, but {key.kernel} would need {list(grid)} "
            "for inputs of this size: split the batch or the sequence."
        )
    launch = kernel[grid]
    if _watcher is None:
        launch(*arguments, **constants)
    else:
        _watcher(key, lambda: launch(*arguments, **constants))


@contextmanager
def record_launches() -> Iterator[dict[str, Status]]:
    """Fill a dict with every kernel of ours launched inside the block, in any thread: its name and how it was launched.

    Names are "operation.kernel", such as "attention.forward"; the status is `tuned`, `nearest` or `default`, the least
    known where a kernel ran in several forms. Where the table says that somebody else is faster, and it was not ours
    that ran, the name is "attention.implementation". It stays empty where neither happens: on the portable and
    reference backends, under a substitute, and when a captured CUDA graph is replayed.
    """
    global _records
    record: dict[str, Status] = {}
    before, _records = _records, (*_records, record)
    try:
        yield record
    finally:
        _records = before


@contextmanager
def force_launches(configs: Mapping[Key, Config]) -> Iterator[None]:
    """Launch these keys with these configurations inside the block, unchecked; such launches are not recorded."""
    global _forced
    before, _forced = _forced, {**_forced, **configs}
    try:
        yield
    finally:
        _forced = before


@contextmanager
def watch_launches(watcher: Watcher) -> Iterator[None]:
    """Hand every launch inside the block to `watcher(key, launch)`, which must call `launch()` at least once.

    A choice of implementation is handed over as a launch that does nothing.
    """
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


@contextmanager
def leave_out_launches(multiprocessors: int) -> Iterator[list[Key]]:
    """List the launches that a GPU of so many multiprocessors would get for the calls inside the block; none is made.

    Tensors may be on the CPU, with the Triton interpreter on, and of any type. What kernels would have written is
    whatever the memory held. Choices of implementation are listed too.
    """
    keys: list[Key] = []
    with backend.use_absent_gpu(multiprocessors), watch_launches(lambda key, launch: keys.append(key)):
        yield keys


def forget_tables() -> None:
    """Read the files of tuned launches again at the next launch, as after tuning in the same process."""
    _choices.clear()
    _entries.cache_clear()


def _look_up(key: Key, source: str, default: Config, device: torch.device) -> tuple[Config, Status]:
    rivals: list[tuple[float, Entry]] = []
    for entry in _entries(_device_name(device)).get((key.kernel, key.element_bytes, key.flags), ()):
        # Fields that the kernel no longer has mean that the entry was written for other launch code.
        if entry.config is None or set(entry.config) != set(default):
            continue
        if entry.counts(source) and key.sizes in (
            entry.key.sizes,
            *entry.checked_sizes,
        ):
            rivals.append((_distance(key, entry.key), entry))
    if not rivals:
        return default, "default"
    distance, entry = min(rivals, key=lambda rival: rival[0])
    assert entry.config is not None
    return entry.config, "tuned" if distance == 0.0 else "nearest"


def _distance(key: Key, other: Key) -> float:
    """How many doublings lie between the sizes of two keys."""
    theirs = dict(other.sizes)
    return sum(abs(math.log2(size / theirs[name])) for name, size in key.sizes)


@cache
def _entries(device_name: str) -> dict[tuple[str, int, tuple], list[Entry]]:
    """The entries for one model of GPU by all of a key but its sizes."""
    entries: dict[tuple[str, int, tuple], list[Entry]] = {}
    for entry in read_entries(tuned_table.FOLDER / f"{slug(device_name)}.json"):
        entries.setdefault((entry.key.kernel, entry.key.element_bytes, entry.key.flags), []).append(entry)
    return entries


@cache
def _device_name(device: torch.device) -> str:
    """ "cpu" for the interpreter."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
