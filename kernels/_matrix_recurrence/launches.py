"""Launch configurations of the kernels of the matrix recurrence: a default for each kernel and others worth trying.

The tables are written for 16-bit types and head sizes up to 128; what float32 and larger heads leave room for follows
by rule, so that every candidate of a key is one that its kernel can run.
"""

from collections.abc import Iterator
from typing import Any

import triton

from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

# Kernel -> launches as largest blocks along K and V, warps, stages; the first is the default. Spills and shared memory
# are checked ahead of time, speed is not yet. Blocks that a kernel does not have are ignored.
_LAUNCHES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "chunk_sum": ((64, 64, 4, 1), (64, 32, 2, 1), (64, 32, 4, 1), (64, 16, 2, 1), (64, 64, 8, 1)),
    "scores": ((64, 64, 4, 2), (32, 64, 4, 2), (64, 64, 8, 2), (64, 64, 4, 1), (128, 64, 8, 1), (32, 64, 4, 3)),
    "channel_scores": ((32, 64, 4, 1), (64, 64, 4, 1), (16, 64, 4, 1), (32, 64, 2, 1), (32, 64, 8, 1)),
    "inverse": ((64, 64, 4, 1), (64, 64, 2, 1), (64, 64, 8, 1)),
    "wy": ((64, 64, 4, 1), (64, 64, 8, 2), (64, 64, 2, 2), (32, 32, 4, 2), (64, 64, 4, 2), (64, 64, 4, 3)),
    "state": ((64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3), (64, 64, 8, 2), (64, 32, 2, 3), (64, 128, 8, 2)),
    "fused": ((128, 32, 8, 2), (128, 64, 8, 1), (128, 32, 4, 2), (128, 64, 8, 2), (128, 32, 8, 1), (128, 16, 4, 2)),
    "output": ((32, 64, 4, 2), (64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 4, 3), (64, 64, 8, 2)),
    "value_grad": ((64, 64, 4, 2), (64, 64, 8, 2), (64, 128, 8, 2), (32, 64, 4, 2), (64, 64, 4, 3), (32, 64, 2, 2)),
    "state_grad": ((64, 64, 8, 1), (64, 64, 8, 2), (64, 32, 4, 2), (64, 64, 4, 1), (64, 32, 8, 2), (64, 32, 4, 1)),
    "token_grad": ((64, 64, 8, 1), (64, 32, 8, 1), (32, 32, 4, 1), (32, 64, 4, 1), (64, 64, 8, 2), (64, 64, 4, 1)),
    "score_grad": ((64, 64, 4, 2), (64, 64, 8, 2), (64, 128, 8, 1), (64, 32, 4, 3), (64, 64, 4, 3), (64, 64, 2, 2)),
    "channel_grad": ((64, 64, 4, 1), (32, 64, 4, 1), (16, 64, 4, 1), (32, 64, 2, 1), (32, 64, 8, 1), (64, 64, 8, 1)),
    "wy_grad": ((32, 32, 8, 1), (64, 64, 8, 1), (32, 32, 4, 1), (64, 32, 8, 1), (32, 32, 8, 2), (16, 16, 4, 1)),
    "free_wy": ((64, 64, 4, 2), (64, 64, 8, 2), (64, 64, 2, 2), (32, 32, 4, 2), (64, 64, 4, 1), (64, 64, 4, 3)),
    "free_wy_grad": ((32, 32, 8, 1), (64, 64, 8, 1), (32, 32, 4, 1), (64, 32, 8, 1), (32, 32, 8, 2), (16, 16, 4, 1)),
    "free_token_grad": ((64, 64, 8, 1), (64, 32, 8, 1), (32, 32, 4, 1), (32, 64, 4, 1), (64, 64, 8, 2), (64, 64, 4, 1)),
    "erasing_grad": ((32, 64, 8, 1), (64, 64, 8, 1), (32, 64, 4, 1), (16, 64, 4, 1), (32, 64, 2, 1)),
    "step": ((256, 16, 4, 1), (256, 32, 4, 1), (256, 16, 2, 1), (256, 8, 1, 1), (256, 8, 2, 1), (256, 64, 8, 1)),
}
# For head sizes K or V above 64.
_LAUNCHES_ABOVE_64 = {
    "token_grad": ((64, 16, 8, 1), (64, 32, 8, 1), (32, 32, 4, 1), (32, 32, 8, 1), (32, 64, 8, 1), (64, 32, 8, 2)),
}
# For float32; the other kernels have blocks of at most 32, 8 warps and one stage.
_LAUNCHES_FLOAT32 = {
    "channel_scores": ((32, 64, 4, 1), (16, 64, 8, 1), (32, 64, 8, 1), (16, 64, 4, 1)),
    "token_grad": ((16, 16, 8, 1), (16, 32, 8, 1), (32, 16, 8, 1), (32, 32, 8, 1)),
}
# Without decay; of plain states of uneven sizes, too, where four warps spill at V = 129.
_LAUNCHES_UNDECAYED = {
    "state": ((64, 64, 8, 2), (64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3), (64, 32, 2, 3), (64, 128, 8, 2)),
}
# For the delta rule above 64, where the state is one block of all of K.
_LAUNCHES_DELTA_ABOVE_64 = {
    "state": ((64, 64, 8, 2), (64, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 3), (64, 64, 4, 3), (64, 32, 8, 2)),
}
# Of sizes that are powers of two: with queries that heads share, the default for all sizes spills on sm_80.
_LAUNCHES_DELTA_EVEN_ABOVE_64 = {
    "token_grad": ((64, 32, 8, 1), (64, 16, 8, 1), (32, 32, 4, 1), (32, 32, 8, 1), (32, 64, 8, 1), (64, 32, 8, 2)),
}
# For rows that stand before their token's decay.
_LAUNCHES_BEFORE = {
    "channel_scores": ((32, 64, 8, 1), (16, 64, 4, 1), (32, 64, 2, 1), (64, 64, 8, 1), (16, 64, 8, 1)),
}
# For erasing freely, which writes at two keys.
_LAUNCHES_FREE = {
    "output": ((64, 64, 4, 2), (32, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 4, 3), (64, 64, 8, 2)),
    "state": ((64, 64, 8, 2), (64, 64, 8, 1), (64, 32, 8, 2), (64, 64, 4, 1), (64, 16, 4, 2), (64, 64, 4, 2)),
}
_LAUNCHES_FREE_TO_64 = {
    "fused": ((64, 32, 4, 2), (64, 16, 8, 2), (64, 32, 8, 2), (64, 32, 4, 1), (64, 32, 8, 1), (64, 16, 4, 2)),
    "state": ((64, 32, 8, 2), (64, 64, 8, 1), (64, 64, 8, 2), (64, 64, 4, 1), (64, 16, 4, 2), (64, 64, 4, 2)),
}
# The state of the delta rule is not split along K, because every value that it erases reads all of K.
_WHOLE_K_WITH_DELTA = ("state", "state_grad")
_WHOLE_K = ("fused", "step")
_SMALLEST = 16  # rows and columns of a matrix instruction


