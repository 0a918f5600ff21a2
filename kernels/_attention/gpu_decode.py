"""The operator of a decode step of attention: splits, buffers, launches."""

import math

import torch
import triton
from torch import Tensor

from kernels._attention.gpu_memory import as_bytes, on_device, or_any, read_by_heads, strides
from kernels._attention.gpu_step import attention_combine_kernel, attention_step_kernel
from kernels._attention.launches import (
    LARGEST_SPLITS,
    Form,
    combine_constants,
    constants,
    default_launch,
    launch_key,
    rows_of,
)
from kernels.tuning import choose, run

LOG2_E = 1.0 / math.log(2.0)
SMALLEST_SPLIT = 256
PROGRAMS_FOR_STEP = 264  # two for each of the 132 multiprocessors of an H100 or H200


@torch.library.custom_op("hybrid_nas::attention_decode", mutates_args=())
def attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    keep: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    lengths: Tensor | None,
    listed: Tensor | None,
    length: int,
    scale: float,
    softcap: float,
    value_size: int,
) -> tuple[Tensor, Tensor]:
    """(o [B, Hq, Dv], log-sum-exp in base 2 [B, Hq]) for one token over the first `length` slots, or `lengths` of them,
    [] or [B]: `length` is then the most that there can be. Of `listed` [B or 1, Hkv or 1, n] those of them that lie
    there. Without v_cache the values begin the keys."""
    batch, heads, size = q.shape
    slots, kv_heads = k_cache.shape[1:3]
    group = heads // kv_heads
    q = q.contiguous()
    k = read_by_heads(k_cache)
    v = k if v_cache is None else read_by_heads(v_cache)
    form = Form(
        size, value_size, q.dtype.itemsize, softcap=softcap > 0, sink=sink is not None, rows=rows_of(group),
        keep=keep is not None, bias=bias is not None, shared=v_cache is None, on_device=lengths is not None,
        listed=listed is not None,
    )  # fmt: skip
    key = launch_key("attention.step", form)
    config = choose(key, attention_step_kernel, default_launch, q.device)
    programs = batch * kv_heads * triton.cdiv(group, config["BM"])
    read = length if listed is None else listed.shape[2]
    splits = min(triton.cdiv(read, SMALLEST_SPLIT), triton.cdiv(PROGRAMS_FOR_STEP, programs), LARGEST_SPLITS)
    listed = None if listed is None else listed.to(torch.int32).contiguous()

    o = torch.empty(batch, heads, value_size, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, dtype=torch.float32, device=q.device)
    # A single split writes the results itself.
    shape = (batch, splits, heads)
    partial = o if splits == 1 else torch.empty(*shape, value_size, dtype=torch.float32, device=q.device)
    partial_lse = lse if splits == 1 else torch.empty(shape, dtype=torch.float32, device=q.device)
    scores = (softcap * LOG2_E, scale / softcap) if softcap > 0 else (scale * LOG2_E, 0.0)
    with on_device(q):
        run(
            key, attention_step_kernel, (programs, splits), q, k, v, as_bytes(keep, q), or_any(sink, q),
            or_any(bias, q), q if lengths is None else lengths, or_any(listed, q), partial, partial_lse, *strides(k),
            *strides(v), length, 0 if lengths is None or lengths.dim() == 0 else lengths.stride(0), slots, heads,
            kv_heads, read, *strides_of_lists(listed), *scores, **constants("attention.step", config, form),
        )  # fmt: skip
        if splits > 1:
            combine = launch_key("attention.combine", form)
            config = choose(combine, attention_combine_kernel, default_launch, q.device)
            run(
                combine, attention_combine_kernel, (batch * heads,), partial, partial_lse, o, lse, splits, heads,
                **combine_constants(config, value_size, triton.next_power_of_2(splits)),
            )  # fmt: skip
    return o, lse


@attention_decode.register_fake
def _(q, k_cache, v_cache, keep, sink, bias, lengths, listed, length, scale, softcap, value_size):
    return q.new_empty(*q.shape[:2], value_size), q.new_empty(q.shape[:2], dtype=torch.float32)


def strides_of_lists(listed: Tensor | None) -> tuple[int, int]:
    """From one sequence to the next, and from one key head to the next; 0 where they share a list."""
    if listed is None:
        return 0, 0
    batch, head = (0 if listed.shape[axis] == 1 else listed.stride(axis) for axis in (0, 1))
    return batch, head
