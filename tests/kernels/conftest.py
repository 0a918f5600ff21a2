"""Fixtures of the kernel tests."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

from dataclasses import replace

import pytest
import torch
from torch._dynamo import trace_rules

from kernels._attention import launch_tables
from kernels.tuning import forget_tables
from tests.kernels.interpreter import make_ready_once_a_launch

make_ready_once_a_launch()


@pytest.fixture
def nan_filled_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is allocated and never written reads as NaN, so that a kernel which skips a row is found out."""
    # torch.compile looks up once what the functions of torch are, and must not find the replacements.
    trace_rules.get_torch_obj_rule_map()

    def filled_with_nan(allocate):
        def allocate_and_fill(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return allocate_and_fill

    monkeypatch.setattr(torch, "empty", filled_with_nan(torch.empty))
    monkeypatch.setattr(torch, "empty_like", filled_with_nan(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", filled_with_nan(torch.Tensor.new_empty))


@pytest.fixture
def small_attention_tiles(monkeypatch: pytest.MonkeyPatch):
    """Tiles so small that tiny inputs have several of them."""
    for name, table in launch_tables.TABLES.items():
        keys = 32 if name == "attention.step" else 16
        small = {at: (replace(choices[0], BM=32, BN=keys),) for at, choices in table.items()}
        monkeypatch.setitem(launch_tables.TABLES, name, small)
    forget_tables()
    yield
    forget_tables()
