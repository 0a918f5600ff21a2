"""The launches of attention over listed blocks that a machine without a GPU compiles, to see that they fit."""

import torch
import triton

from kernels._block_sparse_attention.gpu_dq_pairs import (
    sparse_delta_kernel,
    sparse_dq_pairs_kernel,
    sparse_dq_sum_kernel,
)
from kernels._block_sparse_attention.gpu_kernels import (
    sparse_dkv_kernel,
    sparse_dq_kernel,
    sparse_fwd_kernel,
    sparse_sum_kernel,
)
from kernels._block_sparse_attention.gpu_pairs import sparse_merge_kernel, sparse_pairs_kernel
from kernels._block_sparse_attention.launches import (
    default_launch,
    delta_key,
    dq_sum_key,
    merge_key,
    sparse_key,
    sum_key,
)
from kernels._block_sparse_attention.options import Options
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key

KERNELS = {
    "block_sparse_attention.forward": sparse_fwd_kernel,
    "block_sparse_attention.backward_dq": sparse_dq_kernel,
    "block_sparse_attention.backward_dkv": sparse_dkv_kernel,
    "block_sparse_attention.pairs": sparse_pairs_kernel,
    "block_sparse_attention.pairs_dq": sparse_dq_pairs_kernel,
    "block_sparse_attention.merge": sparse_merge_kernel,
    "block_sparse_attention.sum_dq": sparse_dq_sum_kernel,
    "block_sparse_attention.delta": sparse_delta_kernel,
}
OVER_PARTS = (sparse_merge_kernel, sparse_dq_sum_kernel, sparse_delta_kernel)
LARGEST_MULTIPLE = 16  # strides are multiples of the head size, which is a multiple of 16 where it is not padded


def ahead_of_time_cases() -> list[Case]:
    """Every kernel at its defaults: head sizes, types, single queries and blocks of them, keys alone and in blocks; a
    head size that is masked, and values of another size than keys, once."""
    single, blocks, keys_alone = forms = [(1, 64), (64, 64), (1, 1)]  # queries of a list, keys of a block
    chosen = [(torch.bfloat16, (size, size), form) for size in (64, 128) for form in forms]
    chosen += [(torch.bfloat16, (80, 80), single), (torch.bfloat16, (192, 128), keys_alone)]
    chosen += [(torch.bfloat16, (256, 256), form) for form in (single, blocks)]
    chosen += [(torch.float32, (64, 64), single), (torch.float32, (128, 128), blocks)]
    chosen += [(torch.bfloat16, (64, 64), (1, 128))]
    keys = []
    for dtype, (size, size_v), (query_block, block) in chosen:
        q, v = torch.empty(1, 1, 16, size, dtype=dtype), torch.empty(1, 1, 1, size_v, dtype=dtype)
        options = Options(block, query_block, 1.0, True)
        by_keys = ("pairs", "pairs_dq") if query_block == 1 < block else ()
        passes = ("forward", "backward_dq", "backward_dkv", *by_keys)
        keys += [sparse_key(f"block_sparse_attention.{name}", q, v, options) for name in passes]
    half = torch.empty(1, 1, 1, 128, dtype=torch.bfloat16)
    keys += [sum_key(half), merge_key(half, 16), dq_sum_key(half, 16), delta_key(half)]
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; a padded head is taken as five eighths of its power of two, such as 80 of 128, and 16-bit
    types stand for each other as bfloat16."""
    flags, sizes = dict(key.flags), dict(key.sizes)
    element = {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    options = {name: config[name] for name in ("num_warps", "num_stages") if name in config}
    blocks = {name: size for name, size in config.items() if name not in options}
    if key.kernel == "block_sparse_attention.sum":
        constants: dict[str, object] = {"RUN": 64, "D": sizes["D"], "BD": sizes["D"], "BN": 64}
        signature = {"partial": "*fp32", "grad": element, "partial_starts": "*i32"}
        names = ("keys", "kv_heads", "heads_listed", "sequences_listed", "runs")
        return Case(key.label, sparse_sum_kernel, signature | dict.fromkeys(names, "i32"), constants, options)
    kernel = KERNELS[key.kernel]
    if kernel in OVER_PARTS:
        constants = {f"{pad}{'DV' if name == 'V' else name}": size for name, size in sizes.items() for pad in ("", "B")}
        constants |= {"GROUP": flags["rows"], "QUERY_BLOCK": 1} if "rows" in flags else {}
        constants |= blocks
        types = dict.fromkeys(("parts", "o", "do", "dq"), element) | {"places": "*i32"}
        types |= dict.fromkeys(("part_lse", "lse", "dlse", "delta"), "*fp32")
        signature = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constants}
        return Case(key.label, kernel, signature, constants, options)
    shrink = (lambda size: size * 5 // 8) if flags["padded"] else (lambda size: size)
    head, head_v = shrink(sizes["D"]), shrink(sizes["V"])
    constants = {"D": head, "DV": head_v, "BD": triton.next_power_of_2(head), "BDV": triton.next_power_of_2(head_v)}
    group = min(flags["rows"], 16)
    joined = kernel is sparse_dkv_kernel and flags["run"] == 32
    block = 1 if joined else flags["run"]
    constants |= {"GROUP": group, "QUERY_BLOCK": flags["rows"] // group, "BLOCK": block, "PRECISION": "ieee"}
    constants |= {"CAUSAL": flags["causal"] > 0, **blocks}
    if kernel is sparse_dkv_kernel:
        constants["JOINED"] = 32 if joined else 1
    known = dict.fromkeys(("q", "k", "v", "o", "do", "dq", "dk", "dv", "parts"), element)
    known |= dict.fromkeys(("lse", "dlse", "delta", "partial_dk", "partial_dv", "part_lse"), "*fp32")
    lists = ("entries", "slots", "members", "bits", "starts", "row_of_chunk", "chunk_starts", "partial_starts")
    known |= dict.fromkeys(lists, "*i32") | dict.fromkeys(("scale", "scale_log2"), "fp32")
    signature = {argument: known.get(argument, "i32") for argument in kernel.arg_names if argument not in constants}
    strides = tuple(name for name in signature if name.endswith(("_batch", "_token")) or name in ("k_head", "v_head"))
    return Case(key.label, kernel, signature, constants, options, strides if head % LARGEST_MULTIPLE == 0 else ())
