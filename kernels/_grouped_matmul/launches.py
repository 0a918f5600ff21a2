"""Launch configurations of the grouped product: a default for each type and alignment and others worth trying."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from kernels.tuned_table import Config, Key
from kernels.tuning import CHOICES, is_choice, key

SMALLEST_WIDTH, LARGEST_WIDTH = 32, 256  # between them the width of a product is told apart

Rectangle = tuple[int, int, int, int, int]

# By bytes of an element, and whether the widths are multiples of 16: rows and columns of a tile, how much of the summed
# axis at once, warps, stages. The first is the default. Spills and shared memory are checked ahead of time, speed is
# not yet.
_LAUNCHES: dict[tuple[int, bool], tuple[Rectangle, ...]] = {
    (2, True): (
        (128, 128, 64, 8, 3),
        (128, 256, 64, 8, 3),
        (128, 128, 64, 4, 3),
        (64, 128, 64, 4, 4),
        (64, 256, 64, 8, 3),
        (64, 64, 64, 4, 4),
    ),
    (2, False): ((64, 64, 32, 4, 2), (128, 64, 32, 8, 2), (64, 64, 32, 8, 3), (128, 128, 32, 8, 2)),
    (4, True): ((64, 32, 32, 4, 3), (64, 64, 32, 8, 3), (128, 64, 32, 8, 3), (64, 128, 32, 8, 2)),
    (4, False): ((64, 32, 16, 4, 2), (64, 64, 16, 8, 2), (32, 32, 16, 4, 2)),
}

# In float32 proper it spills 8 bytes on sm_90, and the default of that spills as many on sm_80 with TF32.
_TF32_DEFAULT: Rectangle = (64, 64, 32, 8, 3)


def rows_key(x: Tensor, columns: int, aligned: bool, transposed: bool, tf32: bool, variant: Mapping[str, bool]) -> Key:
    """Of the product of rows with their group's matrix; `transposed` where that is read by columns."""
    flags = {"aligned": aligned, "transposed": transposed, "tf32": tf32, **variant}
    return key("grouped_matmul.rows", x.element_size(), {"columns": width_class(columns)}, flags)


def matrices_key(x: Tensor, depth: int, columns: int, aligned: bool, tf32: bool, variant: Mapping[str, bool]) -> Key:
    """Of the gradient of the matrices, [depth, columns] each."""
    sizes = {"depth": width_class(depth), "columns": width_class(columns)}
    return key("grouped_matmul.matrices", x.element_size(), sizes, {"aligned": aligned, "tf32": tf32, **variant})


def implementation_key(depth: int, columns: int, training: bool) -> Key:
    """The key of the choice between our product of 16-bit types and PyTorch's; `training` of the gradients."""
    sizes = {"depth": width_class(depth), "columns": width_class(columns)}
    return key("grouped_matmul.implementation", 2, sizes, {"training": training})


def width_class(size: int) -> int:
    """The width of a product as far as its launch depends on it."""
    return min(max(size, SMALLEST_WIDTH), LARGEST_WIDTH)


def as_configs(launches: Iterable[Rectangle]) -> list[Config]:
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    return [dict(zip(names, launch, strict=True)) for launch in launches]


def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    if is_choice(key):
        return list(CHOICES.values())
    flags = dict(key.flags)
    launches = _LAUNCHES[key.element_bytes, flags["aligned"] > 0]
    if flags["tf32"] and flags["aligned"]:
        launches = (_TF32_DEFAULT, *(one for one in launches if one != _TF32_DEFAULT))
    return as_configs(launches)


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
