"""The grouped product in Triton: one launch for all groups, without asking the device how large they are.

The kernels are in `gpu_kernels.py`; mixtures of experts launch them with their tokens in another order.
Launch configurations are looked up, with the defaults of `launches.py`; nothing is tuned in passing. Where the table of
this GPU says so, PyTorch's kernels compute.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._grouped_matmul import gpu_pytorch
from kernels._grouped_matmul.gpu_kernels import matrices_kernel, rows_kernel
from kernels._grouped_matmul.launches import default_launch, implementation_key, matrices_key, rows_key
from kernels._grouped_matmul.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, choose_implementation, run

# Whose source the choice between ours and PyTorch's depends on.
IMPLEMENTATION_KERNELS = (rows_kernel, matrices_kernel)


def grouped_matmul(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """[M, N] in the type of x; shapes as at the public door. Never waits for the device."""
    return _forward(x, w, group_sizes)


@torch.library.custom_op("hybrid_nas::grouped_matmul", mutates_args=())
def _forward(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    row_ends = _row_ends(group_sizes, x.shape[0])
    if _torch_is_faster(x, w, training=False):
        return gpu_pytorch.rows_of_groups(x, w, row_ends)
    return rows_of_groups(x, w, row_ends)


@_forward.register_fake
def _(x, w, group_sizes):
    return x.new_empty(x.shape[0], w.shape[2])


@torch.library.custom_op("hybrid_nas::grouped_matmul_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, w: Tensor, group_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and w."""
    row_ends = _row_ends(group_sizes, x.shape[0])
    if _torch_is_faster(x, w, training=True):
        of_x = gpu_pytorch.rows_of_groups(grad, w.transpose(1, 2), row_ends)
        return of_x, gpu_pytorch.matrices_of_groups(x, grad, row_ends)
    return rows_of_groups(grad, w.transpose(1, 2), row_ends), matrices_of_groups(x, grad, row_ends)


