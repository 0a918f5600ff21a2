"""Softmax attention over a sequence, and one token of it over a cache: what may be asked, and who answers.

Decided here once for all implementations: which shapes belong together, where the queries lie among the keys, and which
implementation runs. The queries are the last Tq of the Tk positions, so a long prompt can be read in chunks.

Source: Vaswani et al. (arXiv 1706.03762), section 3.2; grouped queries: Ainslie et al. (arXiv 2305.13245); windows:
Beltagy et al. (arXiv 2004.05150), section 3.1; blocks selected per token: Lu et al., MoBA (arXiv 2502.13189).
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._attention import portable, reference
from kernels.backend import ask_substitute, choose_backend

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    block_mask: Tensor | None = None,
    block_size: int | None = None,
) -> Tensor:
    """Attention of each query over the keys that it may see: o_i = sum_j softmax_j(scale q_i . k_j) v_j.

    Args:
        q: queries [B, Tq, Hq, D]; query i is at position Tk - Tq + i when causal.
        k, v: keys and values [B, Tk, Hkv, D]; query head h reads key head h // (Hq / Hkv).
        scale: factor of the scores; D^-0.5 unless given.
        causal: a query sees no position after its own.
        window: how many keys a query sees, itself included; all unless given. Needs `causal`.
        block_mask: bool [B, Tq, Hkv, ceil(Tk / block_size)], the blocks of keys that each query may see, one choice
            for the heads of a group; combined with `causal` and `window`.
        block_size: keys in a block of `block_mask`.

    Returns o [B, Tq, Hq, D] in the type of q; the softmax is taken in float32. A query that sees no key gets zeros.
    q, k and v receive gradients, computed by the implementation that computed o.

    Raises ValueError when shapes, types, devices or options do not belong together.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, tensor, "[B, T, H, D]", q)
    _check_heads(q, k, v, "k", "v")
    _check_visibility(q, k, causal, window)
    _check_block_mask(q, k, block_mask, block_size)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    substituted = ask_substitute(
        "attention",
        q,
        k,
        v,
        scale=scale,
        causal=causal,
        window=window,
        block_mask=block_mask,
        block_size=block_size,
    )
    if substituted is not NotImplemented:
        return substituted
    return _implementation(q).attention(q, k, v, scale, causal, window, block_mask, block_size)


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    length: int,
    *,
    scale: float | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Attention of one new token over a cache that already holds it, for decoding; not differentiable on every backend.

    Args:
        q: queries [B, Hq, D].
        k_cache, v_cache: [B, S, Hkv, D]; slots may be in any order, so a window is a ring buffer.
        length: how many slots, from the first, are filled; 1 to S.
        scale: factor of the scores; D^-0.5 unless given.
        keep: bool [B, Hkv, S], the slots that may be seen; all filled ones unless given.

    Returns o [B, Hq, D] in the type of q. A head that sees no slot gets zeros.
    Raises ValueError when shapes, types, devices or options do not belong together.
    """
    _check_tensor("q", q, "[B, Hq, D]", q)
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        _check_tensor(name, tensor, "[B, S, Hkv, D]", q)
    _check_heads(q, k_cache, v_cache, "k_cache", "v_cache")
    slots = k_cache.shape[1]
    if not 1 <= length <= slots:
        raise ValueError(f"length must lie between 1 and the {slots} slots of the cache, but got {length}.")
    if keep is not None:
        _check_mask("keep", keep, [q.shape[0], k_cache.shape[2], slots], "[B, Hkv, S]", q)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    substituted = ask_substitute("attention_step", q, k_cache, v_cache, length, scale=scale, keep=keep)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(q).attention_step(q, k_cache, v_cache, length, scale, keep)


def _implementation(q: Tensor) -> ModuleType:
    backend = choose_backend(q)
    if backend == "gpu":
        # Imported late: a machine without Triton runs the other two.
        from kernels._attention import gpu

        return gpu
    return {"reference": reference, "portable": portable}[backend]


def _check_tensor(name: str, tensor: Tensor, layout: str, first: Tensor) -> None:
    """Layout such as "[B, T, H, D]"; type and device are those of the first argument."""
    if tensor.dim() != layout.count(",") + 1 or 0 in tensor.shape:
        raise ValueError(f"{name} must be {layout} and not empty, but got shape {list(tensor.shape)}.")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} must be float32, float16 or bfloat16, but got {tensor.dtype}.")
    if (tensor.dtype, tensor.device) != (first.dtype, first.device):
        raise ValueError(
            f"{name} must have the type and device of q, {first.dtype} on {first.device}, but got {tensor.dtype} on "
            f"{tensor.device}."
        )


def _check_heads(q: Tensor, k: Tensor, v: Tensor, k_name: str, v_name: str) -> None:
    """q [B, ..., Hq, D] beside k and v [B, T, Hkv, D]."""
    if v.shape != k.shape:
        raise ValueError(f"{v_name} must have the shape of {k_name}, {list(k.shape)}, but got {list(v.shape)}.")
    if k.shape[0] != q.shape[0]:
        raise ValueError(f"{k_name} must have the {q.shape[0]} sequences of q, but got shape {list(k.shape)}.")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"{k_name} must have the head size {q.shape[-1]} of q, but got shape {list(k.shape)}.")
    if q.shape[-2] % k.shape[-2] != 0:
        raise ValueError(
            f"q must have a multiple of the {k.shape[-2]} heads of {k_name}, but got {q.shape[-2]} heads in shape "
            f"{list(q.shape)}."
        )
    size = q.shape[-1]
    if not 16 <= size <= 256 or size % 4 != 0:
        raise ValueError(
            f"The head size must be a multiple of 4 from 16 to 256, but got {size} in q of shape {list(q.shape)}."
        )


def _check_visibility(q: Tensor, k: Tensor, causal: bool, window: int | None) -> None:
    if causal and q.shape[1] > k.shape[1]:
        raise ValueError(
            f"q must have at most the {k.shape[1]} tokens of k when causal, but got {q.shape[1]} in shape "
            f"{list(q.shape)}."
        )
    if window is not None and window <= 0:
        raise ValueError(f"window must be at least 1, the query itself, but got {window}.")
    if window is not None and not causal:
        raise ValueError(f"window needs causal=True, because it looks back from the query, but got window={window}.")


def _check_block_mask(q: Tensor, k: Tensor, block_mask: Tensor | None, block_size: int | None) -> None:
    if (block_mask is None) != (block_size is None):
        given, missing = ("block_size", "block_mask") if block_mask is None else ("block_mask", "block_size")
        raise ValueError(f"block_mask and block_size belong together, but got {given} without {missing}.")
    if block_mask is None or block_size is None:
        return
    if block_size <= 0:
        raise ValueError(f"block_size must be at least 1, but got {block_size}.")
    blocks = -(-k.shape[1] // block_size)
    _check_mask("block_mask", block_mask, [q.shape[0], q.shape[1], k.shape[2], blocks], "[B, Tq, Hkv, blocks]", q)


def _check_mask(name: str, mask: Tensor, shape: list[int], layout: str, q: Tensor) -> None:
    if list(mask.shape) != shape or mask.dtype != torch.bool or mask.device != q.device:
        raise ValueError(
            f"{name} must be bool {layout} = {shape} on {q.device}, but got {mask.dtype} {list(mask.shape)} on "
            f"{mask.device}."
        )
