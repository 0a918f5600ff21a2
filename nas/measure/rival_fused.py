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


ADAPTERS: tuple[tuple[str, str, Callable[..., Answer], str], ...] = (
    ("conv1d", "short_convolution", grouped_convolution, "torch"),
    ("fla causal_conv1d", "short_convolution", fla_convolution, "fla"),
)
"""Name, public function, adapter, and the library that it needs. fla's run on a GPU alone."""


def convolution(*, state: bool) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        made = {"x": normal(2, 70, 24), "weight": normal(24, 4), "bias": normal(24)}
        return made | ({"initial_state": normal(2, 3, 24), "return_state": True} if state else {})

    return make


CASES: tuple[tuple[str, str, Make, bool], ...] = (
    ("convolution", "short_convolution", convolution(state=False), True),
    ("convolution from a state", "short_convolution", convolution(state=True), True),
)
"""Name, public function, arguments, and whether it has gradients."""

FUNCTIONS = ("short_convolution", "short_convolution_step")
