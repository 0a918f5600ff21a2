"""Describes the device at hand by measuring it: peak of matrix products by type, and bandwidth of memory.

For devices that have no description beside `nas/devices`; `scripts/describe_device.py` writes one.
"""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import yaml

from nas.devices import DeviceSpec, find_spec, read_spec, slug_of
from nas.measure.clock import time_call
from nas.measure.device import DTYPES, device_name
from nas.measure.memory import available_bytes, total_bytes

SECONDS = 0.4  # for each number
SIZES = {"cpu": 2048, "cuda": 8192}  # of the square matrices
BYTES = {"cpu": 128_000_000, "cuda": 2_000_000_000}  # about the weights of a deployed network on either
SHARE_OF_FREE = 8  # at most one part in so many of the free memory is taken


def spec_of(device: torch.device, folder: Path) -> DeviceSpec:
    """The shipped description of the device, or one that is measured once (a second or two) and kept in `folder`.

    Kept, so that the bounds of a study do not move with the machine's mood from one run to the next. The memory beside
    a CPU is that of this machine: others with the same processor have more or less.
    """
    name = device_name(device)
    found = find_spec(name)
    if found is None:
        path = folder / f"{slug_of(name)}.yaml"
        if not path.exists():
            write_spec(measured_spec(device), path)
        found = read_spec(path)
    return replace(found, memory=total_gb(device)) if device.type == "cpu" else found


def write_spec(spec: DeviceSpec, path: Path) -> None:
    """Write a description, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False), encoding="utf-8")
    partial.replace(path)


@cache
def measured_spec(device: torch.device, seconds: float = SECONDS) -> DeviceSpec:
    """A description from measurements."""
    name = device_name(device)
    types = ("float32",) if device.type == "cpu" else ("bfloat16", "float16", "float32")
    return DeviceSpec(
        name=name,
        tflops={dtype: matmul_tflops(device, DTYPES[dtype], seconds) for dtype in types},
        bandwidth=bandwidth(device, seconds),
        memory=total_gb(device),
        cache_mb=cache_mb(device),
        source=f"measured with torch {torch.__version__}, {torch.get_num_threads()} threads",
        slug=slug_of(name),
    )


def matmul_tflops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """TFLOP/s of a large square product."""
    size = SIZES[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with torch.inference_mode():
        time = time_call(lambda: a @ b, device, seconds=seconds)
    return round(2 * size**3 / time.low / 1e9, 4)


def bandwidth(device: torch.device, seconds: float) -> float:
    """GB/s: of a large copy on a GPU; on a CPU of reading a matrix for one vector, as decoding reads weights.

    A copy says too little of a CPU: every line that is written is read first.
    """
    free = available_bytes(device) or BYTES[device.type] * SHARE_OF_FREE
    numbers = min(BYTES[device.type], free // SHARE_OF_FREE) // 4
    if device.type == "cpu":
        matrix, vector = torch.ones(numbers // 4096, 4096), torch.ones(4096)
        with torch.inference_mode():
            time = time_call(lambda: torch.mv(matrix, vector), device, seconds=seconds)
        return round(matrix.nbytes / time.low / 1e6, 1)
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    time = time_call(lambda: target.copy_(source), device, seconds=seconds)
    return round(2 * source.nbytes / time.low / 1e6, 1)


def total_gb(device: torch.device) -> float:
    return round(total_bytes(device) / 1e9, 1)


def cache_mb(device: torch.device) -> float:
    """The L2 cache of a GPU; 0 for a CPU, whose caches are shared with whatever else runs there."""
    return torch.cuda.get_device_properties(device).L2_cache_size / 1e6 if device.type == "cuda" else 0.0
