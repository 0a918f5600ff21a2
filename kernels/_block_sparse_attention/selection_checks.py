"""What holds between the arguments of the functions that pick blocks, one sentence for each that does not."""

import torch
from torch import Tensor

from kernels.arguments import check_number, check_tensors
from kernels.backend import choose_backend
from kernels.dtypes import check_dtype
from kernels.whole_numbers import check_whole_number

INTEGERS = (torch.int32, torch.int64)


def check_floats(name: str, tensor: Tensor, layout: str, first: Tensor, *, or_float32: bool = False) -> None:
    """Layout such as "[B, T, H, D]"; device and type are those of the first argument."""
    check_tensors(**{name: tensor})
    if tensor.dim() != layout.count(",") + 1 or not tensor.is_floating_point() or tensor.device != first.device:
        raise ValueError(
            f"{name} must be {layout} of a floating type on {first.device}, but got {list(tensor.shape)} of "
            f"{tensor.dtype} on {tensor.device}."
        )
    check_dtype(name, tensor)
    if tensor.dtype != first.dtype and not (or_float32 and tensor.dtype == torch.float32):
        kinds = f"the type of q, {first.dtype}{', or float32' if or_float32 else ''}"
        raise ValueError(f"{name} must have {kinds}, but got {tensor.dtype}: convert one of them.")


def check_heads(q: Tensor, k: Tensor, name: str, *, or_float32: bool = False) -> None:
    """q [B, Tq, Hq, D] beside k [B, N, Hkv, D], which is called `name`."""
    check_floats("q", q, "[B, Tq, Hq, D]", q)
    check_floats(name, k, "[B, N, Hkv, D]", q, or_float32=or_float32)
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
    check_tensors(position=position)
    if position.dtype not in INTEGERS or list(position.shape) != [q.shape[1]] or position.device != q.device:
        raise ValueError(
            f"position must be int32 or int64 [Tq] = [{q.shape[1]}] on {q.device}, but got {position.dtype} "
            f"{list(position.shape)} on {position.device}."
        )


def positions(position: Tensor | None, q: Tensor, keys: int) -> Tensor:
    """[Tq] where the queries stand; the last of the keys where nothing is said."""
    if position is None:
        return torch.arange(keys - q.shape[1], keys, device=q.device)
    return within("position", position, keys)


def check_own(own: Tensor, scores: Tensor) -> None:
    """own [T] or [B, T] beside scores [B, T, Hkv, N]."""
    check_tensors(own=own)
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


def check_factor(scale: float | None) -> None:
    if scale is not None:
        check_number("scale", scale)


def within(name: str, number: Tensor, count: int) -> Tensor:
    """The numbers, each from 0 to count - 1; a GPU would have to wait for that and gets them unchecked."""
    if not number.is_cpu or choose_backend(number) == "gpu":
        return number
    return _within(name, number, count)


@torch.library.custom_op("hybrid_nas::within", mutates_args=())
def _within(name: str, number: Tensor, count: int) -> Tensor:
    """A copy, once it was read on the host, which torch.compile does not follow."""
    if number.numel() > 0:
        low, high = (int(one) for one in number.aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"{name} must lie from 0 to {count - 1}, but got {low} to {high}.")
    return number.clone()


@_within.register_fake
def _(name, number, count):
    return number.clone()
