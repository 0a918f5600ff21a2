"""The file of measured launch configurations of one GPU: what is in it, and which entries still count.

One JSON file for each model of GPU, `kernels/tuned/<slug>.json`, written by `scripts/tune_kernels.py` alone and read by
`kernels/tuning.py` alone. An entry counts only for the kernel that was tuned: it carries a hash of the kernel's source
and the version of Triton, because another compiler may turn a launch that was right into one that is wrong.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "tuned"
FORMAT = 1

Config = dict[str, int]


@dataclass(frozen=True)
class Key:
    """What a launch configuration depends on; never a number of tokens or sequences.

    `kernel` is "operation.kernel", `element_bytes` those of the inputs, `sizes` the tile-relevant sizes, rounded up to
    powers of two, `flags` what else changes the compiled code.
    """

    kernel: str
    element_bytes: int
    sizes: tuple[tuple[str, int], ...] = ()
    flags: tuple[tuple[str, int], ...] = ()

    @property
    def label(self) -> str:
        parts = [f"{name}={value}" for name, value in (*self.sizes, *self.flags)]
        return " ".join([self.kernel, f"bytes={self.element_bytes}", *parts])


@dataclass(frozen=True)
class Refused:
    """A configuration that must not be launched for the key, and why."""

    config: Config
    reason: str


@dataclass(frozen=True)
class Entry:
    """What was measured for one key.

    `config` is the fastest of those that were right; None when not even the default was. Milliseconds are medians of
    the kernel alone. `error` is the worst of output and gradients as a share of what is tolerated, below 1 when right.
    `checked_sizes` are further sizes at which `config` was checked, though not timed: there it serves as nearest.
    """

    key: Key
    config: Config | None
    default: Config
    milliseconds: float | None
    default_milliseconds: float | None
    error: float | None
    problem: str
    triton: str
    source: str
    checked_sizes: tuple[tuple[tuple[str, int], ...], ...] = ()
    refused: tuple[Refused, ...] = field(default=())

    def counts(self, source: str) -> bool:
        """Whether it was tuned for this source under the minor version of Triton that is installed."""
        return self.source == source and minor_version(self.triton) == minor_version(triton_version())


def slug(device_name: str) -> str:
    """The name of a GPU as its file is called: "NVIDIA H200" is "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def fingerprint(operation: str, gpu: str) -> str:
    """A hash of the launch configurations measured for an operation's kernels on a model of GPU.

    Whoever keeps times of an operation keeps this beside them: tuning changes the one and this alike. Raises ValueError
    when the file of this GPU is corrupt.
    """
    entries = read_entries(FOLDER / f"{slug(gpu)}.json")
    chosen = sorted(
        (entry.key.label, sorted(entry.config.items()))
        for entry in entries
        if entry.config is not None and entry.key.kernel.startswith(f"{operation}.")
    )
    return hashlib.sha256(repr(chosen).encode()).hexdigest()[:12]


def triton_version() -> str:
    import triton  # late: it is not installed everywhere

    return triton.__version__


def minor_version(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file; none if there is no file.

    Raises ValueError with one sentence when the file is not what `write_entries` wrote.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} is not {FORMAT}")
        return [_entry(fields) for fields in content["entries"]]
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        detail = f"no {problem}" if isinstance(problem, KeyError) else problem
        raise ValueError(
            f"{path} must be a table of tuned launches as scripts/tune_kernels.py writes it, but it cannot be read "
            f"({detail}): restore the file, or delete it to launch with the defaults."
        ) from None


def write_entries(path: Path, gpu: str, entries: list[Entry]) -> None:
    """Write the file whole or not at all, entries in order of their keys."""
    content = {
        "format": FORMAT,
        "gpu": gpu,
        "entries": [_fields(entry) for entry in sorted(entries, key=lambda entry: entry.key.label)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)


def _fields(entry: Entry) -> dict[str, Any]:
    fields = asdict(entry)
    fields["key"] |= {"sizes": dict(entry.key.sizes), "flags": dict(entry.key.flags)}
    fields["checked_sizes"] = [dict(sizes) for sizes in entry.checked_sizes]
    return fields


def _entry(fields: Mapping[str, Any]) -> Entry:
    key = Key(
        fields["key"]["kernel"],
        int(fields["key"]["element_bytes"]),
        _pairs(fields["key"]["sizes"]),
        _pairs(fields["key"]["flags"]),
    )
    given = {name: fields[name] for name in ("milliseconds", "default_milliseconds", "error", "problem")}
    return Entry(
        key=key,
        config=None if fields["config"] is None else dict(_pairs(fields["config"])),
        default=dict(_pairs(fields["default"])),
        **given,
        triton=str(fields["triton"]),
        source=str(fields["source"]),
        checked_sizes=tuple(_pairs(sizes) for sizes in fields["checked_sizes"]),
        refused=tuple(Refused(dict(_pairs(item["config"])), item["reason"]) for item in fields["refused"]),
    )


def _pairs(numbers: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    return tuple((str(name), int(number)) for name, number in numbers.items())
