"""Launch configurations of a router: a default for each number of experts and others worth trying."""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

LARGEST_ROW = 512  # experts whose scores a program holds at once; of more, PyTorch picks
SMALLEST_ROW = 16

# Scores that a warp holds, and warps; the first is the default. A warp has at least one token to itself, so that no sum
# over experts crosses warps. Spills are checked ahead of time, speed is not yet.
_LAUNCHES = ((128, 4), (128, 1), (128, 2), (256, 4), (128, 8), (256, 2))


def launch_key(kernel: str, element_bytes: int, experts: int, **flags: int) -> Key:
    """The key of a kernel; scorings are numbered as in `gpu.py`."""
    return key(f"route_top_k.{kernel}", element_bytes, {"experts": max(SMALLEST_ROW, experts)}, flags)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    experts = dict(key.sizes)["experts"]
    for scores, warps in _LAUNCHES:
        yield {"BLOCK_T": warps * max(1, scores // experts), "BLOCK_E": experts, "num_warps": warps}


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
