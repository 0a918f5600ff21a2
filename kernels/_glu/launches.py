"""Launch configurations of the gate: a default for each width and others worth trying."""

from kernels.tuned_table import Config, Key
from kernels.tuning import key

LARGEST_BLOCK = 1024

# Elements in a tile of rows, and warps; the first is the default. A tile has at least one row.
_LAUNCHES = ((2048, 4), (1024, 2), (4096, 4), (1024, 4), (4096, 8))


def launch_key(kernel: str, element_bytes: int, channels: int, activation: int) -> Key:
    """The key of a kernel; activations are numbered as in `gpu.py`."""
    return key(f"glu.{kernel}", element_bytes, {"channels": min(channels, LARGEST_BLOCK)}, {"activation": activation})


def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    channels = dict(key.sizes)["channels"]
    return [
        {"BLOCK_R": max(1, elements // channels), "BLOCK_D": channels, "num_warps": warps}
        for elements, warps in _LAUNCHES
    ]


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