def launch_key(
    kernel: Any, element_bytes: int, state_bytes: int, head_sizes: tuple[int, int], width: int, flags: dict[str, int]
) -> Key:
    """The key of a kernel: what it is compiled for of the head sizes (K, V) and of DECAY, DELTA and BEFORE in `flags`.

    `width` is the numbers of decay per token, heads times gate size, which only the running sums depend on;
    `state_bytes` those of an element of the states between chunks.
    """
    arguments = kernel.arg_names
    given = {name: size for name, size in zip("KV", head_sizes, strict=True) if name in arguments}
    sizes = {name: max(_SMALLEST, size) for name, size in given.items()}
    if "BW" in arguments:
        sizes["W"] = min(64, width)
    kept = {name: flag for name, flag in flags.items() if name in arguments}
    if "states" in arguments or "d_states" in arguments:
        kept["state_bytes"] = state_bytes
    if given:
        kept["padded"] = any(size != max(_SMALLEST, triton.next_power_of_2(size)) for size in given.values())
    return key(f"matrix_recurrence.{kernel.__name__.removesuffix('_kernel')}", element_bytes, sizes, kept)


@distinct
def launch_candidates(key: Key) -> Iterator[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    name = key.kernel.removeprefix("matrix_recurrence.")
    sizes, flags = dict(key.sizes), dict(key.flags)
    above_64 = max(sizes.get("K", 0), sizes.get("V", 0)) > 64
    launches = (_LAUNCHES_ABOVE_64 if above_64 else {}).get(name, _LAUNCHES[name])
    if flags.get("DECAY") == 0 or (flags.get("padded") and flags.get("DELTA") == 0):
        launches = _LAUNCHES_UNDECAYED.get(name, launches)
    if flags.get("DELTA") == 1 and above_64:
        launches = _LAUNCHES_DELTA_ABOVE_64.get(name, launches)
        if not flags.get("padded"):
            launches = _LAUNCHES_DELTA_EVEN_ABOVE_64.get(name, launches)
    if flags.get("BEFORE"):
        launches = _LAUNCHES_BEFORE.get(name, launches)
    if flags.get("DELTA") == 2:
        launches = (_LAUNCHES_FREE if above_64 else _LAUNCHES_FREE | _LAUNCHES_FREE_TO_64).get(name, launches)
    # Tiles of float32 and of K = 256 fill registers and shared memory: more warps to hold them, one stage.
    if _needs_whole_k(key, name) and sizes["K"] > 128:
        launches = tuple((256, 64, warps, 1) for warps in (8, 16))
    elif key.element_bytes == 4:
        launches = tuple((block_k, block_v, 8, 1) for block_k, block_v, _, _ in launches)
        launches = _LAUNCHES_FLOAT32.get(name, launches)
    for block_k, block_v, warps, stages in launches:
        yield _blocks(key, name, block_k, block_v) | {"num_warps": warps, "num_stages": stages}


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]


def _blocks(key: Key, name: str, block_k: int, block_v: int) -> Config:
    """The blocks that a kernel has, no larger than its sizes and than registers hold."""
    sizes = dict(key.sizes)
    if "W" in sizes:
        return {"BW": min(block_v, sizes["W"])}
    if key.element_bytes == 4:
        block_k, block_v = min(block_k, 32), min(block_v, 32)
    if _needs_whole_k(key, name):
        state = 8192 if name == "fused" and sizes["K"] <= 128 else 2048 if key.element_bytes == 4 else 4096
        block_k, block_v = sizes["K"], min(block_v, max(_SMALLEST, state // sizes["K"]))
    limits = {"BK": (block_k, sizes.get("K")), "BV": (block_v, sizes.get("V"))}
    return {block: min(largest, size) for block, (largest, size) in limits.items() if size is not None}


def _needs_whole_k(key: Key, name: str) -> bool:
    return name in _WHOLE_K or (name in _WHOLE_K_WITH_DELTA and dict(key.flags)["DELTA"] > 0)
