"""Measured blocks on disk: what each part of a network takes in each phase on one device, and what that depends on.

One JSON file a device. A block is a mixer or an FFN with its norm, or the ends of a network (embedding, last norm and
head). An entry counts while the hashes of its own operations are those of the code at hand, and, on the device itself,
while driver, torch and Triton are those it was measured with; a change of another operation leaves it alone.

FFNs are measured at a grid of widths, and between two of them the cost is a straight line.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.architecture import ArchitectureError
from nas.devices import slug_of
from nas.measure.composition import Whole
from nas.measure.table_parts import Part, grid_neighbours, is_ffn, part_from_dict, part_to_dict, width_of
from nas.measurement import Measurement
from nas.workload import Phase, phase_from_dict, phase_to_dict

FORMAT = 1
SHIPPED = Path(__file__).parent / "tables"
VERSIONS = ("driver", "torch", "triton", "threads")
"""Of an environment: what must agree on the device itself."""


class TableError(ValueError):
    """A table cannot be used. The message is one sentence for a user."""


WholeKey = tuple[str, Phase, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One block in one phase. Times in milliseconds, beyond what the rest of a network takes.

    best_by: whose kernels gave `best`. bytes_each: memory beyond weights and state that every such block adds at the
    peak (saved for the backward pass); bytes_once: what one pass needs beside, whatever the number of blocks.
    launches: how the configurations of its kernels were found: tuned, nearest, default, or portable (no GPU kernel).
    roofline_ms: the bound on this device. operations: hash of the code of each.
    """

    part: Part
    d_model: int
    phase: Phase
    dtype: str
    own: Measurement
    best: Measurement
    best_by: str
    bytes_each: int
    bytes_once: int
    launches: str
    roofline_ms: float
    operations: Mapping[str, str]
    environment: Mapping[str, str | int]

    @property
    def key(self) -> str:
        return key_of(self.part, self.d_model, self.phase, self.dtype)

    @property
    def share_of_roofline(self) -> float:
        """1 is as fast as the device could be."""
        return self.roofline_ms / self.own.value if self.own.value > 0 else 0.0

    def flagged(self, notes: tuple[str, ...]) -> "Entry":
        """With notes about the conditions it was measured under."""
        own, best = (replace(time, notes=(*time.notes, *notes)) for time in (self.own, self.best))
        return replace(self, own=own, best=best)


def key_of(part: Part, d_model: int, phase: Phase, dtype: str) -> str:
    """The identity of a block: equal functions have equal keys."""
    return json.dumps([part_to_dict(part, d_model), d_model, phase_to_dict(phase), dtype], sort_keys=True)


class BlockTable:
    """The entries of one device, and where new ones are written."""

    def __init__(self, device_name: str, path: Path) -> None:
        self.device_name = device_name
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.wholes: dict[WholeKey, Whole] = {}
        self._new: dict[str, Entry] = {}
        self._new_wholes: dict[WholeKey, Whole] = {}

    @classmethod
    def open(cls, device_name: str, path: Path, *, also: Iterable[Path] = ()) -> "BlockTable":
        """The entries of `also`, then of `path`, where they exist; raises TableError for a corrupt or foreign file."""
        table = cls(device_name, path)
        for file in (*also, path):
            if file.exists():
                entries, wholes = read_table(file, device_name)
                table.entries.update((entry.key, entry) for entry in entries)
                table.wholes.update((whole.key, whole) for whole in wholes)
        return table

    def find(
        self, part: Part, d_model: int, phase: Phase, dtype: str, counts: Callable[[Entry], bool] | None = None
    ) -> Entry | None:
        """The entry of a block; an FFN between two measured widths is interpolated. None where one is missing.

        counts: says whether an entry is still true, and one that is not is missing; None believes all.
        """

        def known(one: Part) -> Entry | None:
            entry = self.entries.get(key_of(one, d_model, phase, dtype))
            return entry if entry is None or counts is None or counts(entry) else None

        exact = known(part)
        if exact is not None or not is_ffn(part):
            return exact
        low, high = (known(neighbour) for neighbour in grid_neighbours(part))
        return None if low is None or high is None else between(low, high, part)

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = self._new[entry.key] = entry

    def add_whole(self, whole: Whole) -> None:
        self.wholes[whole.key] = self._new_wholes[whole.key] = whole

    def save(self) -> None:
        """Write what is new into the file, beside what another process has put there meanwhile."""
        if not self._new and not self._new_wholes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path.with_suffix(".lock")):
            entries, wholes = read_table(self.path, self.device_name) if self.path.exists() else ([], [])
            there, whole_there = {e.key: e for e in entries}, {w.key: w for w in wholes}
            write_table(
                self.path,
                self.device_name,
                (there | self._new).values(),
                (whole_there | self._new_wholes).values(),
            )
        self._new.clear()
        self._new_wholes.clear()


