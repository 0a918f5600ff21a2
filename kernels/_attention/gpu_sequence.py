"""The operators of attention over a sequence, forward and backward: buffers, launches, autograd."""

import math

import torch
import triton
from torch import Tensor

from kernels._attention.gpu_backward import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels._attention.gpu_memory import on_device, or_any, read_by_heads, strides
from kernels._attention.launches import Form, constants, default_launch, launch_key
from kernels.tuning import choose, run

LOG2_E = 1.0 / math.log(2.0)


@torch.library.custom_op("hybrid_nas::attention_forward", mutates_args=())
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    forgotten: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    num_global: int,
    prefix: int,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """(o [B, Tq, Hq, Dv], log-sum-exp of the scores in base 2 [B, Hq, Tq] in float32).

    forgotten [B, Hq, Tk] are running sums of the logarithms of forget gates. A window or cap of 0 is none.
    """
    batch, queries, heads, _ = q.shape
    q, k, v = (read_by_heads(x) for x in (q, k, v))
    o = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    form = _form(q, v, causal, window, num_global, prefix, softcap, forgotten, sink=sink is not None)
    key = launch_key("attention.forward", form)
    config = choose(key, attention_fwd_kernel, default_launch, q.device)
    grid = (triton.cdiv(queries, config["BM"]) * batch * heads,)
    with on_device(q):
        run(
            key, attention_fwd_kernel, grid, q, k, v, or_any(sink, q), or_any(forgotten, lse), o, lse,
            *_integers(q, k, v, window, num_global, prefix), *_scales(scale, softcap)[1:],
            **constants("attention.forward", config, form),
        )  # fmt: skip
    return o, lse


@attention_forward.register_fake
def _(q, k, v, sink, forgotten, *options):
    batch, queries, heads, _ = q.shape
    return q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(batch, heads, queries, dtype=torch.float32)


@torch.library.custom_op("hybrid_nas::attention_backward", mutates_args=())
def attention_backward(
    do: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    forgotten: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    num_global: int,
    prefix: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, contiguous and in their type; of the keys' part in `forgotten` [B, Hq, Tk], or nothing;
    and sum(o do) - dlse [B, Hq, Tq]. dlse is the gradient of the natural log-sum-exp."""
    batch, queries, heads, _ = q.shape
    keys, kv_heads = k.shape[1:3]
    q, k, v = (read_by_heads(x) for x in (q, k, v))
    do = do.contiguous()
    # Gates have a gradient by query head, so each has a program of its own, and the group is summed afterwards.
    readers = 1 if forgotten is not None else heads // kv_heads
    shared = readers < heads // kv_heads
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (
        torch.empty(
            batch, keys, heads // readers, x.shape[3], dtype=torch.float32 if shared else x.dtype, device=x.device
        )
        for x in (k, v)
    )
    delta = torch.empty_like(lse)
    gates = lse.new_empty(0 if forgotten is None else forgotten.shape)
    sums = or_any(forgotten, lse)
    integers = _integers(q, k, v, window, num_global, prefix)
    form = _form(q, v, causal, window, num_global, prefix, softcap, forgotten, dlse=dlse is not None)
    scales = _scales(scale, softcap)
    with on_device(q):
        key = launch_key("attention.backward_dq", form)
        config = choose(key, attention_bwd_dq_kernel, default_launch, q.device)
        run(
            key, attention_bwd_dq_kernel, (triton.cdiv(queries, config["BM"]) * batch * heads,),
            q, k, v, sums, o, lse, do, or_any(dlse, lse), dq, delta, *integers, *scales,
            **constants("attention.backward_dq", config, form),
        )  # fmt: skip
        key = launch_key("attention.backward_dkv", form)
        config = choose(key, attention_bwd_dkv_kernel, default_launch, q.device)
        run(
            key, attention_bwd_dkv_kernel, (triton.cdiv(keys, config["BN"]) * batch * (heads // readers),),
            q, k, v, sums, lse, do, delta, dk, dv, or_any(gates, lse), *integers, readers, *scales,
            **constants("attention.backward_dkv", config, form),
        )  # fmt: skip
    if shared:
        dk, dv = (x.unflatten(2, (kv_heads, -1)).sum(3).to(q.dtype) for x in (dk, dv))
    return dq, dk, dv, gates, delta


@attention_backward.register_fake
def _(do, dlse, q, k, v, o, lse, forgotten, *options):
    gates = lse.new_empty(0 if forgotten is None else forgotten.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), gates, lse.new_empty(lse.shape)


def _save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5], *output)
    ctx.options = inputs[5:]
    ctx.set_materialize_grads(False)


def _gradients(ctx, do, dlse):
    q, k, v, sink, forgotten, o, lse = ctx.saved_tensors
    do = torch.zeros_like(o) if do is None else do
    dlse = None if dlse is None else dlse * LOG2_E  # of the natural one
    dq, dk, dv, dforgotten, delta = attention_backward(do, dlse, q, k, v, o, lse, forgotten, *ctx.options)
    dsink, absorbed = None, None
    if sink is not None:
        absorbed = torch.exp2(sink.float()[:, None] * LOG2_E - lse) * delta  # of the sinks' weight
        dsink = -absorbed.sum((0, 2)).to(sink.dtype)
    if forgotten is None:
        return dq, dk, dv, dsink, None, *(None,) * len(ctx.options)
    # Sums of ds over the keys of a query: the weights of the keys sum up to 1, but for the sink's.
    for part in (absorbed, dlse):
        if part is not None:
            earlier = forgotten.shape[2] - part.shape[2]
            dforgotten = dforgotten + torch.nn.functional.pad(part, (earlier, 0))
    return dq, dk, dv, dsink, dforgotten, *(None,) * len(ctx.options)


attention_forward.register_autograd(_gradients, setup_context=_save_for_backward)


def _form(
    q: Tensor,
    v: Tensor,
    causal: bool,
    window: int,
    num_global: int,
    prefix: int,
    softcap: float,
    forgotten: Tensor | None,
    *,
    sink: bool = False,
    dlse: bool = False,
) -> Form:
    return Form(
        q.shape[3],
        v.shape[3],
        q.dtype.itemsize,
        causal=causal,
        windowed=window > 0,
        has_global=num_global > 0 or prefix > 0,
        softcap=softcap > 0,
        forget=forgotten is not None,
        sink=sink,
        dlse=dlse,
    )


def _scales(scale: float, softcap: float) -> tuple[float, float, float]:
    """The arguments scale, scale_log2 and tanh_scale: scores in base 2 are s scale_log2, or with a cap
    scale_log2 tanh(s tanh_scale)."""
    return (scale, softcap * LOG2_E, scale / softcap) if softcap > 0 else (scale, scale * LOG2_E, 0.0)


def _integers(q: Tensor, k: Tensor, v: Tensor, window: int, num_global: int, prefix: int) -> tuple[int, ...]:
    """The arguments of `RUNTIME_INTEGERS`, in order."""
    lengths = (q.shape[1], k.shape[1], q.shape[2], k.shape[2])
    return *strides(q), *strides(k), *strides(v), *lengths, window, num_global, prefix
