"""Launch configurations of the attention kernels: for each head size and type a default and others worth trying."""

from dataclasses import asdict, dataclass

import triton
from torch import Tensor

from kernels.tuned_table import Config, Key
from kernels.tuning import key

PRECISION = "ieee"  # of float32 products; 16-bit types ignore it
LARGEST_SPLITS = 32  # parts that a cache is read in
LARGEST_ROWS = 64  # query heads of a group in one tile of a step


@dataclass(frozen=True)
class Launch:
    """Queries and keys in a tile, warps in a program, stages of the software pipeline."""

    BM: int
    BN: int
    num_warps: int
    num_stages: int


# By the head size rounded up to a power of two and the bytes of an element. The first is the default: it neither spills
# nor exceeds the shared memory on sm_80, sm_90 and sm_100, by compiling with Triton 3.8 ahead of time; not timed yet.
# (Products in float32 run without tensor cores, whence their small tiles; dq of head size 256 spills 200 bytes all the
# same.) The others are what scripts/tune_kernels.py tries: on some architecture each of them fits.
FORWARD = {
    (16, 2): (Launch(128, 64, 4, 3), Launch(128, 128, 4, 3), Launch(128, 128, 8, 2), Launch(64, 64, 4, 3)),
    (32, 2): (Launch(128, 64, 4, 3), Launch(128, 128, 4, 3), Launch(128, 128, 8, 2), Launch(64, 64, 4, 3)),
    (64, 2): (
        Launch(128, 128, 8, 2),
        Launch(128, 64, 4, 3),
        Launch(128, 64, 8, 3),
        Launch(128, 128, 8, 3),
        Launch(64, 64, 4, 3),
        Launch(128, 64, 4, 4),
    ),
    (128, 2): (
        Launch(128, 64, 8, 3),
        Launch(128, 128, 8, 2),
        Launch(128, 64, 8, 2),
        Launch(128, 128, 8, 3),
        Launch(64, 64, 4, 3),
        Launch(128, 32, 8, 4),
    ),
    (256, 2): (
        Launch(64, 32, 8, 2),
        Launch(64, 64, 8, 2),
        Launch(64, 64, 4, 2),
        Launch(128, 64, 8, 2),
        Launch(128, 32, 8, 2),
        Launch(64, 32, 4, 3),
    ),
    (16, 4): (Launch(32, 16, 4, 2), Launch(64, 32, 4, 2), Launch(32, 32, 4, 2)),
    (32, 4): (Launch(32, 16, 4, 2), Launch(64, 32, 8, 2), Launch(32, 32, 4, 2)),
    (64, 4): (Launch(32, 32, 8, 2), Launch(32, 16, 4, 2), Launch(64, 32, 8, 2)),
    (128, 4): (Launch(32, 16, 8, 1), Launch(16, 16, 4, 2), Launch(32, 16, 8, 2)),
    (256, 4): (Launch(16, 16, 8, 1), Launch(16, 16, 8, 2)),
}
BACKWARD_DQ = {
    (16, 2): (Launch(128, 64, 8, 2), Launch(128, 64, 4, 2), Launch(64, 64, 4, 3)),
    (32, 2): (Launch(128, 64, 8, 2), Launch(128, 64, 4, 2), Launch(64, 64, 4, 3)),
    (64, 2): (
        Launch(128, 32, 8, 2),
        Launch(128, 64, 8, 2),
        Launch(128, 64, 8, 3),
        Launch(64, 64, 4, 2),
        Launch(128, 128, 8, 2),
        Launch(64, 32, 4, 3),
    ),
    (128, 2): (
        Launch(128, 64, 8, 2),
        Launch(128, 32, 8, 3),
        Launch(64, 64, 4, 2),
        Launch(64, 64, 8, 2),
        Launch(128, 64, 8, 3),
        Launch(64, 32, 4, 3),
    ),
    (256, 2): (
        Launch(32, 32, 4, 1),
        Launch(64, 32, 8, 2),
        Launch(32, 64, 8, 1),
        Launch(32, 32, 8, 2),
        Launch(32, 32, 4, 2),
        Launch(32, 64, 4, 1),
    ),
    (16, 4): (Launch(32, 32, 8, 1), Launch(32, 32, 4, 1)),
    (32, 4): (Launch(32, 32, 8, 1), Launch(32, 16, 4, 1)),
    (64, 4): (Launch(32, 32, 8, 1), Launch(32, 16, 8, 1)),
    (128, 4): (Launch(16, 16, 8, 1), Launch(32, 16, 8, 1)),
    (256, 4): (Launch(16, 16, 8, 1),),
}
BACKWARD_DKV = {
    (16, 2): (Launch(64, 128, 8, 2), Launch(64, 128, 4, 2), Launch(64, 64, 4, 3)),
    (32, 2): (Launch(64, 128, 8, 2), Launch(64, 128, 4, 2), Launch(64, 64, 4, 3)),
    (64, 2): (
        Launch(64, 128, 8, 2),
        Launch(32, 64, 4, 3),
        Launch(64, 128, 8, 3),
        Launch(64, 64, 4, 2),
        Launch(64, 64, 8, 2),
        Launch(32, 128, 8, 3),
    ),
    (128, 2): (
        Launch(32, 64, 8, 2),
        Launch(64, 128, 8, 2),
        Launch(32, 128, 8, 2),
        Launch(64, 64, 8, 2),
        Launch(32, 128, 8, 3),
        Launch(32, 64, 4, 3),
    ),
    (256, 2): (
        Launch(32, 32, 8, 1),
        Launch(32, 32, 8, 2),
        Launch(16, 32, 8, 2),
        Launch(64, 32, 4, 1),
        Launch(32, 32, 4, 1),
        Launch(64, 32, 8, 1),
    ),
    (16, 4): (Launch(32, 32, 8, 1), Launch(32, 32, 4, 1)),
    (32, 4): (Launch(32, 32, 8, 1), Launch(16, 32, 4, 1)),
    (64, 4): (Launch(32, 32, 8, 1), Launch(16, 32, 8, 1)),
    (128, 4): (Launch(16, 32, 8, 1), Launch(16, 16, 8, 1)),
    (256, 4): (Launch(16, 16, 8, 1),),
}
STEP = {
    (16, 2): (Launch(64, 128, 4, 3), Launch(64, 64, 4, 4), Launch(64, 128, 2, 3)),
    (32, 2): (Launch(64, 128, 4, 3), Launch(64, 64, 4, 4), Launch(64, 128, 2, 3)),
    (64, 2): (
        Launch(64, 64, 4, 3),
        Launch(64, 128, 4, 3),
        Launch(64, 64, 2, 4),
        Launch(64, 32, 2, 4),
        Launch(64, 128, 8, 3),
        Launch(64, 64, 4, 4),
    ),
    (128, 2): (
        Launch(64, 64, 4, 3),
        Launch(64, 32, 4, 4),
        Launch(64, 64, 2, 3),
        Launch(64, 128, 8, 2),
        Launch(64, 32, 2, 4),
        Launch(64, 64, 4, 4),
    ),
    (256, 2): (Launch(32, 32, 4, 2), Launch(32, 32, 4, 3), Launch(32, 64, 8, 2), Launch(32, 64, 4, 2)),
    (16, 4): (Launch(16, 32, 4, 2), Launch(16, 64, 4, 2)),
    (32, 4): (Launch(16, 32, 4, 2), Launch(16, 64, 4, 2)),
    (64, 4): (Launch(16, 32, 4, 2), Launch(16, 16, 4, 3)),
    (128, 4): (Launch(16, 16, 4, 1), Launch(16, 16, 4, 2)),
    (256, 4): (Launch(16, 16, 8, 1), Launch(16, 16, 8, 2)),
}
COMBINE_WARPS = (4, 2, 1, 8)  # for every head size; a program reads no more than 32 rows
TABLES = {
    "attention.forward": FORWARD,
    "attention.backward_dq": BACKWARD_DQ,
    "attention.backward_dkv": BACKWARD_DKV,
    "attention.step": STEP,
}


