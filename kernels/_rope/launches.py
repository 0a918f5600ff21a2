"""Launch configurations of rotary positions: a default for each head size and others worth trying."""

from collections.abc import Iterator

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

# Elements in a tile of heads of one token, and warps; the first is the default. A tile has at least one head. Spills
# are checked ahead of time, speed is not yet.
_LAUNCHES = ((2048, 4), (1024, 4), (1024, 2), (4096, 8), (512, 2), (512, 1))


def launch_key(element_bytes: int, heads: int, pairs: int, rest: int, interleaved: bool) -> Key:
    """The key of the kernel; `pairs` are turned, `rest` channels stay as they are."""
    sizes = {"heads": min(heads, 64), "pairs": pairs} | ({"rest": rest} if rest else {})
    return key("rope.turn", element_bytes, sizes, {"interleaved": interleaved})


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    sizes = dict(key.sizes)
    row = max(sizes["pairs"], sizes.get("rest", 0))
    for elements, warps in _LAUNCHES:
        yield {"BLOCK_H": min(max(1, elements // row), sizes["heads"]), "num_warps": warps}


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
