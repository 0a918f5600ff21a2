"""The host's side of the Triton kernels alone, refused what a CUDA graph cannot record: reading what a tensor holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kernels.tuned_table import Key
from kernels.tuning import leave_out_launches

MULTIPROCESSORS = 3  # as in the interpreter: few, so that tiny problems reach the kernels of large ones
READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__contains__")


@contextmanager
def host_code_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Key]]:
    """Yields the launches that would have been made inside the block. They are left out, as the kernels' interpreter
    reads what it likes; what they would have written is zero."""

    def refuse(name):
        def read(*args, **kwargs):
            raise AssertionError(f"Tensor.{name} waits for the device, which no CUDA graph can record")

        return read

    def zeros(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).zero_()

    with monkeypatch.context() as patches:
        for name in READS:
            patches.setattr(torch.Tensor, name, refuse(name))
        for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patches.setattr(place, name, zeros(getattr(place, name)))
        with leave_out_launches(MULTIPROCESSORS) as launched:
            yield launched