def sequence_key(kernel: str, q: Tensor, causal: bool, window: int, block_size: int) -> Key:
    """The key of a kernel over a sequence; `block` is the part of the block size that tiles are fitted to, 0 for none.

    Blocks that no power of two from 16 on divides are all alike to the tiles, and so are those that 128 divides.
    """
    divisor = block_size & -block_size  # the largest power of two that divides it
    block = 0 if block_size == 0 else 1 if divisor < 16 else min(divisor, 128)
    flags = {"causal": causal, "windowed": window > 0, "block": block, "padded": _padded(q)}
    return key(kernel, q.dtype.itemsize, {"D": q.shape[-1]}, flags)


def step_key(q: Tensor, group: int, keep: bool) -> Key:
    """The key of a decode step; `rows` is the query heads of a group, as far as one tile holds them."""
    rows = min(max(16, triton.next_power_of_2(group)), LARGEST_ROWS)
    flags = {"rows": rows, "keep": keep, "padded": _padded(q)}
    return key("attention.step", q.dtype.itemsize, {"D": q.shape[-1]}, flags)


def combine_key(q: Tensor) -> Key:
    """The key of the sum over the parts that a cache was read in."""
    return key("attention.combine", q.dtype.itemsize, {"D": q.shape[-1]}, {"padded": _padded(q)})


def _padded(q: Tensor) -> bool:
    """Whether the head size is no power of two, which the kernels mask."""
    return triton.next_power_of_2(q.shape[-1]) != q.shape[-1]


def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    if key.kernel == "attention.combine":
        return [{"num_warps": warps} for warps in COMBINE_WARPS]
    flags = dict(key.flags)
    launches = TABLES[key.kernel][dict(key.sizes)["D"], key.element_bytes]
    candidates: list[Config] = []
    for launch in launches:
        config = asdict(launch)
        if key.kernel == "attention.step":
            config["BM"] = min(config["BM"], flags["rows"])
        elif flags["block"] > 0:
            config |= _fit_to_blocks(launch, flags["block"])
        if config not in candidates:
            candidates.append(config)
    return candidates


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]


def _fit_to_blocks(launch: Launch, block: int) -> Config:
    """Tiles for a block mask: few queries, so that more tiles are skipped, and keys that do not straddle blocks.

    Blocks that no power of two from 16 on divides are straddled: a smaller tile fills no matrix instruction.
    """
    return {"BM": min(launch.BM, 64), "BN": min(launch.BN, block) if block >= 16 else launch.BN}


def sequence_constants(
    config: Config, size: int, causal: bool, window: int, block_size: int
) -> dict[str, int | bool | str]:
    """The compile-time arguments and launch options of a kernel over a sequence with heads of `size`."""
    return {
        "D": size,
        "CAUSAL": causal,
        "WINDOWED": window > 0,
        "SELECTED": block_size > 0,
        "ONE_BLOCK": block_size > 0 and block_size % config["BN"] == 0,
        "BD": triton.next_power_of_2(size),
        "PRECISION": PRECISION,
        **config,
    }


def step_constants(config: Config, size: int, keep: bool) -> dict[str, int | bool | str]:
    """Likewise of a decode step."""
    return {"D": size, "KEEP": keep, "BD": triton.next_power_of_2(size), "PRECISION": PRECISION, **config}
