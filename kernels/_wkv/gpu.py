"""WKV on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py`. Launch configurations are looked up, with the defaults of `launches.py`; nothing
is tuned in passing.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._wkv.gpu_kernels import (
    carry_kernel,
    grad_sums_kernel,
    grads_kernel,
    output_kernel,
    step_kernel,
    sums_kernel,
)
from kernels._wkv.launches import TILE, default_launch, launch_key, segments
from kernels._wkv.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run

KERNELS = {
    "sums": sums_kernel,
    "carry": carry_kernel,
    "output": output_kernel,
    "grad_sums": grad_sums_kernel,
    "grads": grads_kernel,
    "step": step_kernel,
}


def wkv(k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """y [B, T, D] in the type of v, state [B, 3, D] in float32. Shapes as at the public door."""
    y, state, _ = _forward(k, v, w, u, initial_state)
    return y, state


@torch.library.custom_op("hybrid_nas::wkv", mutates_args=())
def _forward(k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final sums, and the sums before every tile [B, tiles, 3, D]."""
    k, v, w, u, first = (x.contiguous() for x in (k, v, w, u, initial_state))
    batch, length, channels = k.shape
    count, tiles = segments(batch, length, channels)
    starts = first.unsqueeze(1)
    if count > 1:
        starts, kept = _empty_sums(k, count)
        _launch("sums", k, count, k, v, w, starts, kept, length, channels, tiles, TILE=TILE)
        _carry(starts, kept, first, reverse=False)
    y, last, tile_sums = torch.empty_like(v), torch.empty_like(first), _empty_sums(k, count * tiles)[0]
    _launch("output", k, count, k, v, w, u, starts, y, last, tile_sums, length, channels, tiles, TILE=TILE)
    return y, last, tile_sums


@_forward.register_fake
def _(k, v, w, u, initial_state):
    count, tiles = segments(*k.shape)
    tile_sums = initial_state.new_empty(k.shape[0], count * tiles, 3, k.shape[2])
    return v.new_empty(v.shape), initial_state.new_empty(initial_state.shape), tile_sums


@torch.library.custom_op("hybrid_nas::wkv_backward", mutates_args=())
def _backward(
    grad: Tensor, grad_state: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, last: Tensor, tile_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of k, v, w, u and the initial state."""
    grad, k, v, w, u = (x.contiguous() for x in (grad, k, v, w, u))
    batch, length, channels = k.shape
    count, tiles = segments(batch, length, channels)
    # What the final sums receive, with the shift that makes it meet them: their own, with the other sign.
    received = torch.cat((grad_state[:, :2], -last[:, 2:]), dim=1)
    starts = received.unsqueeze(1)
    if count > 1:
        starts, kept = _empty_sums(k, count)
        _launch("grad_sums", k, count, k, v, w, u, grad, tile_sums, starts, kept, length, channels, tiles, TILE=TILE)
        _carry(starts, kept, received, reverse=True)
    grad_k, grad_v, grad_first = torch.empty_like(k), torch.empty_like(v), torch.empty_like(last)
    grad_w = w.new_empty(batch, count, channels)
    grad_u = torch.empty_like(grad_w)
    _launch(
        "grads", k, count, k, v, w, u, grad, tile_sums, starts, grad_k, grad_v, grad_w, grad_u, grad_first,
        length, channels, tiles, TILE=TILE,
    )  # fmt: skip
    return grad_k, grad_v, grad_w.sum((0, 1)), grad_u.sum((0, 1)), grad_first


@_backward.register_fake
def _(grad, grad_state, k, v, w, u, last, tile_sums):
    return tuple(x.new_empty(x.shape) for x in (k, v, w, u, last))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])


def _differentiate(ctx: Any, grad: Tensor, grad_state: Tensor, _: Tensor) -> tuple:
    return _backward(grad, grad_state, *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


@torch.library.custom_op("hybrid_nas::wkv_step", mutates_args=())
def wkv_step(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: k and v are [B, D], the state is [B, 3, D]. For decoding: not differentiable."""
    k, v, w, u, state = (x.contiguous() for x in (k, v, w, u, state))
    y, new_state = torch.empty_like(v), torch.empty_like(state)
    key = launch_key("step", k.element_size(), k.shape[1])
    config = choose(key, step_kernel, default_launch, k.device)
    with torch.cuda.device_of(k):
        grid = (triton.cdiv(k.shape[1], config["BLOCK_D"]) * k.shape[0],)
        run(key, step_kernel, grid, k, v, w, u, state, y, new_state, k.shape[1], **config)
    return y, new_state


@wkv_step.register_fake
def _(k, v, w, u, state):
    return v.new_empty(v.shape), state.new_empty(state.shape)


def _empty_sums(like: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sums [B, count, 3, D] and the logarithms of what is kept [B, count, D]."""
    batch, _, channels = like.shape
    sums = like.new_empty(batch, count, 3, channels, dtype=torch.float32)
    return sums, sums.new_empty(batch, count, channels)


def _carry(sums: Tensor, kept: Tensor, first: Tensor, *, reverse: bool) -> None:
    batch, count, channels = kept.shape
    key = launch_key("carry", 4, channels, REVERSE=reverse)
    config = choose(key, carry_kernel, default_launch, sums.device)
    with torch.cuda.device_of(sums):
        grid = (triton.cdiv(channels, config["BLOCK_D"]) * batch,)
        run(key, carry_kernel, grid, sums, kept, first, count, channels, REVERSE=reverse, **config)


def _launch(name: str, like: Tensor, count: int, /, *arguments: Any, **constants: int) -> None:
    """One program for each block of channels, segment and sequence of [B, T, D]."""
    kernel, key = KERNELS[name], launch_key(name, like.element_size(), like.shape[2])
    config = choose(key, kernel, default_launch, like.device)
    with torch.cuda.device_of(like):
        grid = (triton.cdiv(like.shape[2], config["BLOCK_D"]) * count * like.shape[0],)
        run(key, kernel, grid, *arguments, **constants, **config)


def ahead_of_time_cases() -> list[Case]:
    """The default launches in float32 and in 16-bit types."""
    keys = [launch_key("carry", 4, 4096, REVERSE=reverse) for reverse in (False, True)]
    for element_bytes in (4, 2):
        keys += [launch_key(name, element_bytes, 4096) for name in KERNELS if name != "carry"]
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    kernel = KERNELS[key.kernel.removeprefix("wkv.")]
    types = dict.fromkeys(("T", "D", "tiles", "segments"), "i32")
    types |= dict.fromkeys(("k", "v", "y", "grad", "grad_k", "grad_v"), {2: "*bf16", 4: "*fp32"}[key.element_bytes])
    constants = {"TILE": TILE, **{name: flag > 0 for name, flag in key.flags}, **config}
    given = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names if argument not in given}
    return Case(key.label, kernel, signature, given, {"num_warps": config["num_warps"]})
