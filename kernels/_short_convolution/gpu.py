"""The short convolution on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py`. Launch configurations are looked up, with the defaults of `launches.py`; nothing
is tuned in passing.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._short_convolution.gpu_kernels import backward_kernel, forward_kernel, step_kernel
from kernels._short_convolution.launches import default_launch, launch_key
from kernels._short_convolution.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run

STRETCH = 128  # tokens that a program of the backward pass walks; one partial gradient of the filter is kept for each


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """[B, T, D] in the type of x; shapes as at the public door."""
    return _forward(x, weight, bias, state, silu)


@torch.library.custom_op("hybrid_nas::short_convolution", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    x = _side_by_side(x)
    weight, bias, state = _contiguous(weight, bias, state)
    (batch, tokens, channels), width = x.shape, weight.shape[1]
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    key = launch_key("forward", x.element_size(), channels, **_flags(width, bias, state, silu))
    config = choose(key, forward_kernel, default_launch, x.device)
    grid = (triton.cdiv(channels, config["BLOCK_D"]) * triton.cdiv(tokens, config["BLOCK_T"]) * batch,)
    with torch.cuda.device_of(x):
        run(
            key, forward_kernel, grid, x, weight, bias, state, y, tokens, channels, x.stride(0), x.stride(1),
            W=width, SILU=silu, **config,
        )  # fmt: skip
    return y


@_forward.register_fake
def _(x, weight, bias, state, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("hybrid_nas::short_convolution_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and state (empty where the last two are absent)."""
    x, grad = _side_by_side(x), _side_by_side(grad)
    weight, bias, state = _contiguous(weight, bias, state)
    (batch, tokens, channels), width = x.shape, weight.shape[1]
    stretch = max(1, min(STRETCH, tokens))
    stretches = max(1, triton.cdiv(tokens, stretch))
    grad_x = x.new_empty(x.shape)
    grad_state = None if state is None else torch.empty_like(state)
    grad_weight = x.new_empty(batch, stretches, width, channels, dtype=torch.float32)
    grad_bias = None if bias is None else x.new_empty(batch, stretches, channels, dtype=torch.float32)
    key = launch_key("backward", x.element_size(), channels, **_flags(width, bias, state, silu))
    config = choose(key, backward_kernel, default_launch, x.device)
    if batch * channels > 0:
        with torch.cuda.device_of(x):
            run(
                key, backward_kernel, (triton.cdiv(channels, config["BLOCK_D"]) * stretches * batch,),
                x, weight, bias, state, grad, grad_x, grad_weight, grad_bias, grad_state, tokens, channels, stretch,
                x.stride(0), x.stride(1), grad.stride(0), grad.stride(1), W=width, SILU=silu, **config,
            )  # fmt: skip
    return (
        grad_x,
        grad_weight.sum((0, 1)).t().to(weight.dtype).contiguous(),
        x.new_empty(0) if grad_bias is None or bias is None else grad_bias.sum((0, 1)).to(bias.dtype),
        x.new_empty(0) if grad_state is None else grad_state,
    )


@_backward.register_fake
def _(grad, x, weight, bias, state, silu):
    optional = [x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape) for tensor in (bias, state)]
    return (x.new_empty(x.shape), weight.new_empty(weight.shape), *optional)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple:
    _, _, bias, state = tensors = ctx.saved_tensors
    grad_x, grad_weight, grad_bias, grad_state = _backward(grad, *tensors, ctx.silu)
    return grad_x, grad_weight, None if bias is None else grad_bias, None if state is None else grad_state, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


@torch.library.custom_op("hybrid_nas::short_convolution_step", mutates_args=())
def short_convolution_step(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """One token: x [B, D], state [B, W - 1, D]. For decoding: not differentiable."""
    x = x if x.stride(1) == 1 else x.contiguous()
    weight, bias, state = _contiguous(weight, bias, state)
    (batch, channels), width = x.shape, weight.shape[1]
    y, new_state = x.new_empty(x.shape), state.new_empty(state.shape)
    key = launch_key("step", x.element_size(), channels, width=width, bias=bias is not None, silu=silu)
    config = choose(key, step_kernel, default_launch, x.device)
    with torch.cuda.device_of(x):
        run(
            key, step_kernel, (triton.cdiv(channels, config["BLOCK_D"]) * batch,),
            x, weight, bias, state, y, new_state, channels, x.stride(0), W=width, SILU=silu, **config,
        )  # fmt: skip
    return y, new_state


@short_convolution_step.register_fake
def _(x, state, weight, bias, silu):
    return x.new_empty(x.shape), state.new_empty(state.shape)


def _side_by_side(x: Tensor) -> Tensor:
    """With the channels of a token side by side; a slice of a wider tensor stays where it is."""
    return x if x.stride(2) == 1 else x.contiguous()


def _contiguous(weight: Tensor, bias: Tensor | None, state: Tensor | None) -> tuple[Any, Any, Any]:
    return tuple(None if tensor is None else tensor.contiguous() for tensor in (weight, bias, state))  # type: ignore[return-value]


def _flags(width: int, bias: Tensor | None, state: Tensor | None, silu: bool) -> dict[str, int]:
    return {"width": width, "bias": bias is not None, "state": state is not None, "silu": silu}


def ahead_of_time_cases() -> list[Case]:
    """The default launches of a layer with all extras in 16-bit types, and with none in float32; of the narrowest and
    the widest filter in use."""
    cases = []
    for element_bytes, extras, width, silu in (
        (2, True, 4, True),
        (4, False, 3, False),
        (2, True, 8, True),
        (2, False, 2, True),
    ):
        given = {"width": width, "bias": extras, "state": extras, "silu": silu}
        keys = [launch_key(kernel, element_bytes, 4096, **given) for kernel in ("forward", "backward")]
        del given["state"]
        keys.append(launch_key("step", element_bytes, 4096, **given))
        cases += [launch_case(key, default_launch(key)) for key in keys]
    return cases


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    name = key.kernel.removeprefix("short_convolution.")
    kernel = {"forward": forward_kernel, "backward": backward_kernel, "step": step_kernel}[name]
    flags, element = dict(key.flags), {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    constants: dict[str, object] = {"W": flags["width"], "SILU": flags["silu"] > 0}
    if not flags["bias"]:
        constants |= {"bias": None, "grad_bias": None}
    if name != "step" and not flags["state"]:
        constants |= {"state": None, "grad_state": None}
    constants |= {name: size for name, size in config.items() if name.startswith("BLOCK")}
    integers = ("T", "D", "STRETCH", "x_batch", "x_time", "grad_batch", "grad_time")
    types = dict.fromkeys(integers, "i32") | dict.fromkeys(("grad_weight", "grad_bias"), "*fp32")
    given = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    signature = {argument: types.get(argument, element) for argument in kernel.arg_names if argument not in given}
    wide = tuple(one for one in integers if one in signature and one not in ("T", "STRETCH"))
    return Case(key.label, kernel, signature, given, {"num_warps": config["num_warps"]}, wide)
