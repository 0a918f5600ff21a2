"""What holds between the arguments of attention, one sentence for each that does not. Nothing is cast or moved."""

import torch
from torch import Tensor

from kernels.arguments import check_number
from kernels.dtypes import DTYPES
from kernels.whole_numbers import check_whole_number

SMALLEST_HEAD, HEAD_MULTIPLE = 16, 4
# Latent attention in its absorbed form has keys of 512 + 64 numbers, the first 512 of them as values.
LARGEST_HEAD, LARGEST_VALUE = 576, 512


def check_tensor(name: str, tensor: Tensor, layout: str, first: Tensor) -> None:
    """Layout such as "[B, T, H, D]"; type and device are those of the first argument."""
    if tensor.dim() != layout.count(",") + 1 or 0 in tensor.shape:
        raise ValueError(f"{name} must be {layout} and not empty, but got shape {list(tensor.shape)}.")
    if tensor.dtype not in DTYPES:
        raise ValueError(
            f"{name} must be float32, float16 or bfloat16, but got {tensor.dtype} of shape {list(tensor.shape)}."
        )
    if (tensor.dtype, tensor.device) != (first.dtype, first.device):
        raise ValueError(
            f"{name} must have the type and device of q, {first.dtype} on {first.device}, but got {tensor.dtype} on "
            f"{tensor.device} of shape {list(tensor.shape)}."
        )


def check_heads(q: Tensor, k: Tensor, v: Tensor, k_name: str = "k", v_name: str = "v") -> None:
    """q [B, ..., Hq, D] beside k [B, T, Hkv, D] and v [B, T, Hkv, Dv]."""
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"{v_name} must have the sequences, tokens and heads of {k_name}, {list(k.shape[:3])}, but got shape "
            f"{list(v.shape)}."
        )
    if k.shape[0] != q.shape[0]:
        raise ValueError(f"{k_name} must have the {q.shape[0]} sequences of q, but got shape {list(k.shape)}.")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"{k_name} must have the head size {q.shape[-1]} of q, but got shape {list(k.shape)}.")
    if q.shape[-2] % k.shape[-2] != 0:
        raise ValueError(
            f"q must have a multiple of the {k.shape[-2]} heads of {k_name}, but got {q.shape[-2]} heads in shape "
            f"{list(q.shape)}."
        )


def check_head_size(name: str, tensor: Tensor, largest: int) -> None:
    size = tensor.shape[-1]
    if not SMALLEST_HEAD <= size <= largest or size % HEAD_MULTIPLE != 0:
        raise ValueError(
            f"The head size of {name} must be a multiple of {HEAD_MULTIPLE} from {SMALLEST_HEAD} to {largest}, but got "
            f"{size} in shape {list(tensor.shape)}."
        )


def check_visibility(q: Tensor, k: Tensor, causal: bool, window: int | None, num_global: int, prefix: int) -> None:
    if causal and q.shape[1] > k.shape[1]:
        raise ValueError(
            f"q must have at most the {k.shape[1]} tokens of k when causal, but got {q.shape[1]} in shape "
            f"{list(q.shape)}."
        )
    if window is not None:
        check_whole_number("window", window)
    check_whole_number("num_global", num_global)
    check_whole_number("prefix", prefix)
    if window is not None and window <= 0:
        raise ValueError(f"window must be at least 1, the query itself, but got {window}.")
    if window is not None and not causal:
        raise ValueError(f"window needs causal=True, because it looks back from the query, but got window={window}.")
    if num_global < 0:
        raise ValueError(f"num_global must be at least 0, a number of keys, but got {num_global}.")
    if num_global > 0 and window is None:
        raise ValueError(f"num_global needs a window, which it lifts for the first keys, but got {num_global} without.")
    if prefix < 0:
        raise ValueError(f"prefix must be at least 0, a number of keys, but got {prefix}.")
    if prefix > 0 and not causal:
        raise ValueError(f"prefix needs causal=True, which it lifts for the first keys, but got prefix={prefix}.")


def check_scores(q: Tensor, sink: Tensor | None, softcap: float | None, scale: float | None) -> None:
    """What changes the scores of q [B, ..., Hq, D] or is a score itself."""
    if scale is not None:
        check_number("scale", scale)
    if softcap is not None:
        check_number("softcap", softcap)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be above 0, the largest score, but got {softcap}.")
    if sink is not None:
        check_float("sink", sink, [q.shape[-2]], "[Hq]", q)


def check_forgetting(q: Tensor, k: Tensor, log_forget: Tensor | None, causal: bool, prefix: int) -> None:
    if log_forget is None:
        return
    check_float("log_forget", log_forget, [k.shape[0], k.shape[1], q.shape[2]], "[B, Tk, Hq]", q)
    if not causal or prefix > 0:
        raise ValueError(
            "log_forget needs causal=True and no prefix, because what lies ahead is not forgotten yet, but got "
            f"causal={causal} and prefix={prefix}."
        )


