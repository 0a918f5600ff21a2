"""Launch configurations of the loss: a default and others worth trying."""

from kernels.tuned_table import Config, Key
from kernels.tuning import key

# Logits of a row at a time, and warps; the first is the default. Spills are checked ahead of time, speed is not yet.
_LAUNCHES = ((4096, 8), (4096, 16), (2048, 8), (2048, 4), (8192, 16))


def launch_key(element_bytes: int, soft_cap: bool, gradient: bool) -> Key:
    return key("linear_cross_entropy.rows", element_bytes, {}, {"soft_cap": soft_cap, "gradient": gradient})


def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    return [{"BLOCK_V": block, "num_warps": warps} for block, warps in _LAUNCHES]


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
