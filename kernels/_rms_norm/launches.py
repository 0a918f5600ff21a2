"""Launch configurations of the normalisations: a default for each kernel and others worth trying."""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

# Channels that a program holds at once; wider rows are read twice, in blocks. A gate in front takes more registers.
LARGEST_TILE, LARGEST_GATED_TILE = 8192, 4096
WIDE_BLOCK = 4096

# Kernel -> launches as elements in a tile of rows and elements of a thread; the first is the default. A tile has at
# least one row. Spills are checked ahead of time, speed is not yet.
_LAUNCHES: dict[str, tuple[tuple[int, int], ...]] = {
    "forward": ((2048, 16), (1024, 8), (4096, 16), (2048, 32), (4096, 32), (512, 16)),
    "backward": ((2048, 16), (1024, 8), (4096, 16), (512, 16), (1024, 16)),
    "wide_forward": ((WIDE_BLOCK, 16), (WIDE_BLOCK, 8), (2048, 8)),
    "wide_backward": ((WIDE_BLOCK, 16), (WIDE_BLOCK, 8), (2048, 8)),
    "wide_weight": ((512, 4), (1024, 4), (256, 2)),
}
_MOST_WARPS = 16


def is_wide(size: int, gate_first: bool) -> bool:
    return size > (LARGEST_GATED_TILE if gate_first else LARGEST_TILE)


def launch_key(kernel: str, element_bytes: int, size: int, **flags: int) -> Key:
    """The key of a kernel; kernels of wide rows know no size."""
    sizes = {} if kernel.startswith("wide") else {"size": size}
    return key(f"rms_norm.{kernel}", element_bytes, sizes, flags)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    sizes = dict(key.sizes)
    for elements, each in _LAUNCHES[key.kernel.removeprefix("rms_norm.")]:
        if "size" in sizes:
            tile = max(elements, sizes["size"])
            blocks = {"BLOCK_R": tile // sizes["size"], "BLOCK_D": sizes["size"]}
        else:
            tile, blocks = elements, {"BLOCK_D": elements}
        warps = min(_MOST_WARPS, max(1, tile // each // 32))
        yield blocks | {"num_warps": warps}


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