def check_cache(q: Tensor, k_cache: Tensor, v_cache: Tensor | None, value_size: int | None) -> Tensor:
    """Of a step; returns the values."""
    check_tensor("q", q, "[B, Hq, D]", q)
    check_tensor("k_cache", k_cache, "[B, S, Hkv, D]", q)
    if v_cache is not None:
        check_tensor("v_cache", v_cache, "[B, S, Hkv, D]", q)
    values = values_of(k_cache, v_cache, value_size)
    check_heads(q, k_cache, values, "k_cache", "v_cache")
    check_head_size("q", q, LARGEST_HEAD)
    check_head_size("v_cache", values, LARGEST_VALUE)
    return values


def check_slots(q: Tensor, k_cache: Tensor, keep: Tensor | None, bias: Tensor | None, listed: Tensor | None) -> None:
    """What is said about single slots of the cache of a step."""
    batch, slots, kv_heads = k_cache.shape[:3]
    if keep is not None:
        check_mask("keep", keep, [batch, kv_heads, slots], "[B, Hkv, S]", q)
    if bias is not None:
        check_float("bias", bias, [batch, q.shape[1], slots], "[B, Hq, S]", q)
    if listed is not None:
        check_listed(listed, k_cache)


def check_length(length: int | Tensor, cache: Tensor) -> None:
    """A number is checked; what lies on a device is not read, because that would wait for it."""
    slots, batch = cache.shape[1], cache.shape[0]
    if not isinstance(length, Tensor):
        check_whole_number("length", length)
        if not 1 <= length <= slots:
            raise ValueError(f"length must lie between 1 and the {slots} slots of the cache, but got {length}.")
        return
    if length.dtype not in (torch.int32, torch.int64) or length.device != cache.device:
        raise ValueError(
            f"length must be a number, or int32 or int64 on {cache.device}, but got {length.dtype} on {length.device} "
            f"of shape {list(length.shape)}."
        )
    if list(length.shape) not in ([], [batch]):
        raise ValueError(f"length must be a number, [] or [B] = [{batch}], but got shape {list(length.shape)}.")


def check_listed(listed: Tensor, cache: Tensor) -> None:
    """Its numbers are not read, because that would wait for a device."""
    batch, _, heads, _ = cache.shape
    fits = listed.dim() == 3 and listed.shape[0] in (1, batch) and listed.shape[1] in (1, heads) and listed.shape[2] > 0
    if not fits or listed.dtype not in (torch.int32, torch.int64) or listed.device != cache.device:
        raise ValueError(
            f"listed must be int32 or int64 [B or 1, Hkv or 1, n] = [{batch} or 1, {heads} or 1, n] on {cache.device}, "
            f"but got {listed.dtype} {list(listed.shape)} on {listed.device}."
        )


def check_mask(name: str, mask: Tensor, shape: list[int], layout: str, q: Tensor) -> None:
    if list(mask.shape) != shape or mask.dtype != torch.bool or mask.device != q.device:
        raise ValueError(
            f"{name} must be bool {layout} = {shape} on {q.device}, but got {mask.dtype} {list(mask.shape)} on "
            f"{mask.device}."
        )


def check_float(name: str, tensor: Tensor, shape: list[int], layout: str, q: Tensor) -> None:
    """In float32 or in the type of q."""
    if list(tensor.shape) != shape:
        raise ValueError(f"{name} must be {layout} = {shape}, but got shape {list(tensor.shape)}.")
    if tensor.dtype not in (torch.float32, q.dtype) or tensor.device != q.device:
        kinds = " or ".join(dict.fromkeys((str(torch.float32), str(q.dtype))))
        raise ValueError(
            f"{name} must be {kinds} on {q.device}, but got {tensor.dtype} on {tensor.device} of shape "
            f"{list(tensor.shape)}."
        )


def values_of(k_cache: Tensor, v_cache: Tensor | None, value_size: int | None) -> Tensor:
    """The values of a step: v_cache, or the first `value_size` numbers of the keys."""
    if (v_cache is None) == (value_size is None):
        given = "neither" if v_cache is None else "both"
        raise ValueError(
            "The values must be v_cache, or with v_cache=None the first value_size numbers of k_cache, but got "
            f"{given}."
        )
    if v_cache is not None or value_size is None:
        assert v_cache is not None
        return v_cache
    check_whole_number("value_size", value_size)
    if not 0 < value_size <= k_cache.shape[-1]:
        raise ValueError(
            f"value_size must be at most the {k_cache.shape[-1]} numbers of a key, but got {value_size} for k_cache of "
            f"shape {list(k_cache.shape)}."
        )
    return k_cache[..., :value_size]
