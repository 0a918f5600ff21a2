"""The host's side of the Triton kernels alone, refused what a CUDA graph cannot record: reading what a tensor holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kernels import use_backend
from kernels.tuning import watch_launches

READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__contains__")


@contextmanager
def host_code_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yields the kernels that would have been launched inside the block. They are left out, as their interpreter reads
    what it likes; what they would have written is zero."""
    launched: list[str] = []

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
        with use_backend("gpu"), watch_launches(lambda key, launch: launched.append(key.kernel)):
            yield launched
