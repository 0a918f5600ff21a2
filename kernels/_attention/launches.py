"""Launch configurations of the attention kernels: a default for each head size and type, and what follows from it."""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

PRECISION = "ieee"  # of float32 products; 16-bit types ignore it
LARGEST_SPLITS = 32  # parts that a cache is read in


@dataclass(frozen=True)
class Launch:
    """Queries and keys in a tile, warps in a program, stages of the software pipeline."""

    BM: int
    BN: int
    num_warps: int
    num_stages: int


# Tiles that neither spill nor exceed the shared memory on sm_80, sm_90 and sm_100, by compiling ahead of time with
# Triton 3.8; not yet timed. Products in float32 run without tensor cores, whence their small tiles (dq of head size 256
# spills 200 bytes all the same).
FORWARD = {
    (16, 2): Launch(128, 64, 4, 3),
    (32, 2): Launch(128, 64, 4, 3),
    (64, 2): Launch(128, 128, 8, 2),
    (128, 2): Launch(128, 64, 8, 3),
    (256, 2): Launch(64, 32, 8, 2),
    (16, 4): Launch(32, 16, 4, 2),
    (32, 4): Launch(32, 16, 4, 2),
    (64, 4): Launch(32, 32, 8, 2),
    (128, 4): Launch(32, 16, 8, 1),
    (256, 4): Launch(16, 16, 8, 1),
}
BACKWARD_DQ = {
    (16, 2): Launch(128, 64, 8, 2),
    (32, 2): Launch(128, 64, 8, 2),
    (64, 2): Launch(128, 32, 8, 2),
    (128, 2): Launch(128, 64, 8, 2),
    (256, 2): Launch(32, 32, 4, 1),
    (16, 4): Launch(32, 32, 8, 1),
    (32, 4): Launch(32, 32, 8, 1),
    (64, 4): Launch(32, 32, 8, 1),
    (128, 4): Launch(16, 16, 8, 1),
    (256, 4): Launch(16, 16, 8, 1),
}
BACKWARD_DKV = {
    (16, 2): Launch(64, 128, 8, 2),
    (32, 2): Launch(64, 128, 8, 2),
    (64, 2): Launch(64, 128, 8, 2),
    (128, 2): Launch(32, 64, 8, 2),
    (256, 2): Launch(32, 32, 8, 1),
    (16, 4): Launch(32, 32, 8, 1),
    (32, 4): Launch(32, 32, 8, 1),
    (64, 4): Launch(32, 32, 8, 1),
    (128, 4): Launch(16, 32, 8, 1),
    (256, 4): Launch(16, 16, 8, 1),
}
STEP = {
    (16, 2): Launch(64, 128, 4, 3),
    (32, 2): Launch(64, 128, 4, 3),
    (64, 2): Launch(64, 64, 4, 3),
    (128, 2): Launch(64, 64, 4, 3),
    (256, 2): Launch(32, 32, 4, 2),
    (16, 4): Launch(16, 32, 4, 2),
    (32, 4): Launch(16, 32, 4, 2),
    (64, 4): Launch(16, 32, 4, 2),
    (128, 4): Launch(16, 16, 4, 1),
    (256, 4): Launch(16, 16, 8, 1),
}


def launch_for(table: dict[tuple[int, int], Launch], size: int, dtype: torch.dtype) -> Launch:
    """The default launch, by the head size rounded up to a power of two and the bytes of an element."""
    return table[triton.next_power_of_2(size), dtype.itemsize]


def fit(launch: Launch, block_size: int) -> Launch:
    """Tiles for a block mask: few queries, so that more tiles are skipped, and keys that do not straddle blocks.

    Blocks that no power of two from 16 on divides are straddled: a smaller tile fills no matrix instruction.
    """
    if block_size == 0:
        return launch
    divisor = block_size & -block_size  # the largest power of two that divides it
    return replace(launch, BM=min(launch.BM, 64), BN=min(launch.BN, divisor) if divisor >= 16 else launch.BN)


def constants_for(launch: Launch, q: Tensor, causal: bool, window: int, block_size: int) -> dict[str, int | bool | str]:
    return {
        "D": q.shape[-1],
        "CAUSAL": causal,
        "WINDOWED": window > 0,
        "SELECTED": block_size > 0,
        "ONE_BLOCK": block_size > 0 and block_size % launch.BN == 0,
        "BM": launch.BM,
        "BN": launch.BN,
        "BD": triton.next_power_of_2(q.shape[-1]),
        "PRECISION": PRECISION,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
