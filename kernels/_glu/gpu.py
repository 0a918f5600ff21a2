"""Triton kernels of the gate: every element is read once and written once, forward and backward.

Gate and up are matrices whose rows may lie apart, such as the halves of one projection. Launch configurations are
looked up, with the defaults of `launches.py`; nothing is tuned in passing.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._glu.launches import default_launch, launch_key
from kernels._glu.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4, "sigmoid": 5}


@triton.jit
def _activation(z, ACT: tl.constexpr):
    """act(z) and its derivative."""
    if ACT == 0:
        share = tl.sigmoid(z)
        value = z * share
        slope = share * (1.0 + z * (1.0 - share))
    elif ACT == 1:
        share = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        value = z * share
        slope = share + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
    elif ACT == 2:  # (1 + tanh(u)) / 2 is the sigmoid of 2 u
        share = tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
        value = z * share
        slope = share + value * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * z * z)
    elif ACT == 5:
        value = tl.sigmoid(z)
        slope = value * (1.0 - value)
    else:
        positive = tl.where(z > 0, z, 0.0)
        value = positive if ACT == 3 else positive * positive
        slope = tl.where(z > 0, 1.0, 0.0) if ACT == 3 else 2.0 * positive
    return value, slope


@triton.jit
def _place(N, D, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows, columns and mask of a tile."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    return n, d, (n < N)[:, None] & (d < D)[None, :]


@triton.jit(do_not_specialize=["N"])
def forward_kernel(
    gate, up, out, N, D, gate_row, up_row, ACT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n, d, mask = _place(N, D, BLOCK_R, BLOCK_D)
    z = tl.load(gate + (n * gate_row)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    u = tl.load(up + (n * up_row)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    value, _ = _activation(z, ACT)
    tl.store(out + (n * D)[:, None] + d[None, :], (value * u).to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N"])
def backward_kernel(
    grad, gate, up, grad_gate, grad_up, N, D, grad_row, gate_row, up_row,
    ACT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n, d, mask = _place(N, D, BLOCK_R, BLOCK_D)
    g = tl.load(grad + (n * grad_row)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    z = tl.load(gate + (n * gate_row)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    u = tl.load(up + (n * up_row)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    value, slope = _activation(z, ACT)
    out_at = (n * D)[:, None] + d[None, :]
    tl.store(grad_gate + out_at, (g * u * slope).to(grad_gate.dtype.element_ty), mask=mask)
    tl.store(grad_up + out_at, (g * value).to(grad_up.dtype.element_ty), mask=mask)


def glu(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """As at the public door."""
    return _forward(gate, up, ACTIVATIONS[activation])


@torch.library.custom_op("hybrid_nas::glu", mutates_args=())
def _forward(gate: Tensor, up: Tensor, activation: int) -> Tensor:
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    gate, up = _rows(gate), _rows(up)
    key, config, grid = _launch("forward", forward_kernel, gate, activation)
    if out.numel() > 0:
        with torch.cuda.device_of(gate):
            strides = (gate.stride(0), up.stride(0))
            run(key, forward_kernel, grid, gate, up, out, *gate.shape, *strides, ACT=activation, **config)
    return out


@_forward.register_fake
def _(gate, up, activation):
    return gate.new_empty(gate.shape)


@torch.library.custom_op("hybrid_nas::glu_backward", mutates_args=())
def _backward(grad: Tensor, gate: Tensor, up: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = (torch.empty_like(one, memory_format=torch.contiguous_format) for one in (gate, up))
    grad, gate, up = _rows(grad), _rows(gate), _rows(up)
    key, config, grid = _launch("backward", backward_kernel, gate, activation)
    if grad.numel() > 0:
        with torch.cuda.device_of(gate):
            run(
                key, backward_kernel, grid, grad, gate, up, grad_gate, grad_up, *gate.shape,
                grad.stride(0), gate.stride(0), up.stride(0), ACT=activation, **config,
            )  # fmt: skip
    return grad_gate, grad_up


@_backward.register_fake
def _(grad, gate, up, activation):
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.activation), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _rows(x: Tensor) -> Tensor:
    """[N, D] with the channels side by side, where it lies if that can be."""
    rows = x.reshape(x.numel() // max(1, x.shape[-1]), x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _launch(name: str, kernel: Any, gate: Tensor, activation: int) -> tuple[Key, Config, tuple[int, int]]:
    key = launch_key(name, gate.element_size(), max(1, gate.shape[1]), activation)
    config = choose(key, kernel, default_launch, gate.device)
    grid = (triton.cdiv(gate.shape[0], config["BLOCK_R"]), triton.cdiv(gate.shape[1], config["BLOCK_D"]))
    return key, config, grid


def ahead_of_time_cases() -> list[Case]:
    """The default launches of wide layers in 16-bit types by every activation, and of narrow ones by one each."""
    sizes = [(2, 14336, activation) for activation in ACTIVATIONS.values()] + [(4, 256, 1), (2, 1024, 2)]
    keys = [launch_key(kernel, *one) for kernel in ("forward", "backward") for one in sizes]
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    kernel = forward_kernel if key.kernel == "glu.forward" else backward_kernel
    constants: dict[str, object] = {"ACT": dict(key.flags)["activation"]}
    constants |= {name: size for name, size in config.items() if name.startswith("BLOCK")}
    integers = ("N", "D", "grad_row", "gate_row", "up_row")
    element = {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    signature = {name: "i32" if name in integers else element for name in kernel.arg_names if name not in constants}
    wide = tuple(name for name in integers[1:] if name in signature)
    return Case(key.label, kernel, signature, constants, {"num_warps": config["num_warps"]}, wide)
