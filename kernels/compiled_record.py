"""What every kernel took when it was last compiled ahead of time, so that only what has changed is compiled again.

One JSON file for each operation, `kernels/compiled/<operation>.json`, written by `python -m kernels.ahead_of_time
--record` alone. A case is found by a hash of all that its code follows from but the version of Triton, which stands in
the file: under another one nothing in it counts.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from kernels.tuned_table import triton_version

FOLDER = Path(__file__).parent / "compiled"
COMPILED_AGAIN = 12  # one in so many cases of an operation


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers per thread, stack bytes per thread (spills), shared bytes per block.

    matrix_units: whether it uses them, and so instructions that each architecture has its own of.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    matrix_units: bool = True


@dataclass(frozen=True)
class Entry:
    """A case: its name, for readers alone, and what it takes by architecture."""

    name: str
    by_arch: dict[int, Resources]


def path_of(op: str) -> Path:
    return FOLDER / f"{op}.json"


def recorded_version(op: str) -> str | None:
    """The version of Triton that compiled the record of an operation; None without a record.

    Raises ValueError when the file is not what `write_record` wrote.
    """
    return _read(op)[0]


def read_record(op: str) -> dict[str, Entry]:
    """The entries of an operation by hash; none where there is no file, or one of another version of Triton.

    Raises ValueError when the file is not what `write_record` wrote.
    """
    version, entries = _read(op)
    return entries if version == triton_version() else {}


def write_record(op: str, entries: Mapping[str, Entry]) -> None:
    """Write the file of an operation whole or not at all: a line for each case, in order of names and hashes."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].name, item[0]))
    lines = [
        json.dumps(
            {"case": one.name, "hash": content} | {str(arch): astuple(one.by_arch[arch]) for arch in one.by_arch}
        )
        for content, one in ordered
    ]
    head = json.dumps({"triton": triton_version(), "numbers": ["registers", "stack bytes", "shared bytes", "mma"]})
    path = path_of(op)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f'{head[:-1]}, "cases": [\n' + ",\n".join(lines) + "\n]}\n")
    unfinished.replace(path)


def compiled_again(record: Mapping[str, Entry]) -> list[str]:
    """Which of these cases are compiled although they are recorded, by hash: a fixed share, and one at least, that
    differs from kernel to kernel. So a record that was not compiled is found out."""
    return sorted(record)[: math.ceil(len(record) / COMPILED_AGAIN)]


def _read(op: str) -> tuple[str | None, dict[str, Entry]]:
    path = path_of(op)
    if not path.exists():
        return None, {}
    try:
        content = json.loads(path.read_text())
        return str(content["triton"]), {fields["hash"]: _entry(fields) for fields in content["cases"]}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(
            f"{path} must be a record as `python -m kernels.ahead_of_time --record` writes it, but it cannot be read "
            f"({type(problem).__name__}: {problem}): restore the file, or delete it and run that."
        ) from None


def _entry(fields: Mapping[str, Any]) -> Entry:
    by_arch = {int(key): Resources(*numbers) for key, numbers in fields.items() if key not in ("case", "hash")}
    return Entry(fields["case"], by_arch)
