"""Mixtures of experts on a GPU: launches, and the operators that autograd and torch.compile see.

Choices are sorted by expert on the device and never leave it; grids are upper bounds, so nothing waits for how many
tokens an expert got, and all of it can be captured in a CUDA graph. Kept for the backward pass are the inputs of the
hidden layer, [T K, 2 I]; sorted tokens and experts' outputs are not. Sums over the choices of a token are taken in the
order of the choices, without atomics.
"""

from dataclasses import astuple, replace
from typing import Any

import torch
import triton
from torch import Tensor

from kernels._grouped_matmul.gpu import (
    PLAIN_ROWS,
    is_aligned,
    matrices_of_groups,
    product_precision,
    rows_of_groups,
    tile_ends_of,
    uses_tf32,
)
from kernels._grouped_matmul.gpu import launch_case as grouped_launch_case
from kernels._grouped_matmul.launches import launch_candidates as grouped_launch_candidates
from kernels._grouped_matmul.launches import matrices_key, rows_key
from kernels._moe import launches
from kernels._moe.expert import ACTIVATIONS, Expert
from kernels._moe.gpu_kernels import moe_hidden_grad_kernel, moe_in_kernel
from kernels._moe.launches import default_launch, hidden_grad_key, in_key
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run


def moe_ffn(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    b_in: Tensor | None,
    b_out: Tensor | None,
    expert: Expert,
) -> Tensor:
    """See `kernels.moe_ffn`. Never waits for the device."""
    leaves = (x, w_in, w_out, expert_weight, b_in, b_out)
    keep = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in leaves)
    return moe_forward(x, w_in, w_out, expert_index, expert_weight, b_in, b_out, *astuple(expert), keep)[0]


@torch.library.custom_op("hybrid_nas::moe_ffn", mutates_args=())
def moe_forward(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    b_in: Tensor | None,
    b_out: Tensor | None,
    activation: str,
    gated: bool,
    clamp: float | None,
    up_offset: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y [T, d], inputs of the hidden layer [T K, 2 I] or nothing, order [T K] int32, row ends [E + 1] int64)."""
    (experts, width, columns), choices, inner = w_in.shape, expert_index.shape[1], w_out.shape[1]
    x, w_in = x.contiguous(), w_in if w_in.stride(2) == 1 else w_in.contiguous()
    order, row_ends = _sort_by_expert(expert_index, experts)
    rows, expert = order.shape[0], Expert(activation, gated, clamp, up_offset)
    hidden = x.new_empty(rows, inner)
    pre = x.new_empty(rows if keep else 0, columns)
    if rows == 0:
        return x.new_zeros(x.shape), pre, order, row_ends
    key = in_key(x, inner, is_aligned(width, inner), uses_tf32(x), keep, expert, b_in is not None)
    config = choose(key, moe_in_kernel, default_launch, x.device)
    grid = (triton.cdiv(inner, config["BLOCK_N"]), triton.cdiv(rows, config["BLOCK_M"]) + experts + 1)
    with torch.cuda.device_of(x):
        run(
            key, moe_in_kernel, grid, x, w_in, x if b_in is None else b_in.contiguous(), pre if keep else hidden,
            hidden, order, tile_ends_of(row_ends, config["BLOCK_M"]), row_ends, width, inner, experts, choices,
            *w_in.stride()[:2], clamp or 0.0, up_offset, KEEP=keep, BIASED=b_in is not None, **_constants(expert),
            BLOCK_E=triton.next_power_of_2(experts + 1), PRECISION=product_precision(), **config,
        )  # fmt: skip
    factor = expert_weight.float().flatten()
    y = rows_of_groups(hidden, w_out, row_ends, order=order, factor=factor, bias=b_out)
    return _over_choices(y, choices), pre, order, row_ends


@moe_forward.register_fake
def _(x, w_in, w_out, expert_index, expert_weight, b_in, b_out, activation, gated, clamp, up_offset, keep):
    rows, experts = expert_index.numel(), w_in.shape[0]
    pre = x.new_empty(rows if keep else 0, w_in.shape[2])
    order = x.new_empty(rows, dtype=torch.int32)
    return x.new_empty(x.shape), pre, order, x.new_empty(experts + 1, dtype=torch.int64)


@torch.library.custom_op("hybrid_nas::moe_ffn_backward", mutates_args=())
def moe_backward(
    dy: Tensor,
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    b_in: Tensor | None,
    b_out: Tensor | None,
    pre: Tensor,
    order: Tensor,
    row_ends: Tensor,
    activation: str,
    gated: bool,
    clamp: float | None,
    up_offset: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, w_in, w_out, expert_weight, b_in and b_out, contiguous and in their types; nothing for a bias
    that there is none of."""
    choices, (experts, inner, width), rows = expert_weight.shape[1], w_out.shape, order.shape[0]
    dy, x, expert = dy.contiguous(), x.contiguous(), Expert(activation, gated, clamp, up_offset)
    if rows == 0:
        leaves = (x, w_in, w_out, expert_weight, *(x.new_empty(0) if bias is None else bias for bias in (b_in, b_out)))
        return tuple(one.new_zeros(one.shape) for one in leaves)
    w = w_out.transpose(1, 2)
    key = hidden_grad_key(x, inner, is_aligned(width, inner), w.stride(2) != 1, uses_tf32(x), expert)
    config = choose(key, moe_hidden_grad_kernel, default_launch, x.device)
    tiles = triton.cdiv(inner, config["BLOCK_N"])
    dpre, weighted = x.new_empty(rows, w_in.shape[2]), x.new_empty(rows, inner)
    dweight = x.new_empty(tiles, rows, dtype=torch.float32)
    grid = (tiles, triton.cdiv(rows, config["BLOCK_M"]) + experts + 1)
    with torch.cuda.device_of(x):
        run(
            key, moe_hidden_grad_kernel, grid, dy, w, pre, expert_weight.float().flatten(), dpre, weighted, dweight,
            order, tile_ends_of(row_ends, config["BLOCK_M"]), row_ends, width, inner, rows, experts, choices,
            *w.stride(), clamp or 0.0, up_offset, **_constants(expert), BLOCK_E=triton.next_power_of_2(experts + 1),
            PRECISION=product_precision(), **config,
        )  # fmt: skip
    dw_out = matrices_of_groups(weighted, dy, row_ends, order=order, share=choices, gather_grad=True)
    dw_in = matrices_of_groups(x, dpre, row_ends, order=order, share=choices, gather_x=True)
    dx = _over_choices(rows_of_groups(dpre, w_in.transpose(1, 2), row_ends, order=order), choices)
    dweight = dweight.sum(0).view(expert_weight.shape)
    db_in, db_out = x.new_empty(0), x.new_empty(0)
    if b_in is not None:
        db_in = _sums_of_groups(dpre.new_ones(rows), dpre, row_ends)
    if b_out is not None:
        sorted_weight = expert_weight.flatten().index_select(0, order)
        db_out = _sums_of_groups(sorted_weight, dy, row_ends, order=order, share=choices, gather_grad=True)
        chosen = (expert_index >= 0) & (expert_index < experts)
        of_bias = (dy @ b_out.T).gather(1, torch.where(chosen, expert_index, 0).long())
        dweight = dweight + torch.where(chosen, of_bias, 0.0)
    return dx, dw_in, dw_out, dweight.to(expert_weight.dtype), db_in, db_out


