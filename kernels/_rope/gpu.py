"""The Triton kernel of rotary positions: every element is read once and written once, and turned back in backward.

A program turns some heads of one token, which share their angles. Launch configurations are looked up, with the
defaults of `launches.py`; nothing is tuned in passing.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._rope.launches import default_launch, launch_key
from kernels._rope.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.grids import place_of_three
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run


@triton.jit(do_not_specialize=["T", "sign"])
def turn_kernel(
    x, cos, sin, y, T, H, D, P, x_batch, x_token, x_head, table_batch, sign,
    INTERLEAVED: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """y [B, T, H, D]: P pairs turned by sign times their angle, and the rest of the channels as they are."""
    t, block, b = place_of_three(T, tl.cdiv(H, BLOCK_H))
    b = b.to(tl.int64)
    h, p = block * BLOCK_H + tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_P)
    at_table = b * table_batch + t * P + p
    c = tl.load(cos + at_table, mask=p < P, other=0.0)[None, :]
    s = tl.load(sin + at_table, mask=p < P, other=0.0)[None, :] * sign
    x += b * x_batch + t.to(tl.int64) * x_token
    y += (b * T + t) * H * D
    mask = (h < H)[:, None] & (p < P)[None, :]
    first = 2 * p if INTERLEAVED else p
    second = 2 * p + 1 if INTERLEAVED else p + P
    u = tl.load(x + (h * x_head)[:, None] + first[None, :], mask=mask, other=0.0).to(tl.float32)
    v = tl.load(x + (h * x_head)[:, None] + second[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(y + (h * D)[:, None] + first[None, :], (u * c - v * s).to(y.dtype.element_ty), mask=mask)
    tl.store(y + (h * D)[:, None] + second[None, :], (v * c + u * s).to(y.dtype.element_ty), mask=mask)
    if BLOCK_REST > 0:
        rest = 2 * P + tl.arange(0, BLOCK_REST)
        mask = (h < H)[:, None] & (rest < D)[None, :]
        kept = tl.load(x + (h * x_head)[:, None] + rest[None, :], mask=mask, other=0.0)
        tl.store(y + (h * D)[:, None] + rest[None, :], kept, mask=mask)


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """As at the public door."""
    return _turn(x, cos, sin, interleaved, 1.0)


@torch.library.custom_op("hybrid_nas::rope", mutates_args=())
def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, sign: float) -> Tensor:
    x = x if x.stride(3) == 1 else x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    (batch, tokens, heads, size), pairs = x.shape, cos.shape[-1]
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    rest = size - 2 * pairs
    key = launch_key(x.element_size(), heads, pairs, rest, interleaved)
    config = choose(key, turn_kernel, default_launch, x.device)
    with torch.cuda.device_of(x):
        run(
            key, turn_kernel, (tokens * triton.cdiv(heads, config["BLOCK_H"]) * batch,),
            x, cos, sin, y, tokens, heads, size, pairs, *x.stride()[:3], 0 if cos.dim() == 2 else tokens * pairs, sign,
            INTERLEAVED=interleaved, BLOCK_P=triton.next_power_of_2(pairs),
            BLOCK_REST=triton.next_power_of_2(rest) if rest else 0, **config,
        )  # fmt: skip
    return y


@_turn.register_fake
def _(x, cos, sin, interleaved, sign):
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, cos, sin, *ctx.how = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    interleaved, sign = ctx.how
    return _turn(grad, *ctx.saved_tensors, interleaved, -sign), None, None, None, None


_turn.register_autograd(_differentiate, setup_context=_setup_context)


def ahead_of_time_cases() -> list[Case]:
    """The default launches of whole heads and of a fraction of them, in both layouts of pairs."""
    forms = ((2, 32, 64, 0, False), (4, 8, 32, 0, True), (2, 128, 128, 0, False), (2, 16, 32, 192, True))
    keys = [launch_key(*form) for form in forms]
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    sizes = dict(key.sizes)
    constants: dict[str, object] = {
        "INTERLEAVED": dict(key.flags)["interleaved"] > 0,
        "BLOCK_H": config["BLOCK_H"],
        "BLOCK_P": sizes["pairs"],
        "BLOCK_REST": sizes.get("rest", 0),
    }
    element = {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    types = {"x": element, "y": element, "cos": "*fp32", "sin": "*fp32", "sign": "fp32"}
    signature = {name: types.get(name, "i32") for name in turn_kernel.arg_names if name not in constants}
    wide = ("H", "D", "P", "x_batch", "x_token", "x_head", "table_batch")
    return Case(key.label, turn_kernel, signature, constants, {"num_warps": config["num_warps"]}, wide)
