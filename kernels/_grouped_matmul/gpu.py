"""The grouped product in Triton: one launch for all groups, without asking the device how large they are.

The grid has as many row tiles as any split of M rows over E groups can need, ceil(M / BLOCK_M) + E, and one group more
for the rows that belong to none. A program finds its group by counting, in a table made on the device, the groups whose
tiles end before it; programs beyond the last tile leave at once. The gradient of the matrices sums over the rows of a
group in one program per tile, so nothing is added by atomics.

Launch configurations are looked up, with the defaults of `launches.py`; nothing is tuned in passing.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._grouped_matmul.launches import default_launch, matrices_key, rows_key
from kernels._grouped_matmul.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run


@triton.jit(do_not_specialize=["E"])
def _rows_kernel(
    x, w, out, tile_ends, row_ends, K, N, E, w_group, w_k, w_n, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[row] = x[row] @ w[group of row] for a tile of rows of one group; zeros in the last, matrixless group.

    `tile_ends` and `row_ends` are running sums over E + 1 groups: tiles and rows up to and with each. `w_group`, `w_k`,
    `w_n` are the strides of w, so that the gradient of x reads the same matrices transposed.
    """
    tile, e = tl.program_id(1), tl.arange(0, BLOCK_E)
    ends = tl.load(tile_ends + e, mask=e <= E, other=2147483647)
    group = tl.sum((ends <= tile).to(tl.int32), 0)
    if group > E:
        return
    first_tile = tl.load(tile_ends + group - 1, mask=group > 0, other=0)
    first_row = tl.load(row_ends + group - 1, mask=group > 0, other=0).to(tl.int64)
    end_row = tl.load(row_ends + group).to(tl.int64)
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    start_m, start_n = first_row + (tile - first_tile) * BLOCK_M, tl.program_id(0) * BLOCK_N
    in_m, in_n = m < end_row - start_m, n < N - start_n
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if group < E:
        # 64-bit addresses for the corner of a tile alone; within a tile 32 bits do, and cost half the registers.
        x_corner = x + start_m * K
        w_corner = w + group.to(tl.int64) * w_group + start_n.to(tl.int64) * w_n
        x_at, w_at = m[:, None] * K + k[None, :], k[:, None] * w_k + n[None, :] * w_n
        for start in range(0, K, BLOCK_K):
            in_k = k < K - start
            x_tile = tl.load(x_corner + x_at, mask=in_m[:, None] & in_k[None, :], other=0.0)
            w_tile = tl.load(w_corner + w_at, mask=in_k[:, None] & in_n[None, :], other=0.0)
            total = tl.dot(x_tile, w_tile, total, input_precision=PRECISION)
            x_corner += BLOCK_K
            w_corner += BLOCK_K * w_k
    corner = out + start_m * N + start_n
    tl.store(corner + m[:, None] * N + n[None, :], total.to(out.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


@triton.jit
def _matrices_kernel(
    x, grad, out, row_ends, K, N,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[group] = x[rows of group]ᵀ @ grad[rows of group], a tile [BLOCK_M of K, BLOCK_N of N]."""
    group = tl.program_id(2).to(tl.int64)
    first = tl.load(row_ends + group - 1, mask=group > 0, other=0).to(tl.int64)
    rows = (tl.load(row_ends + group) - first).to(tl.int32)
    k, n, m = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    start_k, start_n = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    in_k, in_n = k < K - start_k, n < N - start_n
    x_corner, grad_corner = x + first * K + start_k, grad + first * N + start_n
    x_at, grad_at = m[None, :] * K + k[:, None], m[:, None] * N + n[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, rows, BLOCK_K):
        in_m = m < rows - start
        x_tile = tl.load(x_corner + x_at, mask=in_k[:, None] & in_m[None, :], other=0.0)
        grad_tile = tl.load(grad_corner + grad_at, mask=in_m[:, None] & in_n[None, :], other=0.0)
        total = tl.dot(x_tile, grad_tile, total, input_precision=PRECISION)
        x_corner += BLOCK_K * K
        grad_corner += BLOCK_K * N
    corner = out + group * K * N + start_k.to(tl.int64) * N + start_n
    tl.store(corner + k[:, None] * N + n[None, :], total.to(out.dtype.element_ty), mask=in_k[:, None] & in_n[None, :])


def grouped_matmul(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """[M, N] in the type of x; shapes as at the public door. Never waits for the device."""
    return _forward(x, w, group_sizes)


@torch.library.custom_op("hybrid_nas::grouped_matmul", mutates_args=())
def _forward(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    return _rows(x, w, _row_ends(group_sizes, x.shape[0]))


@_forward.register_fake
def _(x, w, group_sizes):
    return x.new_empty(x.shape[0], w.shape[2])


@torch.library.custom_op("hybrid_nas::grouped_matmul_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, w: Tensor, group_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and w."""
    row_ends = _row_ends(group_sizes, x.shape[0])
    return _rows(grad, w.transpose(1, 2), row_ends), _matrices(x, grad, row_ends, w.shape[0])


@_backward.register_fake
def _(grad, x, w, group_sizes):
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return (*_backward(grad, *ctx.saved_tensors), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _row_ends(group_sizes: Tensor, rows: int) -> Tensor:
    """Where the rows of each group end, [E + 1] int64 on the device; the last group holds the rows that have none."""
    ends = group_sizes.cumsum(0).clamp(max=rows)
    return torch.cat([ends, ends.new_full((1,), rows)])


def _rows(x: Tensor, w: Tensor, row_ends: Tensor) -> Tensor:
    """out[row] = x[row] @ w[group of row]; w may be strided."""
    x = x.contiguous()
    (rows, depth), (groups, _, columns) = x.shape, w.shape
    out = x.new_empty(rows, columns)
    if rows == 0:
        return out
    precision = _precision()
    key = rows_key(x, columns, _aligned(depth, columns), w.stride(2) != 1, _uses_tf32(x, precision))
    config = choose(key, _rows_kernel, default_launch, x.device)
    sizes = torch.diff(row_ends, prepend=row_ends.new_zeros(1))
    tile_ends = ((sizes + config["BLOCK_M"] - 1) // config["BLOCK_M"]).cumsum(0).to(torch.int32)
    grid = (triton.cdiv(columns, config["BLOCK_N"]), triton.cdiv(rows, config["BLOCK_M"]) + groups + 1)
    with torch.cuda.device_of(x):
        run(
            key, _rows_kernel, grid, x, w, out, tile_ends, row_ends, depth, columns, groups, *w.stride(),
            BLOCK_E=triton.next_power_of_2(groups + 1), PRECISION=precision, **config,
        )  # fmt: skip
    return out


def _matrices(x: Tensor, grad: Tensor, row_ends: Tensor, groups: int) -> Tensor:
    """out[group] = x[rows of group]ᵀ @ grad[rows of group]; zeros for a group without rows."""
    x, grad = x.contiguous(), grad.contiguous()
    depth, columns = x.shape[1], grad.shape[1]
    precision = _precision()
    key = matrices_key(x, depth, columns, _aligned(depth, columns), _uses_tf32(x, precision))
    config = choose(key, _matrices_kernel, default_launch, x.device)
    out = x.new_empty(groups, depth, columns)
    grid = (triton.cdiv(depth, config["BLOCK_M"]), triton.cdiv(columns, config["BLOCK_N"]), groups)
    with torch.cuda.device_of(x):
        run(key, _matrices_kernel, grid, x, grad, out, row_ends, depth, columns, PRECISION=precision, **config)
    return out


def _aligned(depth: int, columns: int) -> bool:
    return depth % 16 == 0 and columns % 16 == 0


def _uses_tf32(x: Tensor, precision: str) -> bool:
    return x.element_size() == 4 and precision == "tf32"


def _precision() -> str:
    """How float32 is multiplied: as `torch.set_float32_matmul_precision` says. Other types ignore it."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def ahead_of_time_cases() -> list[Case]:
    """Both kernels at every default: 16-bit and float32 types, widths that are multiples of 16 and odd ones."""
    keys = []
    for dtype, tf32 in ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
        x = torch.empty(0, dtype=dtype)
        for aligned in (True, False):
            keys += [rows_key(x, 256, aligned, transposed, tf32) for transposed in (False, True)]
            keys.append(matrices_key(x, 256, 256, aligned, tf32))
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key, over up to 63 groups; 16-bit types stand for each other as bfloat16."""
    flags = dict(key.flags)
    kernel = _rows_kernel if key.kernel == "grouped_matmul.rows" else _matrices_kernel
    blocks = {name: size for name, size in config.items() if name.startswith("BLOCK")}
    options = {name: size for name, size in config.items() if name not in blocks}
    constants: dict[str, object] = blocks | {"PRECISION": "tf32" if flags["tf32"] else "ieee"}
    if kernel is _rows_kernel:
        constants |= {"BLOCK_E": 64, "w_k" if flags["transposed"] else "w_n": 1}
    types = dict.fromkeys(("x", "w", "grad", "out"), "*fp32" if key.element_bytes == 4 else "*bf16")
    types |= {"tile_ends": "*i32", "row_ends": "*i64"}
    signature = {arg: types.get(arg, "i32") for arg in kernel.arg_names if arg not in constants}
    widths = tuple(arg for arg in ("K", "N", "w_group", "w_k", "w_n") if arg in signature)
    return Case(key.label, kernel, signature, constants, options, widths if flags["aligned"] else ())
