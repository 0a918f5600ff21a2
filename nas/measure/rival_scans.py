"""Adapters and cases of the scans of vector states, as in `rival_adapters.py` and `rival_cases.py`."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Answer = Any  # a tensor, several, or NotImplemented
Make = Callable[[torch.Generator], dict[str, Any]]


def fla_hgrn(name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module("fla.ops.hgrn"), name)


def hgrn(
    x: Tensor, log_decay: Tensor, *, initial_state: Tensor | None, return_state: bool, reverse: bool, name: str
) -> Answer:
    """`kernels.vector_recurrence` by one function of fla, which scans forwards alone."""
    if reverse:
        return NotImplemented
    h, state = fla_hgrn(name)(x, log_decay, initial_state=initial_state, output_final_state=return_state)
    return (h, state) if return_state else h


ADAPTERS: tuple[tuple[str, str, Callable[..., Answer], str], ...] = (
    ("fla chunk_hgrn", "vector_recurrence", partial(hgrn, name="chunk_hgrn"), "fla"),
    ("fla fused_recurrent_hgrn", "vector_recurrence", partial(hgrn, name="fused_recurrent_hgrn"), "fla"),
)
"""Name, public function, adapter, and the library that it needs. They run on a GPU alone."""


def vectors(*, state: bool) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        x, gate = torch.randn(2, 2, 70, 24, generator=generator).unbind(0)
        made = {"x": x, "log_decay": F.logsigmoid(gate + 2)}
        start = torch.randn(2, 24, generator=generator)
        return made | ({"initial_state": start, "return_state": True} if state else {})

    return make


CASES: tuple[tuple[str, str, Make, bool], ...] = (
    ("vectors", "vector_recurrence", vectors(state=False), True),
    ("vectors from a state", "vector_recurrence", vectors(state=True), True),
)
"""Name, public function, arguments, and whether it has gradients."""

FUNCTIONS = ("vector_recurrence", "vector_recurrence_step", "selective_scan", "selective_scan_step")
