"""What holds between the arguments of the functions that pick blocks, one sentence for each that does not."""

import torch
from torch import Tensor

from kernels.dtypes import check_dtype
from kernels.whole_numbers import check_whole_number

INTEGERS = (torch.int32, torch.int64)


def check_floats(name: str, tensor: Tensor, layout: str, first: Tensor) -> None:
    """Layout such as "[B, T, H, D]"; the device is that of the first argument."""
    if tensor.dim() != layout.count(",") + 1 or not tensor.is_floating_point() or tensor.device != first.device:
        raise ValueError(
            f"{name} must be {layout} of a floating type on {first.device}, but got {list(tensor.shape)} of "
            f"{tensor.dtype} on {tensor.device}."
        )
    check_dtype(name, tensor)


def check_heads(q: Tensor, k: Tensor, name: str) -> None:
    """q [B, Tq, Hq, D] beside k [B, N, Hkv, D], which is called `name`."""
    check_floats("q", q, "[B, Tq, Hq, D]", q)
    check_floats(name, k, "[B, N, Hkv, D]", q)
    if k.dtype != q.dtype:
        raise ValueError(f"{name} must have the type of q, {q.dtype}, but got {k.dtype}: convert one of them.")
    if (k.shape[0], k.shape[3]) != (q.shape[0], q.shape[3]):
        raise ValueError(
            f"{name} must have the sequences and the head size of q {list(q.shape)}, but got shape {list(k.shape)}."
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2] != 0:
        raise ValueError(
            f"q must have a multiple of the {k.shape[2]} heads of {name}, but got {q.shape[2]} heads in shape "
            f"{list(q.shape)}."
        )


def check_position(position: Tensor | None, q: Tensor, keys: int) -> None:
    """Without a position the queries are the last ones of the keys."""
    if position is None:
        if q.shape[1] > keys:
            raise ValueError(
                f"q must have at most the {keys} tokens of the keys unless position is given, but got {q.shape[1]} in "
                f"shape {list(q.shape)}."
            )
        return
    if position.dtype not in INTEGERS or list(position.shape) != [q.shape[1]] or position.device != q.device:
        raise ValueError(
            f"position must be int32 or int64 [Tq] = [{q.shape[1]}] on {q.device}, but got {position.dtype} "
            f"{list(position.shape)} on {position.device}."
        )


def check_own(own: Tensor, scores: Tensor) -> None:
    """own [T] or [B, T] beside scores [B, T, Hkv, N]."""
    batch, tokens = scores.shape[:2]
    if own.dtype not in INTEGERS or own.device != scores.device or list(own.shape) not in ([tokens], [batch, tokens]):
        raise ValueError(
            f"own must be int32 or int64 [T] or [B, T] = [{batch}, {tokens}] on {scores.device}, but got {own.dtype} "
            f"{list(own.shape)} on {own.device}."
        )


def check_sizes(least: int = 1, **sizes: int) -> None:
    for name, size in sizes.items():
        check_whole_number(name, size)
        if size < least:
            raise ValueError(f"{name} must be at least {least}, but got {size}.")
