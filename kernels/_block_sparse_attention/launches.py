"""Launch configurations of attention over listed blocks: for each head size and type a default and others to try."""

import triton
from torch import Tensor

from kernels._block_sparse_attention.lists import blocks_in_a_run
from kernels._block_sparse_attention.options import Options
from kernels.tuned_table import Config, Key
from kernels.tuning import distinct, key

LARGEST_ROWS = 128  # of a tile
Sizes = tuple[int, int, int, int]  # most rows in a tile, keys in a tile, warps, stages

# By the larger head size, rounded up to a power of two, and the bytes of an element. The first is the default: it
# neither spills nor exceeds the shared memory on sm_80, sm_90 and sm_100, compiled ahead of time; not timed yet. (DQ of
# heads above 128 in float32 spills 208 bytes all the same, as that of attention does.)
FORWARD: dict[tuple[int, int], tuple[Sizes, ...]] = {
    (64, 2): ((64, 64, 4, 3), (128, 64, 4, 3), (64, 128, 4, 2), (64, 32, 4, 4), (128, 128, 8, 2), (32, 64, 2, 3)),
    (128, 2): ((64, 64, 8, 2), (128, 64, 8, 2), (64, 64, 8, 3), (64, 128, 8, 2), (64, 32, 4, 3), (32, 64, 2, 2)),
    (256, 2): ((64, 32, 8, 1), (64, 32, 8, 2), (32, 32, 4, 2), (64, 64, 8, 1)),
    (64, 4): ((32, 32, 8, 2), (32, 16, 4, 2), (64, 32, 8, 2)),
    (128, 4): ((32, 16, 8, 1), (16, 16, 4, 2), (32, 16, 8, 2)),
    (256, 4): ((16, 16, 8, 1), (16, 16, 8, 2)),
}
DQ: dict[tuple[int, int], tuple[Sizes, ...]] = {
    (64, 2): ((64, 64, 4, 2), (128, 64, 8, 2), (64, 64, 8, 3), (64, 32, 4, 3), (32, 64, 4, 2)),
    (128, 2): ((64, 32, 8, 2), (64, 64, 8, 2), (128, 32, 8, 2), (32, 64, 4, 2), (64, 32, 4, 2)),
    (256, 2): ((32, 32, 8, 1), (32, 32, 8, 2), (64, 32, 8, 1)),
    (64, 4): ((32, 32, 8, 1), (32, 16, 4, 1)),
    (128, 4): ((16, 16, 8, 1), (32, 16, 8, 1)),
    (256, 4): ((16, 16, 8, 1),),
}
DKV: dict[tuple[int, int], tuple[Sizes, ...]] = {
    (64, 2): ((64, 64, 8, 2), (64, 128, 8, 2), (64, 64, 8, 3), (32, 64, 4, 3), (128, 64, 8, 2)),
    (128, 2): ((32, 64, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2), (64, 32, 8, 2), (32, 128, 8, 2)),
    (256, 2): ((32, 32, 8, 1), (16, 32, 8, 2), (32, 32, 8, 2)),
    (64, 4): ((32, 32, 8, 1), (16, 32, 8, 1)),
    (128, 4): ((16, 16, 8, 1), (16, 32, 8, 1)),
    (256, 4): ((16, 16, 8, 1),),
}
# Most rows in a tile, warps, stages; the keys are those of a block.
PAIRS: dict[tuple[int, int], tuple[tuple[int, int, int], ...]] = {
    (64, 2): ((64, 4, 3), (128, 8, 2), (128, 4, 2), (64, 4, 2)),
    (128, 2): ((64, 4, 2), (128, 8, 2), (64, 8, 3), (64, 4, 3)),
    (256, 2): ((64, 8, 1), (32, 4, 2), (64, 8, 2)),
    (64, 4): ((32, 8, 1), (32, 4, 1)),
    (128, 4): ((16, 8, 1), (32, 8, 1)),
    (256, 4): ((16, 8, 1),),
}
# As PAIRS, for the gradient of queries, which has one product more and twice the rows to load.
PAIRS_DQ: dict[tuple[int, int], tuple[tuple[int, int, int], ...]] = {
    (64, 2): ((64, 8, 2), (64, 4, 2), (128, 8, 2), (32, 4, 2)),
    (128, 2): ((64, 8, 2), (32, 4, 2), (64, 8, 1), (128, 8, 1)),
    (256, 2): ((32, 8, 1), (16, 4, 1), (64, 8, 1)),
    (64, 4): ((32, 8, 1), (16, 4, 1)),
    (128, 4): ((16, 8, 1), (32, 8, 1)),
    (256, 4): ((16, 8, 1),),
}
# On sm_80 the keys and values of a block of 128 lie in registers, which leaves room for few rows.
WIDE_PAIRS_DQ: dict[tuple[int, int], tuple[tuple[int, int, int], ...]] = {(64, 2): ((32, 8, 2), (32, 4, 2), (64, 8, 2))}
PAIRS_TABLES = {"block_sparse_attention.pairs": PAIRS, "block_sparse_attention.pairs_dq": PAIRS_DQ}
SUM_WARPS = (4, 2, 8)
DELTA_ROWS = 32
MERGE_ROWS = 32
LARGEST_BLOCK_BYTES = 2**16  # of keys and values that a program holds
TABLES = {
    "block_sparse_attention.forward": FORWARD,
    "block_sparse_attention.backward_dq": DQ,
    "block_sparse_attention.backward_dkv": DKV,
}