@_backward.register_fake
def _(grad, x, w, group_sizes):
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return (*_backward(grad, *ctx.saved_tensors), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _torch_is_faster(x: Tensor, w: Tensor, *, training: bool) -> bool:
    """By the table of this GPU."""
    if not gpu_pytorch.takes(x) or not is_aligned(*w.shape[1:]):
        return False
    key = implementation_key(w.shape[1], w.shape[2], training)
    return choose_implementation(key, IMPLEMENTATION_KERNELS, x.device) == "torch"


def _row_ends(group_sizes: Tensor, rows: int) -> Tensor:
    """Where the rows of each group end, [E + 1] int64 on the device; the last group holds the rows that have none."""
    # A negative size would write before the first row.
    ends = group_sizes.clamp(min=0).cumsum(0).clamp(max=rows)
    return torch.cat([ends, ends.new_full((1,), rows)])


def rows_of_groups(
    x: Tensor,
    w: Tensor,
    row_ends: Tensor,
    *,
    order: Tensor | None = None,
    share: int = 1,
    gather: bool = False,
    factor: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """out[row] = x[row] @ w[group of row], plus the group's row of `bias` [E, N]; w may be strided.

    With an `order` [M] int32 the sorted rows lie elsewhere: with `gather` x is read at row order[row] // share, without
    it out is written at row order[row], times the `factor` [M] there.
    """
    x = x.contiguous()
    depth, (groups, _, columns) = x.shape[1], w.shape
    rows = x.shape[0] if order is None else order.shape[0]
    scatter = order is not None and not gather
    out = x.new_empty(rows, columns)
    if rows == 0:
        return out
    precision = product_precision()
    variant = {"gather": gather, "scatter": scatter, "scaled": factor is not None, "biased": bias is not None}
    key = rows_key(x, columns, is_aligned(depth, columns), w.stride(2) != 1, uses_tf32(x), variant)
    config = choose(key, rows_kernel, default_launch, x.device)
    tile_ends = tile_ends_of(row_ends, config["BLOCK_M"])
    grid = (triton.cdiv(columns, config["BLOCK_N"]), triton.cdiv(rows, config["BLOCK_M"]) + groups + 1)
    with torch.cuda.device_of(x):
        run(
            key, rows_kernel, grid, x, w, out, x if order is None else order, x if factor is None else factor,
            x if bias is None else bias.contiguous(), tile_ends, row_ends, depth, columns, groups, share, *w.stride(),
            **{name.upper(): used for name, used in variant.items()}, BLOCK_E=triton.next_power_of_2(groups + 1),
            PRECISION=precision, **config,
        )  # fmt: skip
    return out


def matrices_of_groups(
    x: Tensor,
    grad: Tensor,
    row_ends: Tensor,
    *,
    order: Tensor | None = None,
    share: int = 1,
    gather_x: bool = False,
    gather_grad: bool = False,
) -> Tensor:
    """out[group] = x[rows of group]ᵀ @ grad[rows of group]; zeros for a group without rows.

    What is gathered lies at row order[row] // share.
    """
    x, grad = x.contiguous(), grad.contiguous()
    depth, columns, groups = x.shape[1], grad.shape[1], row_ends.shape[0] - 1
    variant = {"gather_x": gather_x, "gather_grad": gather_grad}
    key = matrices_key(x, depth, columns, is_aligned(depth, columns), uses_tf32(x), variant)
    config = choose(key, matrices_kernel, default_launch, x.device)
    out = x.new_empty(groups, depth, columns)
    grid = (triton.cdiv(depth, config["BLOCK_M"]), triton.cdiv(columns, config["BLOCK_N"]), groups)
    with torch.cuda.device_of(x):
        run(
            key, matrices_kernel, grid, x, grad, out, x if order is None else order, row_ends, depth, columns, share,
            GATHER_X=gather_x, GATHER_GRAD=gather_grad, PRECISION=product_precision(), **config,
        )  # fmt: skip
    return out


def tile_ends_of(row_ends: Tensor, block: int) -> Tensor:
    """Row tiles up to and with each group, [E + 1] int32 on the device."""
    sizes = torch.diff(row_ends, prepend=row_ends.new_zeros(1))
    return ((sizes + block - 1) // block).cumsum(0).to(torch.int32)


def is_aligned(*widths: int) -> bool:
    return all(width % 16 == 0 for width in widths)


def uses_tf32(x: Tensor) -> bool:
    return x.element_size() == 4 and product_precision() == "tf32"


def product_precision() -> str:
    """How float32 is multiplied: as `torch.set_float32_matmul_precision` says. Other types ignore it."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


PLAIN_ROWS = {"gather": False, "scatter": False, "scaled": False, "biased": False}
PLAIN_MATRICES = {"gather_x": False, "gather_grad": False}


def ahead_of_time_cases() -> list[Case]:
    """Both kernels at every default: 16-bit and float32 types, widths that are multiples of 16 and odd ones."""
    keys = []
    for dtype, tf32 in ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
        x = torch.empty(0, dtype=dtype)
        for aligned in (True, False):
            keys += [rows_key(x, 256, aligned, transposed, tf32, PLAIN_ROWS) for transposed in (False, True)]
            keys.append(matrices_key(x, 256, 256, aligned, tf32, PLAIN_MATRICES))
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config, groups: int = 63) -> Case:
    """One launch of one key, over so many groups at most; 16-bit types stand for each other as bfloat16."""
    flags = dict(key.flags)
    kernel = rows_kernel if key.kernel == "grouped_matmul.rows" else matrices_kernel
    variant = PLAIN_ROWS if kernel is rows_kernel else PLAIN_MATRICES
    blocks = {name: size for name, size in config.items() if name.startswith("BLOCK")}
    options = {name: size for name, size in config.items() if name not in blocks}
    constants: dict[str, object] = blocks | {"PRECISION": "tf32" if flags["tf32"] else "ieee"}
    constants |= {name.upper(): flags[name] > 0 for name in variant}
    if kernel is rows_kernel:
        constants |= {"BLOCK_E": triton.next_power_of_2(groups + 1), "w_k" if flags["transposed"] else "w_n": 1}
    types = dict.fromkeys(("x", "w", "grad", "out", "bias"), "*fp32" if key.element_bytes == 4 else "*bf16")
    types |= {"tile_ends": "*i32", "row_ends": "*i64", "order": "*i32", "factor": "*fp32"}
    signature = {arg: types.get(arg, "i32") for arg in kernel.arg_names if arg not in constants}
    widths = tuple(arg for arg in ("K", "N", "w_group", "w_k", "w_n") if arg in signature)
    return Case(key.label, kernel, signature, constants, options, widths if flags["aligned"] else ())
