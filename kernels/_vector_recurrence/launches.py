"""Launch configurations of the vector recurrence: a default for each kernel and others worth trying.

Also how time is cut: a program walks a segment of tiles, and there are no more segments than fill a GPU. Where
sequences and channels fill it, there is one, and every tensor moves once.
"""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

TILE = 16  # tokens; a power of two
LARGEST_BLOCK = 128
# One-warp programs that keep enough loads in flight: eight for each of about 130 multiprocessors. Not yet measured.
_ENOUGH_PROGRAMS = 1024
_CHANNELS_A_PROGRAM = 32

# Kernel -> launches as channels in a block, warps, tiles in flight; the first is the default. Spills are checked ahead
# of time, speed is not yet.
_LAUNCHES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "sums": ((32, 1, 3), (32, 1, 1), (64, 1, 2), (64, 2, 3), (16, 1, 4), (128, 4, 3)),
    "carry": ((128, 1, 1), (64, 1, 1), (128, 2, 1), (128, 4, 1), (32, 1, 1)),
    "output": ((32, 1, 3), (32, 1, 1), (64, 1, 2), (64, 2, 3), (16, 1, 4), (128, 4, 3)),
    "grads": ((32, 1, 1), (32, 2, 2), (16, 1, 2), (64, 2, 1), (64, 4, 3), (128, 4, 2)),
    "step": ((1024, 4, 1), (512, 4, 1), (256, 4, 1), (512, 2, 1), (2048, 8, 1), (128, 1, 1)),
}
# Of gradients, whose decays are those of the token after: three tiles in flight spill on sm_100.
_LAUNCHES_SHIFTED = {"sums": ((32, 1, 2), (32, 1, 3), (64, 1, 2), (64, 2, 3), (16, 1, 4), (128, 4, 3))}


def segments(batch: int, length: int, channels: int) -> tuple[int, int]:
    """How many segments time is cut into, and the tiles of each."""
    tiles = -(-length // TILE)
    wanted = -(-_ENOUGH_PROGRAMS * _CHANNELS_A_PROGRAM // (batch * channels))
    each = -(-tiles // min(tiles, wanted))
    return -(-tiles // each), each


def launch_key(kernel: str, element_bytes: int, channels: int, **flags: int) -> Key:
    """The key of a kernel; a step runs over all numbers of a batch alike."""
    sizes = {} if kernel == "step" else {"channels": min(channels, LARGEST_BLOCK)}
    return key(f"vector_recurrence.{kernel}", element_bytes, sizes, flags)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    name = key.kernel.removeprefix("vector_recurrence.")
    most = dict(key.sizes).get("channels", 2048)
    shifted = dict(key.flags).get("SHIFTED", 0) > 0
    for block, warps, stages in (_LAUNCHES | (_LAUNCHES_SHIFTED if shifted else {}))[name]:
        # No larger block than the channels fill.
        config = {"BLOCK_D": min(block, most), "num_warps": warps}
        if name in ("sums", "output", "grads"):
            config["STAGES"] = stages
        yield config


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
