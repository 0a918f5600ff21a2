"""Launch configurations of the selective scan: a default for each kernel and others worth trying.

Programs of one warp come first because `tl.associative_scan` over several meets at barriers.
"""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

CHUNK = 32
LARGEST_BLOCK = 64

# Kernel -> launches as channels in a block and warps; of `carry` states in a block, warps and chunks in a tile. The
# first is the default. Spills are checked ahead of time, speed is not yet.
_LAUNCHES: dict[str, tuple[tuple[int, ...], ...]] = {
    "sums": ((32, 1), (16, 1), (64, 1), (64, 2), (32, 2), (8, 1)),
    "carry": ((32, 1, 8), (32, 1, 16), (64, 1, 8), (64, 2, 16), (16, 1, 32), (128, 4, 16)),
    "output": ((16, 1), (8, 1), (32, 1), (32, 2), (16, 2), (64, 4)),
    "grads": ((8, 1), (4, 1), (16, 1), (16, 2), (8, 2), (32, 4)),
    "step": ((32, 4), (16, 1), (32, 1), (64, 4), (16, 2), (8, 1)),
}


def launch_key(kernel: str, element_bytes: int, channels: int, states: int, **flags: bool) -> Key:
    """The key of a kernel. Only a step holds its states in one tile; `carry` counts over channels and states."""
    sizes = {} if kernel == "carry" else {"channels": min(channels, LARGEST_BLOCK)}
    if kernel == "step":
        sizes["states"] = states
    return key(f"selective_scan.{kernel}", element_bytes, sizes, flags)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    sizes, name = dict(key.sizes), key.kernel.removeprefix("selective_scan.")
    for block, warps, *tile in _LAUNCHES[name]:
        # No larger block than the channels fill.
        blocks = {"BLOCK": block, "TILE": tile[0]} if tile else {"BLOCK_D": min(block, sizes["channels"])}
        yield blocks | {"num_warps": warps}


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
