"""Adapters and cases of the fused neighbours of a mixer, as in `rival_adapters.py` and `rival_cases.py`.

They take part in benchmarks of kernels alone: what one of them changes in the time of a whole network is below what
measuring a network can tell.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Answer = Any  # a tensor, several, or NotImplemented
Make = Callable[[torch.Generator], dict[str, Any]]


def fla_module(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"fla.modules.{module}"), name)


def grouped_convolution(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> Answer:
    """`kernels.short_convolution` by `torch.nn.functional.conv1d`."""
    if initial_state is not None or return_state:
        return NotImplemented
    width = weight.shape[1]
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    y = F.conv1d(padded, weight.to(x.dtype).unsqueeze(1), None if bias is None else bias.to(x.dtype), groups=x.shape[2])
    return (F.silu(y) if activation == "silu" else y).transpose(1, 2)


def fla_convolution(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> Answer:
    """`kernels.short_convolution` by fla's Triton kernels; its states are laid out otherwise and are declined."""
    if initial_state is not None or return_state:
        return NotImplemented
    weights = (weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    y, _ = fla_module("causal_conv1d.ops", "causal_conv1d")(x.contiguous(), *weights, activation=activation)
    return y


def plain_norm(
    x: Tensor,
    weight: Tensor | None,
    *,
    eps: float,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_activation: str,
    gate_first: bool,
    group_size: int | None,
) -> Answer:
    """`kernels.rms_norm` by `torch.nn.functional.rms_norm`, which knows neither sums nor gates nor groups."""
    if residual is not None or gate is not None or group_size is not None:
        return NotImplemented
    return F.rms_norm(x, (x.shape[-1],), None if weight is None else weight.to(x.dtype), eps)


def fla_norm(
    x: Tensor,
    weight: Tensor | None,
    *,
    eps: float,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_activation: str,
    gate_first: bool,
    group_size: int | None,
) -> Answer:
    """`kernels.rms_norm` by fla's Triton kernels, with a residual or a gate behind the norm."""
    if weight is None or gate_first or group_size is not None:
        return NotImplemented
    if gate is not None:
        gated = fla_module("norm.fused_norm_gate", "rms_norm_gated")
        return gated(x, gate, weight.to(x.dtype), None, gate_activation, eps=eps)
    norm = fla_module("norm.layernorm", "rms_norm")
    return norm(x, weight.to(x.dtype), None, residual=residual, eps=eps, prenorm=residual is not None)


def normalize(x: Tensor, *, eps: float) -> Answer:
    """`kernels.l2_norm` by a reduction and a product of PyTorch."""
    return x * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + eps).to(x.dtype)


def fla_l2_norm(x: Tensor, *, eps: float) -> Answer:
    """`kernels.l2_norm` by fla's Triton kernels."""
    return fla_module("norm.l2norm", "l2norm")(x, eps)


def separate_gate(gate: Tensor, up: Tensor, *, activation: str) -> Answer:
    """`kernels.glu` by two operations of PyTorch."""
    if activation not in ("silu", "gelu"):
        return NotImplemented
    return getattr(F, activation)(gate) * up


def fla_swiglu(gate: Tensor, up: Tensor, *, activation: str) -> Answer:
    """`kernels.glu` by fla's Triton kernels, which know SiLU."""
    return fla_module("activations.ops", "swiglu")(gate, up) if activation == "silu" else NotImplemented


def complex_product(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Answer:
    """`kernels.rope` by PyTorch's product of complex numbers, which are whole heads of interleaved pairs."""
    if not interleaved or 2 * cos.shape[-1] != x.shape[-1]:
        return NotImplemented
    turns = torch.complex(cos, sin).unsqueeze(-2)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def fla_rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Answer:
    """`kernels.rope` by fla's Triton kernels, where all sequences stand at the same positions."""
    if cos.dim() != 2:
        return NotImplemented
    return fla_module("rotary.ops", "rotary_embedding")(x, cos.to(x.dtype), sin.to(x.dtype), interleaved=interleaved)


def whole_logits(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int,
    soft_cap: float | None,
    reduction: str,
    factors: Tensor | None = None,
) -> Answer:
    """`kernels.linear_cross_entropy` by PyTorch: all logits, then `torch.nn.functional.cross_entropy`."""
    logits = F.linear(x, weight).float()
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    rows, asked = logits.flatten(0, -2), targets.flatten()
    if factors is None:
        return F.cross_entropy(rows, asked, ignore_index=ignore_index, reduction=reduction)
    return (F.cross_entropy(rows, asked, ignore_index=ignore_index, reduction="none") * factors).sum()


def fla_linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int,
    soft_cap: float | None,
    reduction: str,
    factors: Tensor | None = None,
) -> Answer:
    """`kernels.linear_cross_entropy` by fla's Triton kernels, which know no factors."""
    if factors is not None:
        return NotImplemented
    loss = fla_module("fused_linear_cross_entropy.ops", "fused_linear_cross_entropy_loss")
    options = {"ignore_index": ignore_index, "logit_softcapping": soft_cap, "reduction": reduction}
    return loss(x.reshape(-1, x.shape[-1]), targets.reshape(-1), weight, **options)


