"""Launch configurations of the short convolution: a default for each kernel and others worth trying."""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

LARGEST_BLOCK = 256

# Kernel -> launches as tokens that are unrolled (none in a step), channels in a block, and warps; the first is the
# default. Spills are checked ahead of time, speed is not yet.
_LAUNCHES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "forward": ((16, 128, 1), (32, 128, 1), (16, 256, 2), (16, 256, 1), (8, 128, 1), (16, 64, 1)),
    "backward": ((8, 128, 1), (16, 128, 1), (8, 256, 2), (16, 64, 1), (4, 128, 1), (8, 128, 2)),
    "step": ((0, 128, 1), (0, 256, 1), (0, 256, 2), (0, 64, 1)),
}


def launch_key(kernel: str, element_bytes: int, channels: int, **flags: int) -> Key:
    """The key of a kernel; `flags` holds the width of the filter and what is given."""
    return key(f"short_convolution.{kernel}", element_bytes, {"channels": min(channels, LARGEST_BLOCK)}, flags)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    channels = dict(key.sizes)["channels"]
    for tokens, block, warps in _LAUNCHES[key.kernel.removeprefix("short_convolution.")]:
        # No larger block than the channels fill.
        config = {"BLOCK_D": min(block, max(channels, 16)), "num_warps": warps}
        yield {"BLOCK_T": tokens} | config if tokens else config


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
