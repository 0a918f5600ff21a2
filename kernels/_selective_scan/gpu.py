"""The selective scan on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_kernels.py`. Launch configurations are looked up, with the defaults of `launches.py`; nothing
is tuned in passing.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels._selective_scan.gpu_kernels import carry_kernel, grads_kernel, output_kernel, step_kernel, sums_kernel
from kernels._selective_scan.launches import CHUNK, default_launch, launch_key
from kernels._selective_scan.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, T, Dm] in the type of u, final state [B, Dm, N] in float32. Shapes as at the public door."""
    y, state, _ = _forward(u, delta, A, B, C, D, z, initial_state)
    return y, state


@torch.library.custom_op("hybrid_nas::selective_scan", mutates_args=())
def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, final state, and the state before every chunk and behind the last [B, chunks + 1, N, Dm]."""
    u, delta, B, C = u.contiguous(), delta.contiguous(), B.contiguous(), C.contiguous()
    D, z = None if D is None else D.contiguous(), None if z is None else z.contiguous()
    starts = _carried(A, u=u, delta=delta, BC=B, first=initial_state)
    y = torch.empty_like(u)
    batch, length, channels = u.shape
    key = launch_key("output", u.element_size(), channels, A.shape[1], skip=D is not None, gate=z is not None)
    config = choose(key, output_kernel, default_launch, u.device)
    with torch.cuda.device_of(u):
        run(
            key, output_kernel, (triton.cdiv(channels, config["BLOCK_D"]), starts.shape[1] - 1, batch),
            u, delta, _states_first(A), B, C, D, z, starts, y, length, channels, A.shape[1], BLOCK_T=CHUNK, **config,
        )  # fmt: skip
    return y, _states_last(starts[:, -1]), starts


@_forward.register_fake
def _(u, delta, A, B, C, D, z, initial_state):
    batch, length, channels = u.shape
    state = u.new_empty(batch, channels, A.shape[1], dtype=torch.float32)
    starts = u.new_empty(batch, -(-length // CHUNK) + 1, A.shape[1], channels, dtype=torch.float32)
    return u.new_empty(u.shape), state, starts


@torch.library.custom_op("hybrid_nas::selective_scan_backward", mutates_args=())
def _backward(
    grad: Tensor,
    grad_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z (empty where D or z is absent) and of the initial state."""
    u, delta, B, C, grad = u.contiguous(), delta.contiguous(), B.contiguous(), C.contiguous(), grad.contiguous()
    D, z = None if D is None else D.contiguous(), None if z is None else z.contiguous()
    carries = _carried(A, grad=grad, z=z, delta=delta, BC=C, first=grad_state)

    batch, length, channels = u.shape
    chunks, num_states = starts.shape[1] - 1, A.shape[1]
    key = launch_key("grads", u.element_size(), channels, num_states, skip=D is not None, gate=z is not None)
    config = choose(key, grads_kernel, default_launch, u.device)
    blocks = triton.cdiv(channels, config["BLOCK_D"])
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    grad_z = None if z is None else torch.empty_like(z)
    grad_A = starts.new_empty(batch, chunks, num_states, channels)
    grad_B = starts.new_empty(blocks, batch, num_states, length)
    grad_C = torch.empty_like(grad_B)
    grad_D = None if D is None else starts.new_empty(batch, chunks, channels)
    with torch.cuda.device_of(u):
        run(
            key, grads_kernel, (blocks, chunks, batch), u, delta, _states_first(A), B, C, D, z, starts, grad, carries,
            grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z,
            length, channels, num_states, BLOCK_T=CHUNK, **config,
        )  # fmt: skip
    return (
        grad_u,
        grad_delta,
        grad_A.sum((0, 1)).T.to(A.dtype).contiguous(),
        grad_B.sum(0).transpose(1, 2).to(B.dtype).contiguous(),
        grad_C.sum(0).transpose(1, 2).to(C.dtype).contiguous(),
        u.new_empty(0) if grad_D is None or D is None else grad_D.sum((0, 1)).to(D.dtype),
        u.new_empty(0) if grad_z is None else grad_z,
        _states_last(carries[:, 0]),
    )


@_backward.register_fake
def _(grad, grad_state, u, delta, A, B, C, D, z, starts):
    grads = [x.new_empty(x.shape) for x in (u, delta, A, B, C)]
    optional = [u.new_empty(0) if x is None else x.new_empty(x.shape) for x in (D, z)]
    return (*grads, *optional, grad_state.new_empty(grad_state.shape, dtype=torch.float32))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, initial_state = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.state_dtype = initial_state.dtype


