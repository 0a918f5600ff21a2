"""How tensors are handed to the kernels of attention: strides in whole heads, masks as bytes, on their device."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def read_by_heads(x: Tensor) -> Tensor:
    """[B, T, H, D] with strides that are whole heads, which the kernels count in; copied only where they are not."""
    batch, tokens, heads, size = x.shape
    whole = x.stride(3) == 1 and (heads == 1 or x.stride(2) == size)
    whole = whole and (tokens == 1 or x.stride(1) % size == 0) and (batch == 1 or x.stride(0) % size == 0)
    return x if whole else x.clone(memory_format=torch.contiguous_format)


def strides(x: Tensor) -> tuple[int, int]:
    """Heads from one sequence to the next, and from one token to the next."""
    return x.stride(0) // x.shape[3], x.stride(1) // x.shape[3]


def as_bytes(mask: Tensor | None, stand_in: Tensor) -> Tensor:
    """A bool mask as bytes; where there is none, any tensor, as a pointer that the kernel leaves alone."""
    return stand_in if mask is None else mask.contiguous().view(torch.uint8)


def or_any(x: Tensor | None, stand_in: Tensor) -> Tensor:
    """A contiguous tensor; where there is none, any, as a pointer that the kernel leaves alone."""
    return stand_in if x is None else x.contiguous()


def on_device(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