@moe_backward.register_fake
def _(dy, x, w_in, w_out, expert_index, expert_weight, b_in, b_out, pre, order, row_ends, *options):
    biases = (x.new_empty(0) if bias is None else bias for bias in (b_in, b_out))
    return tuple(one.new_empty(one.shape) for one in (x, w_in, w_out, expert_weight, *biases))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, activation, gated, clamp, up_offset, _ = inputs
    ctx.expert = (activation, gated, clamp, up_offset)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])


def _differentiate(ctx: Any, dy: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    b_in, b_out = ctx.saved_tensors[5:7]
    dx, dw_in, dw_out, dweight, db_in, db_out = moe_backward(dy, *ctx.saved_tensors, *ctx.expert)
    biases = (None if b_in is None else db_in, None if b_out is None else db_out)
    return dx, dw_in, dw_out, None, dweight, *biases, *(None,) * 5


moe_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _sort_by_expert(expert_index: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """(the choices in the order of their experts, [T K] int32; where the rows of each expert end, [E + 1] int64).

    The last group holds the choices of no expert. Few bits make few passes of the sort.
    """
    flat = expert_index.flatten()
    bits = torch.int16 if experts < 2**15 else torch.int32
    expert_of = torch.where((flat >= 0) & (flat < experts), flat, experts).to(bits)
    of_row, order = expert_of.sort(stable=True)
    groups = torch.arange(experts + 1, dtype=bits, device=flat.device)
    return order.to(torch.int32), torch.searchsorted(of_row, groups, right=True)


def _sums_of_groups(factor: Tensor, grad: Tensor, row_ends: Tensor, **gathered: Any) -> Tensor:
    """out[group] = the sum of factor[row] grad[row] over its rows, in a fixed order: a product of 16 equal columns,
    which is as narrow as one can be."""
    columns = factor.to(grad.dtype).unsqueeze(1).expand(-1, 16)
    return matrices_of_groups(columns, grad, row_ends, **gathered)[:, 0].contiguous()


def _constants(expert: Expert) -> dict[str, Any]:
    return {"ACTIVATION": expert.activation, "GATED": expert.gated, "CLAMPED": expert.clamp is not None}


def _over_choices(rows: Tensor, choices: int) -> Tensor:
    """[T K, d] summed over the choices of a token, in float32: [T, d]."""
    if choices == 1:
        return rows
    return rows.unflatten(0, (-1, choices)).sum(1, dtype=torch.float32).to(rows.dtype)


def launch_candidates(key: Key) -> list[Config]:
    """See `kernels/ahead_of_time.py`; for the kernels of the grouped product too, which experts launch."""
    family = grouped_launch_candidates if key.kernel.startswith("grouped_matmul.") else launches.launch_candidates
    return family(key)


def ahead_of_time_cases() -> list[Case]:
    """Every kernel of a layer at its defaults: 16-bit and float32 types, widths that are multiples of 16 and odd."""
    keys, plain = [], Expert("silu", True, None, 0.0)
    for dtype, tf32 in ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
        x = torch.empty(0, dtype=dtype)
        for aligned in (True, False):
            keys.append(in_key(x, 256, aligned, tf32, True, plain))
            keys.append(hidden_grad_key(x, 256, aligned, True, tf32, plain))
            for scaled, transposed in ((True, False), (False, True)):
                variant = {"gather": False, "scatter": True, "scaled": scaled, "biased": False}
                keys.append(rows_key(x, 256, aligned, transposed, tf32, variant))
            for gathered in ("gather_x", "gather_grad"):
                variant = {"gather_x": False, "gather_grad": False, gathered: True}
                keys.append(matrices_key(x, 256, 256, aligned, tf32, variant))
    others = [replace(plain, activation=name) for name in ACTIVATIONS if name != "silu"]
    others += [Expert("relu2", False, None, 0.0), Expert("quick_gelu", True, 7.0, 1.0)]
    half = torch.empty(0, dtype=torch.bfloat16)
    keys += [in_key(half, 256, True, False, True, expert, expert.clamp is not None) for expert in others]
    keys += [hidden_grad_key(half, 256, True, True, False, expert) for expert in others]
    keys.append(in_key(half, 256, True, False, False, plain))
    keys.append(
        rows_key(half, 256, True, False, False, {**PLAIN_ROWS, "scatter": True, "scaled": True, "biased": True})
    )
    cases = [launch_case(key, launch_candidates(key)[0]) for key in keys]
    return cases + [case for experts in (128, 256) for case in _cases_of_many(experts)]


def _cases_of_many(experts: int) -> list[Case]:
    """Each kernel that looks for the expert of its tile, where there are more experts than in the other cases."""
    half, plain = torch.empty(0, dtype=torch.bfloat16), Expert("silu", True, None, 0.0)
    scattered = {**PLAIN_ROWS, "scatter": True}
    keys = [in_key(half, 256, True, False, True, plain), hidden_grad_key(half, 256, True, True, False, plain)]
    keys.append(rows_key(half, 256, True, False, False, scattered | {"scaled": True}))
    keys.append(rows_key(half, 256, True, True, False, scattered))
    cases = [launch_case(key, launch_candidates(key)[0], experts) for key in keys]
    return [replace(case, name=f"{case.name} of {experts}") for case in cases]


def launch_case(key: Key, config: Config, experts: int = 63) -> Case:
    """One launch of one key, over so many experts at most; 16-bit types stand for each other as bfloat16."""
    if key.kernel.startswith("grouped_matmul."):
        return grouped_launch_case(key, config, experts)
    flags = dict(key.flags)
    is_in = key.kernel == "moe.in"
    kernel = moe_in_kernel if is_in else moe_hidden_grad_kernel
    blocks = {name: size for name, size in config.items() if name.startswith("BLOCK")}
    options = {name: size for name, size in config.items() if name not in blocks}
    constants: dict[str, object] = blocks | {"PRECISION": "tf32" if flags["tf32"] else "ieee"}
    constants["BLOCK_E"] = triton.next_power_of_2(experts + 1)
    constants["ACTIVATION"] = next(name for name in ACTIVATIONS if name in flags)
    constants |= {"GATED": "ungated" not in flags, "CLAMPED": "clamped" in flags}
    if is_in:
        constants |= {"KEEP": flags["keep"] > 0, "BIASED": "biased" in flags}
    else:
        constants["w_k" if flags["transposed"] else "w_n"] = 1
    elements = ("x", "w", "bias", "pre", "hidden", "dy", "dpre", "weighted")
    types = dict.fromkeys(elements, "*fp32" if key.element_bytes == 4 else "*bf16")
    types |= dict.fromkeys(("limit", "offset"), "fp32") | {
        "weight": "*fp32",
        "dweight": "*fp32",
        "order": "*i32",
        "tile_ends": "*i32",
        "row_ends": "*i64",
    }
    signature = {arg: types.get(arg, "i32") for arg in kernel.arg_names if arg not in constants}
    widths = tuple(arg for arg in ("K", "N", "w_group", "w_k", "w_n") if arg in signature)
    return Case(key.label, kernel, signature, constants, options, widths if flags["aligned"] else ())