def _differentiate(ctx: Any, grad: Tensor, grad_state: Tensor, _: Tensor) -> tuple:
    tensors = ctx.saved_tensors
    *grads, grad_D, grad_z, grad_initial = _backward(grad, grad_state, *tensors)
    D, z = tensors[5:7]
    return (*grads, None if D is None else grad_D, None if z is None else grad_z, grad_initial.to(ctx.state_dtype))


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _carried(
    A: Tensor,
    *,
    delta: Tensor,
    BC: Tensor,
    first: Tensor,
    u: Tensor | None = None,
    grad: Tensor | None = None,
    z: Tensor | None = None,
) -> Tensor:
    """The states between chunks and at both ends [B, chunks + 1, N, Dm], one of which is `first` [B, Dm, N].

    With u: states, from the first on. With grad: their gradients, from the last on.
    """
    batch, length, channels = delta.shape
    num_states, chunks = A.shape[1], triton.cdiv(length, CHUNK)
    A, first = _states_first(A), _states_first(first)
    sums = first.new_empty(batch, chunks + 1, num_states, channels)
    delta_sums = first.new_empty(batch, chunks, channels)
    reverse = u is None
    key = launch_key("sums", delta.element_size(), channels, num_states, reverse=reverse, gate=z is not None)
    config = choose(key, sums_kernel, default_launch, delta.device)
    carry_key = launch_key("carry", sums.element_size(), channels, num_states, reverse=reverse)
    carry_config = choose(carry_key, carry_kernel, default_launch, delta.device)
    with torch.cuda.device_of(delta):
        run(
            key, sums_kernel, (triton.cdiv(channels, config["BLOCK_D"]), chunks, batch),
            u, delta, A, BC, grad, z, sums, delta_sums, length, channels, num_states,
            REVERSE=reverse, BLOCK_T=CHUNK, **config,
        )  # fmt: skip
        run(
            carry_key, carry_kernel, (triton.cdiv(channels * num_states, carry_config["BLOCK"]), batch),
            sums, delta_sums, A, first, chunks, channels, num_states, REVERSE=reverse, **carry_config,
        )  # fmt: skip
    return sums


@torch.library.custom_op("hybrid_nas::selective_scan_step", mutates_args=())
def selective_scan_step(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, D: Tensor | None, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token: u, delta, z are [B, Dm], B and C [B, N], state [B, Dm, N]. For decoding: not differentiable."""
    u, delta, B, C = u.contiguous(), delta.contiguous(), B.contiguous(), C.contiguous()
    D, z = None if D is None else D.contiguous(), None if z is None else z.contiguous()
    A, state = A.float().contiguous(), state.float().contiguous()
    y, new_state = torch.empty_like(u), torch.empty_like(state)
    batch, channels = u.shape
    key = launch_key("step", u.element_size(), channels, A.shape[1], skip=D is not None, gate=z is not None)
    config = choose(key, step_kernel, default_launch, u.device)
    with torch.cuda.device_of(u):
        run(
            key, step_kernel, (triton.cdiv(channels, config["BLOCK_D"]), batch),
            u, delta, A, B, C, D, z, state, y, new_state, channels, A.shape[1],
            BLOCK_N=triton.next_power_of_2(A.shape[1]), **config,
        )  # fmt: skip
    return y, new_state


@selective_scan_step.register_fake
def _(u, delta, A, B, C, state, D, z):
    return u.new_empty(u.shape), state.new_empty(state.shape, dtype=torch.float32)


def _states_first(x: Tensor) -> Tensor:
    """[..., Dm, N] as the kernels read it: [..., N, Dm] in float32."""
    return x.float().transpose(-1, -2).contiguous()


def _states_last(x: Tensor) -> Tensor:
    """[..., N, Dm] as callers have it, in memory of its own."""
    return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format)


def ahead_of_time_cases() -> list[Case]:
    """The default launches of a layer with skip and gate in 16-bit types, without either in float32, and with each
    alone; steps of few and many states, too."""
    keys = [launch_key("carry", 4, 4096, 16, reverse=reverse) for reverse in (False, True)]
    for element_bytes, extras in ((2, True), (4, False)):
        keys.append(launch_key("sums", element_bytes, 4096, 16, reverse=False, gate=False))
        keys.append(launch_key("sums", element_bytes, 4096, 16, reverse=True, gate=extras))
    for element_bytes, skip, gate in ((2, True, True), (4, False, False), (2, True, False), (2, False, True)):
        names = ("output", "grads", "step")
        keys += [launch_key(name, element_bytes, 4096, 16, skip=skip, gate=gate) for name in names]
    keys += [launch_key("step", 2, 4096, states, skip=True, gate=True) for states in (1, 64)]
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    name = key.kernel.removeprefix("selective_scan.")
    kernels = {
        "sums": sums_kernel, "carry": carry_kernel, "output": output_kernel, "grads": grads_kernel, "step": step_kernel,
    }  # fmt: skip
    flags, kernel, element = dict(key.flags), kernels[name], {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    constants: dict[str, object] = {"BLOCK_T": CHUNK, "BLOCK_N": dict(key.sizes).get("states")}
    if "reverse" in flags:
        constants |= {"REVERSE": flags["reverse"] > 0, "u" if flags["reverse"] else "grad": None}
    if not flags.get("gate"):
        constants |= {"z": None, "grad_z": None}
    if not flags.get("skip"):
        constants |= {"D": None, "grad_D": None}
    constants |= config
    types = dict.fromkeys(("T", "Dm", "N", "chunks"), "i32") | dict.fromkeys(
        ("u", "delta", "B", "C", "BC", "z", "y", "grad", "grad_u", "grad_delta", "grad_z"), element
    )
    given = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names if argument not in given}
    return Case(key.label, kernel, signature, given, {"num_warps": config["num_warps"]})
