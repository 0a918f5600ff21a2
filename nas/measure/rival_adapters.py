"""Adapters: other implementations behind the arguments of the public functions of `kernels`.

Each takes what `kernels.use_substitutes` hands over (tensors by position, every option by its name, the scale filled
in) and answers NotImplemented where its implementation cannot do what is asked.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Substitute = Callable[..., Any]  # takes what the public function takes, and these have unlike signatures


# Scaled dot-product attention of PyTorch, as it chooses itself and by each of its back-ends.


class AttentionOptions(TypedDict):
    """The options of `kernels.attention`, as a substitute gets them."""

    scale: float
    causal: bool
    window: int | None
    num_global: int
    prefix: int
    softcap: float | None
    sink: Tensor | None
    log_forget: Tensor | None
    return_lse: bool


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, *, backend: SDPBackend | None = None, **options: Unpack[AttentionOptions]
) -> Tensor:
    """`kernels.attention` by `scaled_dot_product_attention`, which knows neither caps, sinks nor a log-sum-exp.

    Forget gates it declines: T x T for each head.
    """
    if any(options[name] is not None for name in ("softcap", "sink", "log_forget")) or options["return_lse"]:
        return NotImplemented
    queries, keys = q.shape[1], k.shape[1]
    causal, window, prefix = options["causal"], options["window"], options["prefix"]
    plain = causal and queries == keys and prefix == 0 and (window is None or window >= keys)
    mask = None
    if causal and not plain:
        mask = band(queries, keys, window, q.device, options["num_global"], prefix)
    if mask is not None and backend is SDPBackend.FLASH_ATTENTION:
        return NotImplemented
    by_heads = (x.transpose(1, 2) for x in (q, k, v))
    o = attend(*by_heads, mask=mask, is_causal=plain, scale=options["scale"], backend=backend)
    return o if o is NotImplemented else o.transpose(1, 2)


def sdpa_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    length: int | Tensor,
    *,
    scale: float,
    keep: Tensor | None,
    softcap: float | None,
    sink: Tensor | None,
    bias: Tensor | None,
    listed: Tensor | None,
    value_size: int | None,
    return_lse: bool,
    backend: SDPBackend | None = None,
) -> Tensor:
    """`kernels.attention_step` by `scaled_dot_product_attention`: the heads of a group are queries of one key head.

    A length that lies on a GPU becomes a mask: it would have to wait for the number.
    """
    if softcap is not None or sink is not None or bias is not None or listed is not None or return_lse:
        return NotImplemented
    length, keep = filled_slots(k_cache, length, keep)
    if keep is not None and backend is SDPBackend.FLASH_ATTENTION:
        return NotImplemented
    batch, heads, _ = q.shape
    kv_heads = k_cache.shape[2]
    v_cache = k_cache[..., :value_size] if v_cache is None else v_cache
    size = v_cache.shape[3]
    k, v = (cache[:, :length].transpose(1, 2) for cache in (k_cache, v_cache))
    grouped = q.unflatten(1, (kv_heads, -1))
    if keep is None:
        o = attend(grouped, k, v, mask=None, is_causal=False, scale=scale, backend=backend)
        return o if o is NotImplemented else o.reshape(batch, heads, size)
    keep = keep[:, :, :length].unsqueeze(2)
    sees_any = keep.any(dim=-1, keepdim=True)
    o = attend(grouped, k, v, mask=keep | ~sees_any, is_causal=False, scale=scale, backend=backend)
    return o if o is NotImplemented else torch.where(sees_any, o, 0.0).reshape(batch, heads, size)


def filled_slots(cache: Tensor, length: int | Tensor, keep: Tensor | None) -> tuple[int, Tensor | None]:
    """How many slots to read of a cache [B, S, H, D] and which of them to keep, without waiting for a GPU."""
    if not isinstance(length, Tensor):
        return length, keep
    batch, slots, heads = cache.shape[:3]
    if length.device.type == "cpu" and length.dim() == 0:
        return min(int(length), slots), keep
    filled = (torch.arange(slots, device=cache.device) < length.reshape(-1, 1, 1)).expand(batch, heads, slots)
    return slots, filled if keep is None else keep & filled


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, is_causal: bool, scale: float, backend: SDPBackend | None
) -> Tensor:
    """[B, H, T, D] in and out; NotImplemented where the back-end that is asked for has no kernel for it."""
    grouped = q.shape[1] != k.shape[1]
    run = partial(
        F.scaled_dot_product_attention,
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=grouped,
    )
    if backend is None:
        return run()
    try:
        with sdpa_kernel(backend):
            return run()
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        return NotImplemented


def band(
    queries: int, keys: int, window: int | None, device: torch.device, num_global: int = 0, prefix: int = 0
) -> Tensor:
    """Bool [Tq, Tk]: the positions up to a query's own, the last `window` of them where there is one and the first
    `num_global`; and the first `prefix` of all."""
    position = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key = torch.arange(keys, device=device)
    seen = key <= position
    if window is not None:
        seen = seen & ((key > position - window) | (key < num_global))
    return seen | (key < prefix)


# Grouped products of PyTorch.


def grouped_mm(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """`kernels.grouped_matmul` by `torch.nn.functional.grouped_mm`, which leaves rows of no group unwritten.

    They are given to the last group with zeros for their values: product and gradients are then zero.
    """
    ends = group_sizes.cumsum(0).to(torch.int32)
    inside = torch.arange(x.shape[0], device=x.device) < ends[-1]
    ends[-1] = x.shape[0]
    return F.grouped_mm(torch.where(inside.unsqueeze(1), x, 0.0), w, offs=ends)


# flash-linear-attention: one function for each kind of decay, with and without the delta rule.


def fla_function(module: str, name: str) -> Substitute:
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


def kind_of(
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    erase: tuple[Tensor, Tensor] | None,
    bonus: Tensor | None,
) -> str:
    """The published layer whose recurrence this is, by the names of fla's modules; or "nobody's layer"."""
    decay = "none" if log_decay is None else "fixed" if log_decay.dim() == 1 else "head"
    if log_decay is not None and log_decay.dim() == v.dim():
        decay = "channel"
    return _KINDS.get((decay, beta is not None, erase is not None, bonus is not None), "nobody's layer")


