"""Devices as data: peak arithmetic, memory bandwidth and memory, from which the roofline follows.

One YAML file a device beside this one. A device that has no file can be described on the command line by three numbers.
Free of torch, so that a search can be set up for a device that is not at hand.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nas.architecture import did_you_mean

FOLDER = Path(__file__).parent
FIELDS = ("tflops", "bandwidth", "memory")
NEAREST_DTYPES = {
    "float32": ("float32", "bfloat16", "float16"),
    "bfloat16": ("bfloat16", "float16", "float32"),
    "float16": ("float16", "bfloat16", "float32"),
}


class DeviceError(ValueError):
    """A description of a device breaks a rule. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """What the roofline needs of a device.

    tflops: peak of matrix products in TFLOP/s by dtype, dense. bandwidth: of the memory, in GB/s (1e9). memory: in GB
    (1e9). cache_mb: last-level cache in MB (1e6), or 0 where unknown. source: where the numbers come from.
    """

    name: str
    tflops: Mapping[str, float]
    bandwidth: float
    memory: float
    cache_mb: float = 0.0
    source: str = "given by the user"
    slug: str = field(default="described", compare=False)

    @property
    def dtype(self) -> str:
        """The type in which such a device is usually served: bfloat16 where it has it."""
        return "bfloat16" if "bfloat16" in self.tflops else "float32"

    @property
    def memory_bytes(self) -> int:
        return int(self.memory * 1e9)

    def flops_per_second(self, dtype: str) -> float:
        """Peak in FLOP/s; a type without a number of its own takes the one that is nearest in width."""
        return next(self.tflops[name] for name in NEAREST_DTYPES[dtype] if name in self.tflops) * 1e12

    def milliseconds(self, flops: float, moved_bytes: float, dtype: str) -> float:
        """The least time that so much arithmetic and so much traffic take: whichever is longer."""
        return 1e3 * max(flops / self.flops_per_second(dtype), moved_bytes / (self.bandwidth * 1e9))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tflops": dict(self.tflops),
            "bandwidth": self.bandwidth,
            "memory": self.memory,
            "cache_mb": self.cache_mb,
            "source": self.source,
        }


def slug_of(device_name: str) -> str:
    """`NVIDIA H200` -> `nvidia-h200`: the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower().replace("(r)", "")).strip("-")


@cache
def described_devices() -> dict[str, DeviceSpec]:
    """The shipped descriptions by their short names, such as `h200`."""
    return {path.stem: read_spec(path) for path in sorted(FOLDER.glob("*.yaml"))}


def find_spec(device_name: str) -> DeviceSpec | None:
    """The description of a device that gives itself this name, such as `NVIDIA H200`; None where there is none."""
    words = slug_of(device_name).split("-")
    for spec in described_devices().values():
        if slug_of(spec.name).split("-") == words:
            return spec
    return None


def read_spec(path: Path) -> DeviceSpec:
    """A description from its file. Raises DeviceError for what is missing or no number."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DeviceError(f"The description {path} cannot be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(data, Mapping):
        raise DeviceError(f"The description {path} must be fields such as tflops, bandwidth and memory.")
    return spec_from(data, slug=path.stem)


def spec_from(given: Mapping[str, Any], *, slug: str = "described") -> DeviceSpec:
    """A description from `{tflops: 989, bandwidth: 4800, memory: 141}`; `tflops` may be given by dtype."""
    known = {*FIELDS, "name", "cache_mb", "source"}
    for key in given:
        if key not in known:
            raise DeviceError(f"There is no measure.device.{key}. {did_you_mean(key, known)}")
    missing = [key for key in FIELDS if key not in given]
    if missing:
        raise DeviceError(
            f"measure.device must give tflops (TFLOP/s), bandwidth (GB/s) and memory (GB), but {', '.join(missing)} "
            "is missing."
        )
    tflops = given["tflops"]
    by_dtype = dict(tflops) if isinstance(tflops, Mapping) else {"bfloat16": tflops}
    for dtype, value in by_dtype.items():
        if dtype not in ("float32", "bfloat16", "float16"):
            raise DeviceError(f"There is no dtype {dtype!r} in measure.device.tflops. Use float32, bfloat16, float16.")
        check_number(f"tflops.{dtype}", value)
    if not by_dtype:
        raise DeviceError("measure.device.tflops must be a number or numbers by dtype, but got none.")
    for key in ("bandwidth", "memory"):
        check_number(key, given[key])
    cache = given.get("cache_mb", 0.0)
    if cache != 0:
        check_number("cache_mb", cache)
    return DeviceSpec(
        name=str(given.get("name", "a described device")),
        tflops={name: float(value) for name, value in by_dtype.items()},
        bandwidth=float(given["bandwidth"]),
        memory=float(given["memory"]),
        cache_mb=float(cache),
        source=str(given.get("source", "given by the user")),
        slug=slug,
    )


def check_number(name: str, value: object) -> None:
    """Raise DeviceError unless `value` is a finite number above zero."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise DeviceError(f"measure.device.{name} must be a number above zero, but got {value!r}.")
