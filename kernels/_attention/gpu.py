"""Attention on a GPU: launches, and the operators that autograd and torch.compile see.

The kernels are in `gpu_forward.py`, `gpu_backward.py` and `gpu_step.py`. Launch configurations are looked up, with
the defaults of `launches.py`; nothing is tuned in passing.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

from kernels._attention import portable
from kernels._attention.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._attention.cases import launch_case as launch_case
from kernels._attention.gpu_backward import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels._attention.gpu_step import attention_combine_kernel, attention_step_kernel
from kernels._attention.launches import (
    LARGEST_SPLITS,
    combine_key,
    default_launch,
    sequence_constants,
    sequence_key,
    step_constants,
    step_key,
)
from kernels._attention.launches import launch_candidates as launch_candidates
from kernels._attention.options import Options, StepOptions
from kernels.tuning import choose, run

LOG2_E = 1.0 / math.log(2.0)
SMALLEST_SPLIT = 256
PROGRAMS_FOR_STEP = 264  # two for each of the 132 multiprocessors of an H100 or H200


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    log_forget: Tensor | None,
    block_mask: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.attention`. What the kernels do not know yet is computed in PyTorch."""
    _refuse_bfloat16_in_the_interpreter(q)
    plain = sink is None and log_forget is None and options.softcap is None and not options.return_lse
    if not plain or options.prefix > 0 or options.num_global > 0 or q.shape[3] != v.shape[3]:
        return portable.attention(q, k, v, sink, log_forget, block_mask, options)
    window, block_size = options.window or 0, options.block_size or 0
    return attention_forward(q, k, v, block_mask, options.scale, options.causal, window, block_size)[0], None


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    length: int | Tensor,
    keep: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    options: StepOptions,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.attention_step`. Not differentiable. What the kernels do not know yet is computed in PyTorch."""
    _refuse_bfloat16_in_the_interpreter(q)
    plain = sink is None and bias is None and options.softcap is None and not options.return_lse
    if not plain or v_cache is None or isinstance(length, Tensor) or v_cache.shape != k_cache.shape:
        return portable.attention_step(q, k_cache, v_cache, length, keep, sink, bias, options)
    return attention_decode(q, k_cache, v_cache, keep, length, options.scale), None


@torch.library.custom_op("hybrid_nas::attention_forward", mutates_args=())
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, D], log-sum-exp of the scores in base 2 [B, Hq, Tq] in float32); window 0 is none."""
    batch, queries, heads, size = q.shape
    q, k, v = (_read_by_heads(x) for x in (q, k, v))
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    key = sequence_key("attention.forward", q, causal, window, block_size)
    config = choose(key, attention_fwd_kernel, default_launch, q.device)
    grid = (triton.cdiv(queries, config["BM"]) * batch * heads,)
    integers = _integers(q, k, v, window, block_mask, block_size)
    constants = sequence_constants(config, size, causal, window, block_size)
    with _on_device(q):
        run(
            key, attention_fwd_kernel, grid, q, k, v, _bytes(block_mask, q), o, lse, *integers, scale * LOG2_E,
            **constants,
        )  # fmt: skip
    return o, lse


@attention_forward.register_fake
def _(q, k, v, block_mask, scale, causal, window, block_size):
    batch, queries, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(batch, heads, queries, dtype=torch.float32)


@torch.library.custom_op("hybrid_nas::attention_backward", mutates_args=())
def attention_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    block_mask: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, contiguous and in their type."""
    batch, queries, heads, size = q.shape
    keys, kv_heads = k.shape[1:3]
    q, k, v = (_read_by_heads(x) for x in (q, k, v))
    do = do.contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    delta = torch.empty_like(lse)
    mask = _bytes(block_mask, q)
    integers = _integers(q, k, v, window, block_mask, block_size)
    with _on_device(q):
        key = sequence_key("attention.backward_dq", q, causal, window, block_size)
        config = choose(key, attention_bwd_dq_kernel, default_launch, q.device)
        run(
            key, attention_bwd_dq_kernel, (triton.cdiv(queries, config["BM"]) * batch * heads,),
            q, k, v, mask, o, lse, do, dq, delta, *integers, scale, scale * LOG2_E,
            **sequence_constants(config, size, causal, window, block_size),
        )  # fmt: skip
        key = sequence_key("attention.backward_dkv", q, causal, window, block_size)
        config = choose(key, attention_bwd_dkv_kernel, default_launch, q.device)
        run(
            key, attention_bwd_dkv_kernel, (triton.cdiv(keys, config["BN"]) * batch * kv_heads,),
            q, k, v, mask, lse, do, delta, dk, dv, *integers, scale, scale * LOG2_E,
            **sequence_constants(config, size, causal, window, block_size),
        )  # fmt: skip
    return dq, dk, dv


@attention_backward.register_fake
def _(do, q, k, v, o, lse, block_mask, scale, causal, window, block_size):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save_for_backward(ctx, inputs, output):
    q, k, v, block_mask, *options = inputs
    o, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, o, lse, block_mask)
    ctx.options = options


def _backward(ctx, do, _):
    q, k, v, o, lse, block_mask = ctx.saved_tensors
    gradients = attention_backward(do, q, k, v, o, lse, block_mask, *ctx.options)
    return *gradients, None, *(None for _ in ctx.options)


attention_forward.register_autograd(_backward, setup_context=_save_for_backward)


@torch.library.custom_op("hybrid_nas::attention_decode", mutates_args=())
def attention_decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, keep: Tensor | None, length: int, scale: float
) -> Tensor:
    """o [B, Hq, D] for one token over the first `length` slots."""
    batch, heads, size = q.shape
    slots, kv_heads = k_cache.shape[1:3]
    group = heads // kv_heads
    q = q.contiguous()
    k, v = _read_by_heads(k_cache), _read_by_heads(v_cache)
    key = step_key(q, group, keep is not None)
    config = choose(key, attention_step_kernel, default_launch, q.device)
    programs = batch * kv_heads * triton.cdiv(group, config["BM"])
    splits = min(triton.cdiv(length, SMALLEST_SPLIT), triton.cdiv(PROGRAMS_FOR_STEP, programs), LARGEST_SPLITS)
    split = triton.cdiv(triton.cdiv(length, splits), config["BN"]) * config["BN"]
    splits = triton.cdiv(length, split)

    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    # A single split writes the result itself.
    shape = (batch, splits, heads)
    partial = o if splits == 1 else torch.empty(*shape, size, dtype=torch.float32, device=q.device)
    lse = torch.empty(shape, dtype=torch.float32, device=q.device)
    with _on_device(q):
        run(
            key, attention_step_kernel, (programs, splits), q, k, v, _bytes(keep, q), partial, lse,
            *_strides(k), *_strides(v), length, slots, split, heads, kv_heads, scale * LOG2_E,
            **step_constants(config, size, keep is not None),
        )  # fmt: skip
        if splits > 1:
            combine = combine_key(q)
            run(
                combine, attention_combine_kernel, (batch * heads,), partial, lse, o, splits, heads,
                D=size, BS=triton.next_power_of_2(splits), BD=triton.next_power_of_2(size),
                **choose(combine, attention_combine_kernel, default_launch, q.device),
            )  # fmt: skip
    return o


@attention_decode.register_fake
def _(q, k_cache, v_cache, keep, length, scale):
    return q.new_empty(q.shape)


def _refuse_bfloat16_in_the_interpreter(q: Tensor) -> None:
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        raise ValueError(
            "The gpu backend on CPU tensors must have float32 or float16, because the Triton interpreter multiplies "
            "bfloat16 wrongly, but got bfloat16. Convert the tensors or use the portable backend."
        )


def _read_by_heads(x: Tensor) -> Tensor:
    """[B, T, H, D] with strides that are whole heads, which the kernels count in; copied only where they are not."""
    batch, tokens, heads, size = x.shape
    whole = x.stride(3) == 1 and (heads == 1 or x.stride(2) == size)
    whole = whole and (tokens == 1 or x.stride(1) % size == 0) and (batch == 1 or x.stride(0) % size == 0)
    return x if whole else x.clone(memory_format=torch.contiguous_format)


def _strides(x: Tensor) -> tuple[int, int]:
    """Heads from one sequence to the next, and from one token to the next."""
    return x.stride(0) // x.shape[3], x.stride(1) // x.shape[3]


def _bytes(mask: Tensor | None, stand_in: Tensor) -> Tensor:
    """A bool mask as bytes; where there is none, any tensor, as a pointer that the kernel leaves alone."""
    return stand_in if mask is None else mask.contiguous().view(torch.uint8)


def _integers(
    q: Tensor, k: Tensor, v: Tensor, window: int, block_mask: Tensor | None, block_size: int
) -> tuple[int, ...]:
    """The arguments of `RUNTIME_INTEGERS`, in order."""
    blocks = 1 if block_mask is None else block_mask.shape[3]
    lengths = (q.shape[1], k.shape[1], q.shape[2], k.shape[2])
    return *_strides(q), *_strides(k), *_strides(v), *lengths, window, blocks, max(block_size, 1)


def _on_device(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
