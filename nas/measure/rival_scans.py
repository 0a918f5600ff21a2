"""Adapters and cases of the scans of vector states and of Mamba-1, as in `rival_adapters.py` and `rival_cases.py`."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Answer = Any  # a tensor, several, or NotImplemented
Make = Callable[[torch.Generator], dict[str, Any]]


def fla_function(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


def hgrn(
    x: Tensor, log_decay: Tensor, *, initial_state: Tensor | None, return_state: bool, reverse: bool, name: str
) -> Answer:
    """`kernels.vector_recurrence` by one function of fla, which scans forwards alone."""
    if reverse:
        return NotImplemented
    scan = fla_function("hgrn", name)
    h, state = scan(x, log_decay, initial_state=initial_state, output_final_state=return_state)
    return (h, state) if return_state else h


def rwkv4(k: Tensor, v: Tensor, w: Tensor, u: Tensor, *, initial_state: Tensor | None, return_state: bool) -> Answer:
    """`kernels.wkv` by the kernel of fla, which takes log(-w), and a state [B, 3, 1, D] from which it always starts."""
    if initial_state is None:
        initial_state = k.new_zeros(k.shape[0], 3, k.shape[2], dtype=torch.float32)
        initial_state[:, 2] = -1e38  # nothing seen
    scan = fla_function("rwkv4", "fused_recurrent_rwkv4")
    y, state = scan(torch.log(-w), u, k, v, initial_state.unsqueeze(2))
    return (y, state.squeeze(2).float()) if return_state else y


def mamba_function(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"mamba_ssm.ops.{module}"), name)


def mamba_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> Answer:
    """`kernels.selective_scan` by the CUDA kernel of mamba_ssm, which has the time last and starts from zeros."""
    if initial_state is not None or B.ndim != u.ndim:
        return NotImplemented
    last = [x.to(u.dtype).transpose(1, 2).contiguous() for x in (u, delta, B, C)]
    gate = None if z is None else z.to(u.dtype).transpose(1, 2).contiguous()
    scan = mamba_function("selective_scan_interface", "selective_scan_fn")
    skip = None if D is None else D.float()
    answer = scan(last[0], last[1], A.float(), last[2], last[3], D=skip, z=gate, return_last_state=return_state)
    if not return_state:
        return answer.transpose(1, 2)
    y, state = answer
    return y.transpose(1, 2), state.float()


def mamba_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None,
    z: Tensor | None,
) -> Answer:
    """`kernels.selective_scan_step` by the Triton kernel of mamba_ssm, which writes into the state that it is given."""
    if B.ndim != u.ndim:
        return NotImplemented
    new = state.float().clone()
    y = mamba_function("triton.selective_state_update", "selective_state_update")(new, u, delta, A, B, C, D=D, z=z)
    return y, new


ADAPTERS: tuple[tuple[str, str, Callable[..., Answer], str], ...] = (
    ("fla chunk_hgrn", "vector_recurrence", partial(hgrn, name="chunk_hgrn"), "fla"),
    ("fla fused_recurrent_hgrn", "vector_recurrence", partial(hgrn, name="fused_recurrent_hgrn"), "fla"),
    ("fla fused_recurrent_rwkv4", "wkv", rwkv4, "fla"),
    ("mamba_ssm selective_scan", "selective_scan", mamba_scan, "mamba_ssm"),
    ("mamba_ssm selective_state_update", "selective_scan_step", mamba_step, "mamba_ssm"),
)
"""Name, public function, adapter, and the library that it needs. They run on a GPU alone."""


def vectors(*, state: bool) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        x, gate = torch.randn(2, 2, 70, 24, generator=generator).unbind(0)
        made = {"x": x, "log_decay": F.logsigmoid(gate + 2)}
        start = torch.randn(2, 24, generator=generator)
        return made | ({"initial_state": start, "return_state": True} if state else {})

    return make


def means(*, state: bool = False, return_state: bool = False) -> Make:
    """The WKV of 24 channels."""

    def make(generator: torch.Generator) -> dict[str, Any]:
        k, v = torch.randn(2, 2, 70, 24, generator=generator).unbind(0)
        rate, u = torch.randn(2, 24, generator=generator).unbind(0)
        made = {"k": k, "v": v, "w": -rate.exp(), "u": u, "return_state": return_state}
        a, m = torch.randn(2, 2, 24, generator=generator).unbind(0)
        return made | ({"initial_state": torch.stack((a, a.exp(), m), dim=1)} if state else {})

    return make


def selective(*, gated: bool, step: bool = False, state: bool = False) -> Make:
    """A Mamba-1 layer of 24 channels and 16 states; `gated` with skip and gate."""

    def make(generator: torch.Generator) -> dict[str, Any]:
        lead, channels, states = (2,) if step else (2, 70), 24, 16

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        made: dict[str, Any] = {"u": normal(*lead, channels), "delta": F.softplus(normal(*lead, channels) - 2)}
        made |= {"A": -normal(channels, states).exp(), "B": normal(*lead, states), "C": normal(*lead, states)}
        made |= {"D": normal(channels), "z": normal(*lead, channels)} if gated else {}
        if step:
            return made | {"state": normal(2, channels, states)}
        start = normal(2, channels, states)
        return made | ({"initial_state": start, "return_state": True} if state else {"return_state": gated})

    return make


CASES: tuple[tuple[str, str, Make, bool], ...] = (
    ("vectors", "vector_recurrence", vectors(state=False), True),
    ("vectors from a state", "vector_recurrence", vectors(state=True), True),
    ("means", "wkv", means(), True),
    ("means from a state", "wkv", means(state=True), True),
    # The shift of the state that comes out is a constant to our gradients alone.
    ("means and the state behind them", "wkv", means(state=True, return_state=True), False),
    ("selective", "selective_scan", selective(gated=False), True),
    ("selective with skip and gate", "selective_scan", selective(gated=True), True),
    ("selective from a state", "selective_scan", selective(gated=True, state=True), True),
    ("selective step", "selective_scan_step", selective(gated=False, step=True), False),
    ("selective step with skip and gate", "selective_scan_step", selective(gated=True, step=True), False),
)
"""Name, public function, arguments, and whether it has gradients."""

FUNCTIONS = (
    "vector_recurrence",
    "vector_recurrence_step",
    "wkv",
    "wkv_step",
    "selective_scan",
    "selective_scan_step",
)