_KINDS = {  # decay, and whether there is beta, erase, bonus
    ("none", False, False, False): "simple_gla",
    ("fixed", False, False, False): "simple_gla",
    ("head", False, False, False): "simple_gla",
    ("channel", False, False, False): "gla",
    ("none", True, False, False): "delta_rule",
    ("head", True, False, False): "gated_delta_rule",
    ("channel", True, False, False): "kda",
    ("channel", False, True, False): "rwkv7",
    ("channel", False, False, True): "rwkv6",
}


def fla_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None,
    beta: Tensor | None,
    erase: tuple[Tensor, Tensor] | None,
    bonus: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    scale: float,
    kind: str,
    form: str = "chunk",
) -> Tensor | tuple[Tensor, Tensor]:
    """`kernels.matrix_recurrence` by one function of fla; all other kinds of layer are declined."""
    if kind_of(v, log_decay, beta, erase, bonus) != kind:
        return NotImplemented
    if log_decay is not None and log_decay.dim() == 1 and log_decay.requires_grad and torch.is_grad_enabled():
        return NotImplemented  # fla gives a fixed decay no gradient
    if kind not in ("gated_delta_rule", "kda"):  # these two share query heads themselves
        group = v.shape[2] // q.shape[2]
        q, k = (x if group == 1 else x.repeat_interleave(group, dim=2) for x in (q, k))
    options: dict[str, Any] = {"scale": scale, "initial_state": initial_state, "output_final_state": return_state}
    if kind == "rwkv6":
        options |= {"r": q, "k": k, "v": v, "w": log_decay, "u": bonus}
    elif erase is not None:
        options |= {"r": q, "k": k, "v": v, "w": log_decay, "a": erase[0], "b": erase[1]}
    else:
        options |= {"q": q, "k": k, "v": v} | ({} if beta is None else {"beta": beta})
        if log_decay is not None:
            gate = "gk" if (kind, form) == ("gla", "fused_recurrent") else "g"
            options["g_gamma" if log_decay.dim() == 1 else gate] = log_decay
    o, state = fla_function(kind, f"{form}_{kind}")(**options)
    return (o, state) if return_state else o


def fla_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    log_decay: Tensor | None,
    beta: Tensor | None,
    erase: tuple[Tensor, Tensor] | None,
    bonus: Tensor | None,
    scale: float,
    kind: str,
) -> tuple[Tensor, Tensor]:
    """`kernels.matrix_recurrence_step` by fla's token-by-token kernels over one token."""
    fixed = log_decay is not None and log_decay.dim() == 1
    answer = fla_recurrence(
        q.unsqueeze(1),
        k.unsqueeze(1),
        v.unsqueeze(1),
        log_decay=log_decay if log_decay is None or fixed else log_decay.unsqueeze(1),
        beta=None if beta is None else beta.unsqueeze(1),
        erase=None if erase is None else (erase[0].unsqueeze(1), erase[1].unsqueeze(1)),
        bonus=bonus,
        initial_state=state,
        return_state=True,
        scale=scale,
        kind=kind,
        form="fused_recurrent",
    )
    if not isinstance(answer, tuple):
        return NotImplemented
    return answer[0].squeeze(1), answer[1]
