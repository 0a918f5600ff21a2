"""Softmax attention over a sequence, and one token of it over a cache: what may be asked, and who answers.

Decided here once for all implementations: which shapes belong together, where the queries lie among the keys, and which
implementation runs. The queries are the last Tq of the Tk positions, so a long prompt can be read in chunks.

Sources: Vaswani et al. (arXiv 1706.03762), section 3.2; grouped queries: Ainslie et al. (arXiv 2305.13245); windows:
Beltagy et al. (arXiv 2004.05150), section 3.1; global keys beside a window: Xiao et al. (arXiv 2309.17453), section 3;
a sink logit per head: gpt-oss (arXiv 2508.10925), section 2; capped scores: Gemma 2 (arXiv 2408.00118), section 2;
forgetting: Lin et al. (arXiv 2503.02130), section 3; latent attention: DeepSeek-V2 (arXiv 2405.04434), section 2.1.
"""

from types import ModuleType
from typing import Any

from torch import Tensor

from kernels._attention import checks, portable, reference
from kernels._attention.options import Options, StepOptions
from kernels.arguments import check_optional_tensors, check_switches, check_tensors
from kernels.backend import ask_substitute, choose_backend


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    num_global: int = 0,
    prefix: int = 0,
    softcap: float | None = None,
    sink: Tensor | None = None,
    log_forget: Tensor | None = None,
    return_lse: bool = False,
) -> Any:  # a tensor, or two with return_lse
    """Attention of each query over the keys that it may see: o_i = sum_j softmax_j(s_ij) v_j, s_ij = scale q_i . k_j.

    Args:
        q: queries [B, Tq, Hq, D]; query i is at position Tk - Tq + i when causal.
        k: keys [B, Tk, Hkv, D]; query head h reads key head h // (Hq / Hkv).
        v: values [B, Tk, Hkv, Dv]. D and Dv are multiples of 4 from 16, D up to 576 and Dv up to 512, as in the
            absorbed form of latent attention.
        scale: factor of the scores; D^-0.5 unless given.
        causal: a query sees no position after its own.
        window: how many keys a query sees, itself included; all unless given. Needs `causal`.
        num_global: how many keys, from the first on, a window never hides from a later query.
        prefix: how many keys, from the first on, every query sees, even those after its own position and outside its
            window: the prefix of a prefix language model. Needs `causal`.
        softcap: a bound c of the scores: c tanh(s / c) takes the place of s.
        sink: [Hq] in float32 or in the type of q, for each head the score of one more key, whose value is zero.
        log_forget: [B, Tk, Hq] in float32 or in the type of q, logarithms (at most 0) of forget gates: s_ij, after a
            cap, gets their sum over the positions after j up to that of query i. Needs `causal`, and no prefix.
        return_lse: also return the natural logarithm of the softmax's denominator.

    Returns o [B, Tq, Hq, Dv] in the type of q; the softmax is taken in float32. With `return_lse` (o, lse [B, Tq, Hq]
    in float32): log(sum_j exp s_ij + exp(sink)). Every tensor receives gradients, from o and lse, computed by the
    implementation that computed o.

    Raises ValueError when shapes, types, devices or options do not belong together.
    """
    check_tensors(q=q, k=k, v=v)
    check_optional_tensors(sink=sink, log_forget=log_forget)
    check_switches(causal=causal, return_lse=return_lse)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        checks.check_tensor(name, tensor, "[B, T, H, D]", q)
    checks.check_heads(q, k, v)
    checks.check_head_size("q", q, checks.LARGEST_HEAD)
    checks.check_head_size("v", v, checks.LARGEST_VALUE)
    checks.check_visibility(q, k, causal, window, num_global, prefix)
    checks.check_scores(q, sink, softcap, scale)
    checks.check_forgetting(q, k, log_forget, causal, prefix)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    substituted = ask_substitute(
        "attention",
        q,
        k,
        v,
        scale=factor,
        causal=causal,
        window=window,
        num_global=num_global,
        prefix=prefix,
        softcap=softcap,
        sink=sink,
        log_forget=log_forget,
        return_lse=return_lse,
    )
    if substituted is not NotImplemented:
        return substituted
    options = Options(factor, causal, window, num_global, prefix, softcap, return_lse)
    o, lse = _implementation(q).attention(q, k, v, sink, log_forget, options)
    return (o, lse) if return_lse else o


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    length: int | Tensor,
    *,
    scale: float | None = None,
    keep: Tensor | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    bias: Tensor | None = None,
    listed: Tensor | None = None,
    value_size: int | None = None,
    return_lse: bool = False,
) -> Any:  # a tensor, or two with return_lse
    """Attention of one new token over a cache that already holds it, for decoding; not differentiable on every backend.

    Args:
        q: queries [B, Hq, D].
        k_cache: keys [B, S, Hkv, D]; slots may be in any order, so a window is a ring buffer.
        v_cache: values [B, S, Hkv, Dv]; None where they are the first `value_size` numbers of the keys, as in latent
            attention in its absorbed form: the cache is then read once. D is at most 576, Dv at most 512.
        length: how many slots, from the first, are filled, 1 to S. As int32 or int64 on the device of q, [] or one for
            each sequence [B], it is read there, so that a CUDA graph of the call serves every length; such a length
            is not checked: one of 0 or less sees no slot, and one beyond S counts as S.
        scale: factor of the scores; D^-0.5 unless given.
        keep: bool [B, Hkv, S], the slots that may be seen; all filled ones unless given.
        softcap, sink: as in `attention`.
        bias: [B, Hq, S] in float32 or in the type of q, added to the scores after a cap; with the forget gates of
            `attention`, the sum of their logarithms after each slot.
        listed: [B or 1, Hkv or 1, n] int32 or int64, the filled slots that are read instead of all, each once; a
            negative number, or a slot that is not filled, is none. The cost follows n.
        value_size: Dv where there is no v_cache.
        return_lse: also return the natural logarithm of the softmax's denominator.

    Returns o [B, Hq, Dv] in the type of q, with `return_lse` (o, lse [B, Hq] in float32). A head that sees no slot gets
    zeros, and -inf unless it has a sink.
    Raises ValueError when shapes, types, devices or options do not belong together.
    """
    check_tensors(q=q, k_cache=k_cache)
    check_optional_tensors(v_cache=v_cache, keep=keep, sink=sink, bias=bias, listed=listed)
    check_switches(return_lse=return_lse)
    values = checks.check_cache(q, k_cache, v_cache, value_size)
    checks.check_length(length, k_cache)
    checks.check_scores(q, sink, softcap, scale)
    checks.check_slots(q, k_cache, keep, bias, listed)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    substituted = ask_substitute(
        "attention_step",
        q,
        k_cache,
        v_cache,
        length,
        scale=factor,
        keep=keep,
        softcap=softcap,
        sink=sink,
        bias=bias,
        listed=listed,
        value_size=value_size,
        return_lse=return_lse,
    )
    if substituted is not NotImplemented:
        return substituted
    options = StepOptions(factor, softcap, values.shape[-1], return_lse)
    o, lse = _implementation(q).attention_step(q, k_cache, v_cache, length, keep, sink, bias, listed, options)
    return (o, lse) if return_lse else o


def _implementation(q: Tensor) -> ModuleType:
    backend = choose_backend(q)
    if backend == "gpu":
        # Imported late: a machine without Triton runs the other two.
        from kernels._attention import gpu

        return gpu
    return {"reference": reference, "portable": portable}[backend]
