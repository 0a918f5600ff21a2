"""The vector recurrence on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py`. Launch configurations are looked up, with the defaults of `launches.py`; nothing
is tuned in passing.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._vector_recurrence.gpu_kernels import carry_kernel, grads_kernel, output_kernel, step_kernel, sums_kernel
from kernels._vector_recurrence.launches import TILE, default_launch, launch_key, segments
from kernels._vector_recurrence.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run


def vector_recurrence(x: Tensor, log_decay: Tensor, initial_state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in the type of x, state [B, D] in float32. Shapes as at the public door."""
    return _forward(x, log_decay, initial_state, reverse)


@torch.library.custom_op("hybrid_nas::vector_recurrence", mutates_args=())
def _forward(x: Tensor, log_decay: Tensor, initial_state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    x, log_decay, initial_state = x.contiguous(), log_decay.contiguous(), initial_state.contiguous()
    batch, length, channels = x.shape
    starts, tiles = _starts(x, log_decay, initial_state, reverse=reverse, shifted=False)
    h, last = torch.empty_like(x), torch.empty_like(initial_state)
    key = _key("output", x, log_decay, REVERSE=reverse)
    config = choose(key, output_kernel, default_launch, x.device)
    with torch.cuda.device_of(x):
        run(
            key, output_kernel, (triton.cdiv(channels, config["BLOCK_D"]) * starts.shape[1] * batch,),
            x, log_decay, starts, h, last, length, channels, tiles, REVERSE=reverse, TILE=TILE, **config,
        )  # fmt: skip
    return h, last


@_forward.register_fake
def _(x, log_decay, initial_state, reverse):
    return x.new_empty(x.shape), initial_state.new_empty(initial_state.shape)


@torch.library.custom_op("hybrid_nas::vector_recurrence_backward", mutates_args=())
def _backward(
    grad: Tensor, grad_state: Tensor, log_decay: Tensor, h: Tensor, initial_state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, log_decay and the initial state."""
    grad, log_decay, h = grad.contiguous(), log_decay.contiguous(), h.contiguous()
    batch, length, channels = grad.shape
    starts, tiles = _starts(grad, log_decay, grad_state.contiguous(), reverse=not reverse, shifted=True)
    grad_x, grad_log_decay = torch.empty_like(grad), torch.empty_like(log_decay)
    grad_initial = grad_state.new_empty(batch, channels)
    key = _key("grads", grad, log_decay, REVERSE=not reverse)
    config = choose(key, grads_kernel, default_launch, grad.device)
    with torch.cuda.device_of(grad):
        run(
            key, grads_kernel, (triton.cdiv(channels, config["BLOCK_D"]) * starts.shape[1] * batch,),
            grad, log_decay, h, initial_state.contiguous(), starts, grad_x, grad_log_decay, grad_initial,
            length, channels, tiles, REVERSE=not reverse, TILE=TILE, **config,
        )  # fmt: skip
    return grad_x, grad_log_decay, grad_initial


@_backward.register_fake
def _(grad, grad_state, log_decay, h, initial_state, reverse):
    return tuple(x.new_empty(x.shape) for x in (grad, log_decay, grad_state))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, log_decay, initial_state, ctx.reverse = inputs
    ctx.save_for_backward(log_decay, output[0], initial_state)


def _differentiate(ctx: Any, grad: Tensor, grad_state: Tensor) -> tuple:
    return (*_backward(grad, grad_state, *ctx.saved_tensors, ctx.reverse), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _starts(x: Tensor, log_decay: Tensor, first: Tensor, *, reverse: bool, shifted: bool) -> tuple[Tensor, int]:
    """The state before every segment of a pass [B, segments, D], and how many tiles a segment has."""
    batch, length, channels = x.shape
    count, tiles = segments(batch, length, channels)
    if count == 1:
        return first.unsqueeze(1), tiles
    sums = first.new_empty(batch, count, channels)
    kept = torch.empty_like(sums)
    key = _key("sums", x, log_decay, REVERSE=reverse, SHIFTED=shifted)
    config = choose(key, sums_kernel, default_launch, x.device)
    carry_key = launch_key("carry", 4, channels)
    carry_config = choose(carry_key, carry_kernel, default_launch, x.device)
    with torch.cuda.device_of(x):
        run(
            key, sums_kernel, (triton.cdiv(channels, config["BLOCK_D"]) * count * batch,),
            x, log_decay, sums, kept, length, channels, tiles, REVERSE=reverse, SHIFTED=shifted, TILE=TILE, **config,
        )  # fmt: skip
        run(
            carry_key, carry_kernel, (triton.cdiv(channels, carry_config["BLOCK_D"]) * batch,),
            sums, kept, first, count, channels, **carry_config,
        )  # fmt: skip
    return sums, tiles


@torch.library.custom_op("hybrid_nas::vector_recurrence_step", mutates_args=())
def vector_recurrence_step(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: x, log_decay and the state are [B, D]. For decoding: not differentiable."""
    x, log_decay, state = x.contiguous(), log_decay.contiguous(), state.contiguous()
    h, new_state = torch.empty_like(x), torch.empty_like(state)
    key = _key("step", x, log_decay)
    config = choose(key, step_kernel, default_launch, x.device)
    with torch.cuda.device_of(x):
        run(
            key, step_kernel, (triton.cdiv(x.numel(), config["BLOCK_D"]),),
            x, log_decay, state, h, new_state, x.numel(), **config,
        )  # fmt: skip
    return h, new_state


@vector_recurrence_step.register_fake
def _(x, log_decay, state):
    return x.new_empty(x.shape), state.new_empty(state.shape)


def _key(kernel: str, x: Tensor, log_decay: Tensor, **flags: bool) -> Key:
    return launch_key(kernel, x.element_size(), x.shape[-1], decay_bytes=log_decay.element_size(), **flags)


def ahead_of_time_cases() -> list[Case]:
    """The default launches in float32, in 16-bit types with decays in float32, and all in 16-bit types; of a scan
    backwards once."""
    keys = [launch_key("carry", 4, 4096)]
    for name, flags in (
        ("sums", {"REVERSE": 1, "SHIFTED": 0}), ("sums", {"REVERSE": 0, "SHIFTED": 1}),
        ("output", {"REVERSE": 1}), ("grads", {"REVERSE": 0}),
    ):  # fmt: skip
        keys.append(launch_key(name, 2, 4096, decay_bytes=4, **flags))
    for element_bytes, decay_bytes in ((4, 4), (2, 4), (2, 2)):
        for name, flags in (
            ("sums", {"REVERSE": 0, "SHIFTED": 0}), ("sums", {"REVERSE": 1, "SHIFTED": 1}),
            ("output", {"REVERSE": 0}), ("grads", {"REVERSE": 1}), ("step", {}),
        ):  # fmt: skip
            keys.append(launch_key(name, element_bytes, 4096, decay_bytes=decay_bytes, **flags))
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    kernels = {
        "sums": sums_kernel, "carry": carry_kernel, "output": output_kernel, "grads": grads_kernel, "step": step_kernel,
    }  # fmt: skip
    kernel, flags = kernels[key.kernel.removeprefix("vector_recurrence.")], dict(key.flags)
    pointers = {2: "*bf16", 4: "*fp32"}
    types = dict.fromkeys(("T", "D", "tiles", "segments", "numbers"), "i32")
    types |= dict.fromkeys(("x", "h", "grad", "grad_x"), pointers[key.element_bytes])
    types |= dict.fromkeys(("log_decay", "grad_log_decay"), pointers[flags.get("decay_bytes", 4)])
    constants = {"TILE": TILE, **{name: flag > 0 for name, flag in flags.items()}, **config}
    given = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names if argument not in given}
    return Case(key.label, kernel, signature, given, {"num_warps": config["num_warps"]})