def between(low: Entry, high: Entry, part: Part) -> Entry:
    """The entry of an FFN's width between two measured ones, on a straight line."""
    start, end = width_of(low.part), width_of(high.part)
    share = 0.0 if end == start else (width_of(part) - start) / (end - start)

    def mixed(a: float, b: float) -> float:
        return a + share * (b - a)

    def line(a: Measurement, b: Measurement) -> Measurement:
        return replace(a, value=mixed(a.value, b.value), low=mixed(a.low, b.low), high=mixed(a.high, b.high))

    return replace(
        low,
        part=part,
        own=line(low.own, high.own),
        best=line(low.best, high.best),
        bytes_each=round(mixed(low.bytes_each, high.bytes_each)),
        bytes_once=round(mixed(low.bytes_once, high.bytes_once)),
        roofline_ms=mixed(low.roofline_ms, high.roofline_ms),
    )


def read_table(path: Path, device_name: str) -> tuple[list[Entry], list[Whole]]:
    """The blocks and whole networks of a file. Raises TableError when it is no table, or one of another device."""
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise TableError(f"The table {path} has format {data['format']}, but this version reads {FORMAT}.")
        if slug_of(data["device"]) != slug_of(device_name):
            raise TableError(
                f"The table {path} was measured on {data['device']}, but {device_name} is wanted; take a table of that "
                "device, or leave measure.table out."
            )
        environments = data["environments"]
        entries = [entry_from_dict(item, environments[item["environment"]]) for item in data["blocks"]]
        # Of an earlier version, without its mixing, a network teaches nothing and is measured anew.
        networks = [item for item in data.get("wholes", []) if "mixing" in item]
        return entries, [Whole.from_dict(item, environments[item["environment"]]) for item in networks]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArchitectureError) as error:
        if isinstance(error, TableError):
            raise
        reason = (str(error).splitlines() or ["no message"])[0]
        raise TableError(
            f"The table {path} cannot be read ({type(error).__name__}: {reason}); move it away, and blocks are "
            "measured anew."
        ) from None


def write_table(path: Path, device_name: str, entries: Iterable[Entry], wholes: Iterable[Whole]) -> None:
    """Write a table whole or not at all; blocks in the order of their keys, so that a change is a small difference."""
    environments: list[Mapping[str, str | int]] = []

    def number_of(environment: Mapping[str, str | int]) -> int:
        if environment not in environments:
            environments.append(environment)
        return environments.index(environment)

    blocks = [entry_to_dict(e, number_of(e.environment)) for e in sorted(entries, key=lambda e: e.key)]
    networks = [w.to_dict(number_of(w.environment)) for w in sorted(wholes, key=lambda w: str(w.key))]
    head = json.dumps({"format": FORMAT, "device": device_name, "environments": environments})[:-1]
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another worker may write at the same time
    partial.write_text(f'{head}, "wholes": [\n{lines_of(networks)}\n], "blocks": [\n{lines_of(blocks)}\n]}}\n')
    partial.replace(path)


def lines_of(items: Iterable[dict[str, Any]]) -> str:
    return ",\n".join("  " + json.dumps(item) for item in items)


def entry_to_dict(entry: Entry, environment: int) -> dict[str, Any]:
    return {
        "part": part_to_dict(entry.part, entry.d_model),
        "d_model": entry.d_model,
        "phase": phase_to_dict(entry.phase),
        "dtype": entry.dtype,
        "own": entry.own.to_dict(),
        "best": entry.best.to_dict(),
        "best_by": entry.best_by,
        "bytes_each": entry.bytes_each,
        "bytes_once": entry.bytes_once,
        "launches": entry.launches,
        "roofline_ms": entry.roofline_ms,
        "operations": dict(entry.operations),
        "environment": environment,
    }


def entry_from_dict(data: Mapping[str, Any], environment: Mapping[str, str | int]) -> Entry:
    given = {
        **data,
        "part": part_from_dict(data["part"]),
        "phase": phase_from_dict(data["phase"]),
        "own": Measurement.from_dict(data["own"]),
        "best": Measurement.from_dict(data["best"]),
        "environment": environment,
    }
    return Entry(**given)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a file alone while a table is read, merged and written."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