def keys_outside(rows: int, lists: int, blocks: int, capacity: int, block_bytes: int, row_bytes: int) -> bool:
    """Whether the outer loop had better go over keys, of the forward pass or of the gradient of queries.

    rows: of a list; blocks: of keys; block_bytes: keys and values of a block; row_bytes: a row of what is read (q, and
    do beside it) and twice one of what is left (o, or dq), which is written and read again. By memory traffic, which is
    what bounds both: a pair of list and block costs the block with lists outside and its rows with keys outside. By
    twice as much, as what is written leaves the cache; and a block must be read for several lists.
    """
    several = lists * capacity >= 4 * blocks
    return several and block_bytes <= LARGEST_BLOCK_BYTES and block_bytes >= 2 * rows * row_bytes


def sparse_key(kernel: str, q: Tensor, v: Tensor, options: Options) -> Key:
    """`rows` is what a list fills of a tile, `run` the keys that lie side by side in one, as far as tiles mind."""
    group, block_size, query_block = q.shape[2] // v.shape[2], options.block_size, options.query_block
    run = min(triton.next_power_of_2(block_size), LARGEST_ROWS)
    if kernel == "block_sparse_attention.backward_dkv":
        run = min(max(16, triton.next_power_of_2(block_size * blocks_in_a_run(block_size))), LARGEST_ROWS)
    rows = min(max(16, triton.next_power_of_2(query_block * group)), LARGEST_ROWS)
    sizes = {"D": q.shape[3], "V": v.shape[3]}
    padded = any(triton.next_power_of_2(size) != size for size in sizes.values())
    flags = {"causal": options.causal, "rows": rows, "run": run, "padded": padded}
    return key(kernel, q.dtype.itemsize, sizes, flags)


def sum_key(grad: Tensor) -> Key:
    return key("block_sparse_attention.sum", grad.dtype.itemsize, {"D": grad.shape[3]}, {})


def merge_key(v: Tensor, rows: int) -> Key:
    rows = min(triton.next_power_of_2(rows), MERGE_ROWS)
    return key("block_sparse_attention.merge", v.dtype.itemsize, {"V": v.shape[3]}, {"rows": rows})


def dq_sum_key(q: Tensor, rows: int) -> Key:
    rows = min(triton.next_power_of_2(rows), MERGE_ROWS)
    return key("block_sparse_attention.sum_dq", q.dtype.itemsize, {"D": q.shape[3]}, {"rows": rows})


def delta_key(v: Tensor) -> Key:
    return key("block_sparse_attention.delta", v.dtype.itemsize, {"V": v.shape[3]}, {})


@distinct
def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    if key.kernel == "block_sparse_attention.sum":
        return [{"num_warps": warps} for warps in SUM_WARPS]
    if key.kernel == "block_sparse_attention.delta":
        return [{"BM": DELTA_ROWS, "num_warps": warps} for warps in (4, 2, 8)]
    if key.kernel in ("block_sparse_attention.merge", "block_sparse_attention.sum_dq"):
        rows = dict(key.flags)["rows"]
        return [{"BM": rows, "num_warps": warps} for warps in (4, 2, 8)]
    if key.kernel in PAIRS_TABLES:
        size, run = max(64, *(size for _, size in key.sizes)), dict(key.flags)["run"]
        names = ("BM", "BN", "num_warps", "num_stages")
        found = PAIRS_TABLES[key.kernel][size, key.element_bytes]
        if key.kernel == "block_sparse_attention.pairs_dq" and run == LARGEST_ROWS:
            found = WIDE_PAIRS_DQ.get((size, key.element_bytes), found)
        return [dict(zip(names, (rows, run, warps, stages), strict=True)) for rows, warps, stages in found]
    flags, size = dict(key.flags), max(64, *(size for _, size in key.sizes))
    candidates: list[Config] = []
    for rows, keys, warps, stages in TABLES[key.kernel][size, key.element_bytes]:
        if key.kernel.endswith("dkv"):  # no wider than the keys that lie side by side
            config = {"BM": rows, "BN": min(keys, flags["run"]), "num_warps": warps, "num_stages": stages}
        else:  # no higher than what a list fills; a low tile has too little for many warps
            rows = min(rows, flags["rows"])
            few = rows <= 32 and key.element_bytes == 2
            config = {"BM": rows, "BN": keys, "num_warps": min(warps, 4) if few else warps, "num_stages": stages}
        candidates.append(config)
    return candidates


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