ADAPTERS: tuple[tuple[str, str, Callable[..., Answer], str], ...] = (
    ("conv1d", "short_convolution", grouped_convolution, "torch"),
    ("fla causal_conv1d", "short_convolution", fla_convolution, "fla"),
    ("rms_norm", "rms_norm", plain_norm, "torch"),
    ("fla rms_norm", "rms_norm", fla_norm, "fla"),
    ("silu * up", "glu", separate_gate, "torch"),
    ("fla swiglu", "glu", fla_swiglu, "fla"),
    ("complex product", "rope", complex_product, "torch"),
    ("fla rotary", "rope", fla_rotary, "fla"),
    ("cross_entropy", "linear_cross_entropy", whole_logits, "torch"),
    ("fla fused_linear_cross_entropy", "linear_cross_entropy", fla_linear_cross_entropy, "fla"),
    ("rsqrt", "l2_norm", normalize, "torch"),
    ("fla l2norm", "l2_norm", fla_l2_norm, "fla"),
)
"""Name, public function, adapter, and the library that it needs. fla's run on a GPU alone."""


def convolution(*, state: bool) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        made = {"x": normal(2, 70, 24), "weight": normal(24, 4), "bias": normal(24)}
        return made | ({"initial_state": normal(2, 3, 24), "return_state": True} if state else {})

    return make


def norm(*, residual: bool = False, gate: bool = False, weight: bool = True) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        made = {"x": normal(2, 70, 24)} | ({"weight": normal(24)} if weight else {})
        made |= {"residual": normal(2, 70, 24)} if residual else {}
        return made | ({"gate": normal(2, 70, 24)} if gate else {})

    return make


def gated_unit(generator: torch.Generator) -> dict[str, Any]:
    gate, up = torch.randn(70, 48, generator=generator).chunk(2, dim=-1)
    return {"gate": gate, "up": up}


def rotation(*, interleaved: bool) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        angles = torch.randn(70, 12, generator=generator)
        x = torch.randn(2, 70, 3, 24, generator=generator)
        return {"x": x, "cos": angles.cos(), "sin": angles.sin(), "interleaved": interleaved}

    return make


def loss(generator: torch.Generator) -> dict[str, Any]:
    targets = torch.randint(48, (70,), generator=generator)
    targets[::3] = -100
    x, weight = (torch.randn(count, 24, generator=generator) for count in (70, 48))
    return {"x": x, "weight": weight, "targets": targets}


CASES: tuple[tuple[str, str, Make, bool], ...] = (
    ("convolution", "short_convolution", convolution(state=False), True),
    ("convolution from a state", "short_convolution", convolution(state=True), True),
    ("norm", "rms_norm", norm(), True),
    ("norm of a sum", "rms_norm", norm(residual=True), True),
    ("norm before a gate", "rms_norm", norm(gate=True), True),
    ("gate", "glu", gated_unit, True),
    ("rotation", "rope", rotation(interleaved=False), False),
    ("rotation of interleaved pairs", "rope", rotation(interleaved=True), False),
    ("loss", "linear_cross_entropy", loss, True),
    ("l2 norm", "l2_norm", norm(weight=False), True),
)
"""Name, public function, arguments, and whether it has gradients."""

FUNCTIONS = (
    "short_convolution",
    "short_convolution_step",
    "rms_norm",
    "l2_norm",
    "glu",
    "rope",
    "linear_cross_entropy",
)
