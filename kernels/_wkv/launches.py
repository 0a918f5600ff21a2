"""Launch configurations of WKV: a default for each kernel and others worth trying.

Also how time is cut: a program walks a segment of tiles, and there are no more segments than fill a GPU.
"""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

TILE = 16  # tokens; a power of two
LARGEST_BLOCK = 64
# One-warp programs: eight for each of about 130 multiprocessors. Not yet measured.
_ENOUGH_PROGRAMS = 1024
_CHANNELS_A_PROGRAM = 32

# Kernel -> launches as channels in a block and warps; the first is the default. Spills are checked ahead of time, speed
# is not yet.
_LAUNCHES: dict[str, tuple[tuple[int, int], ...]] = {
    "sums": ((32, 1), (16, 1), (32, 2), (8, 1), (64, 4)),
    "carry": ((64, 1), (32, 1), (64, 2)),
    "output": ((32, 1), (16, 1), (32, 2), (8, 1), (64, 4)),
    "grad_sums": ((16, 1), (8, 1), (32, 2), (32, 4), (64, 4)),
    "grads": ((8, 1), (16, 2), (32, 4), (16, 1), (64, 8)),
    "step": ((64, 1), (64, 2), (32, 1)),
}


def segments(batch: int, length: int, channels: int) -> tuple[int, int]:
    """How many segments time and the state behind it are cut into, and the tiles of each."""
    tiles = -(-(length + 1) // TILE)
    wanted = -(-_ENOUGH_PROGRAMS * _CHANNELS_A_PROGRAM // (batch * channels))
    each = -(-tiles // min(tiles, wanted))
    return -(-tiles // each), each


def launch_key(kernel: str, element_bytes: int, channels: int, **flags: int) -> Key:
    return key(f"wkv.{kernel}", element_bytes, {"channels": min(channels, LARGEST_BLOCK)}, flags)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    most = dict(key.sizes)["channels"]
    for block, warps in _LAUNCHES[key.kernel.removeprefix("wkv.")]:
        # No larger block than the channels fill.
        yield {"BLOCK_D": min(block, most), "num_warps": warps}


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
