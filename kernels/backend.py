"""Which implementation of an operation runs, decided in one place.

* `reference`: the definition, token by token in float32. For tests; slow.
* `portable`: vectorised or chunked PyTorch, differentiable, any device.
* `gpu`: Triton kernels. On CPU tensors they run in the Triton interpreter, and only when that is switched on
  (`TRITON_INTERPRET=1` before the first import); otherwise asking for them is refused.

The automatic choice is `gpu` for CUDA tensors and `portable` for everything else. `use_backend` overrides it for the
forward pass; the backward pass of an operation always runs on the implementation that its forward pass used.

The decoding steps of recurrences have Triton kernels for the forward pass alone. One that is asked for a gradient runs
on the portable implementation instead, on any device, under `use_backend("gpu")` too.

`use_substitutes` puts somebody else's implementation in the place of ours, behind the same door and the same checks, so
that whole models can be measured with it.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, get_args

import torch

Backend = Literal["reference", "portable", "gpu"]
BACKENDS: tuple[str, ...] = get_args(Backend)

OPERATIONS = (
    "attention",
    "attention_step",
    "block_sparse_attention",
    "grouped_matmul",
    "matrix_recurrence",
    "matrix_recurrence_step",
    "moe_ffn",
    "route_top_k",
    "selective_scan",
    "selective_scan_step",
    "glu",
    "rope",
    "linear_cross_entropy",
    "rms_norm",
    "l2_norm",
    "short_convolution",
    "short_convolution_step",
    "vector_recurrence",
    "vector_recurrence_step",
    "wkv",
    "wkv_step",
)

# Plain module variables, for all threads: torch.compile can read them while tracing, which it cannot do with a
# ContextVar.
_override: Backend | None = None
_substitutes: dict[str, Callable[..., Any]] = {}
_absent_multiprocessors: int | None = None


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


@contextmanager
def use_absent_gpu(multiprocessors: int) -> Iterator[None]:
    """Run every operation inside the block on `gpu` as on a GPU of so many multiprocessors, whose launches nobody makes
    (`kernels.tuning.leave_out_launches`): bfloat16 is taken, and choices are those of that GPU."""
    global _absent_multiprocessors
    before, _absent_multiprocessors = _absent_multiprocessors, multiprocessors
    try:
        with use_backend("gpu"):
            yield
    finally:
        _absent_multiprocessors = before


@contextmanager
def use_substitutes(substitutes: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Call these functions in place of our own implementations inside the block, in all threads of the process.

    The keys are public functions of the door (`OPERATIONS`). A substitute is called with the arguments of that function
    after they were checked: tensors by position, every option by its name, with the scale filled in; it returns
    what the function returns. One that returns NotImplemented declines, and our own implementation runs. Blocks nest:
    the innermost substitute of an operation counts.

    Raises ValueError for a key that is no public function.
    """
    for name in substitutes:
        if name not in OPERATIONS:
            near = difflib.get_close_matches(name, OPERATIONS, 1) or OPERATIONS
            raise ValueError(
                f"A substitute must stand for a public function of the kernels, but got {name!r}: write "
                f"{' or '.join(near)}."
            )
    global _substitutes
    before, _substitutes = _substitutes, {**_substitutes, **substitutes}
    try:
        yield
    finally:
        _substitutes = before


def ask_substitute(operation: str, *tensors: Any, **options: Any) -> Any:
    """What the substitute of an operation answers; NotImplemented where there is none or where it declines."""
    substitute = _substitutes.get(operation)
    return NotImplemented if substitute is None else substitute(*tensors, **options)


def interpreter_is_on() -> bool:
    """Whether Triton kernels decorated in this process run in the interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def gpu_is_absent() -> bool:
    """Whether launches are only listed (`use_absent_gpu`)."""
    return _absent_multiprocessors is not None


def multiprocessors(device: torch.device) -> int:
    """How many programs the device runs at once, at least; three for the interpreter, so that tests reach both sides of
    every choice."""
    return _absent_multiprocessors or _count_multiprocessors(device)


@cache
def _count_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def is_overridden() -> bool:
    """Whether `use_backend` names the implementation that runs."""
    return _override is not None


def choose_backend(tensor: torch.Tensor, *others: torch.Tensor | None) -> Backend:
    """The implementation for these tensors: the override if there is one, else by the device of the first.

    Raises RuntimeError when `gpu` is asked for a CPU tensor and the Triton interpreter is off, ValueError when it is on
    and a tensor is bfloat16, which it would multiply, round and add up wrongly without a word.
    """
    if _override is None:
        return "gpu" if tensor.is_cuda else "portable"
    if _override == "gpu" and not tensor.is_cuda:
        if not interpreter_is_on():
            raise RuntimeError(
                f"The gpu backend needs CUDA tensors, but got a tensor on {tensor.device}. Move the tensors to a GPU, "
                "use the portable backend, or set TRITON_INTERPRET=1 before Python starts to interpret the kernels."
            )
        if not gpu_is_absent() and any(one is not None and one.dtype == torch.bfloat16 for one in (tensor, *others)):
            raise ValueError(
                "The gpu backend on CPU tensors must have float32 or float16, because the Triton interpreter computes "
                "bfloat16 wrongly, but got bfloat16. Convert the tensors or use the portable backend."
            )
    return _override


def choose_step_backend(tensor: torch.Tensor, *others: torch.Tensor | None) -> Backend:
    """As `choose_backend`, for a step with these tensor arguments: `portable` in place of `gpu` where one of them asks
    for a gradient."""
    backend = choose_backend(tensor, *others)
    asked = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (tensor, *others))
    return "portable" if backend == "gpu" and asked else backend
