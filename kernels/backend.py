"""Which implementation of an operation runs, decided in one place.

* `reference`: the definition, token by token in float32. For tests; slow.
* `portable`: vectorised or chunked PyTorch, differentiable, any device.
* `gpu`: Triton kernels. On CPU tensors they run in the Triton interpreter, and only when that is switched on
  (`TRITON_INTERPRET=1` before the first import); otherwise asking for them is refused.

The automatic choice is `gpu` for CUDA tensors and `portable` for everything else. `use_backend` overrides it for the
forward pass; the backward pass of an operation always runs on the implementation that its forward pass used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Backend = Literal["reference", "portable", "gpu"]
BACKENDS: tuple[str, ...] = get_args(Backend)

# A plain module variable, for all threads: torch.compile can read it while tracing, which it cannot do with a
# ContextVar.
_override: Backend | None = None


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Run every operation inside the block on the named implementation, in all threads of the process.

    Raises ValueError for a name that is not one of `reference`, `portable`, `gpu`.
    """
    if name not in BACKENDS:
        raise ValueError(f"A backend must be one of {', '.join(BACKENDS)}, but got {name!r}.")
    global _override
    before, _override = _override, name
    try:
        yield
    finally:
        _override = before


def interpreter_is_on() -> bool:
    """Whether Triton kernels decorated in this process run in the interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def choose_backend(tensor: torch.Tensor) -> Backend:
    """The implementation for this tensor: the override if there is one, else by device.

    Raises RuntimeError when `gpu` is asked for a CPU tensor and the Triton interpreter is off.
    """
    if _override is None:
        return "gpu" if tensor.is_cuda else "portable"
    if _override == "gpu" and not tensor.is_cuda and not interpreter_is_on():
        raise RuntimeError(
            f"The gpu backend needs CUDA tensors, but got a tensor on {tensor.device}. Move the tensors to a GPU, use "
            "the portable backend, or set TRITON_INTERPRET=1 before Python starts to interpret the kernels."
        )
    return _override
