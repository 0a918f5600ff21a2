"""What the two doors of the matrix recurrence accept; each refusal names the argument, what came and the rule."""

import torch
from torch import Tensor

from kernels._matrix_recurrence.options import Options
from kernels.arguments import check_number, check_optional_tensors, check_tensors
from kernels.dtypes import DTYPES, require_state

LARGEST_KEY = 256  # a program of the delta rule holds all of K
LARGEST_VALUE = 1024  # programs share V


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    erase: tuple[Tensor, Tensor] | None,
    bonus: Tensor | None,
    state: Tensor | None,
    *,
    step: bool,
) -> Options:
    """The optional arguments as one value. Raises ValueError or TypeError unless the arguments fit together; `step`
    drops the T axis from every rule."""
    check_tokens(q, k, v, step=step)
    check_optional_tensors(log_decay=log_decay, beta=beta, bonus=bonus, **{_state_name(step): state})
    if beta is not None and erase is not None:
        raise ValueError("beta and erase exclude one another, but both were given: write beta as part of erase's b.")
    a, b = _erase_pair(erase)
    lead = tuple(v.shape[:-2])
    heads, key_size, value_size = v.shape[-2], q.shape[-1], v.shape[-1]
    per_head, per_key = (*lead, heads), (*lead, heads, key_size)
    axes = "[B, {}]" if step else "[B, T, {}]"
    if log_decay is not None and tuple(log_decay.shape) not in ((heads,), per_head, per_key):
        forms = f"[Hv], {axes.format('Hv')} or {axes.format('Hv, K')}"
        raise ValueError(
            f"log_decay must have shape {forms} = {[heads]}, {list(per_head)} or {list(per_key)} for these q "
            f"and v, but got {list(log_decay.shape)}."
        )
    shapes = (
        ("beta", beta, axes.format("Hv"), per_head),
        ("a of erase", a, axes.format("Hv, K"), per_key),
        ("b of erase", b, axes.format("Hv, K"), per_key),
        ("bonus", bonus, "[Hv, K]", (heads, key_size)),
    )
    for name, tensor, form, shape in shapes:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must have shape {form} = {list(shape)} for these q and v, but got {list(tensor.shape)}."
            )
    for name, gate in (("log_decay", log_decay), ("beta", beta), ("bonus", bonus)):
        if gate is not None and gate.dtype not in (q.dtype, torch.float32):
            raise TypeError(f"{name} must be {q.dtype} like q or torch.float32, but got {gate.dtype}.")
    for name, key in (("a of erase", a), ("b of erase", b)):
        if key is not None and key.dtype != q.dtype:
            raise TypeError(f"{name} must be {q.dtype} like q and k, but got {key.dtype}.")
    state_name = _state_name(step)
    if step:
        require_state(state, "[B, Hv, K, V]", "zeros")
    if state is not None:
        _check_state(state, (lead[0], heads, key_size, value_size), state_name)
    check_devices(q, ("log_decay", log_decay), *((name, x) for name, x, _, _ in shapes), (state_name, state))
    return Options(log_decay, beta, a, b, bonus)


def scale_of(q: Tensor, scale: float | None) -> float:
    """K**-0.5 unless given. Raises ValueError for what is no finite number."""
    if scale is None:
        return q.shape[-1] ** -0.5
    check_number("scale", scale)
    return float(scale)


def _state_name(step: bool) -> str:
    return "state" if step else "initial_state"


def _erase_pair(erase: tuple[Tensor, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    if erase is None:
        return None, None
    is_pair = isinstance(erase, tuple | list) and len(erase) == 2 and all(isinstance(x, Tensor) for x in erase)
    if not is_pair:
        raise TypeError(f"erase must be a pair of tensors (a, b), but got {described(erase)}.")
    return erase[0], erase[1]


def described(given: object) -> str:
    """What came where a pair of tensors was asked for."""
    if not isinstance(given, tuple | list):
        return type(given).__name__
    return f"a {type(given).__name__} of {len(given)} ({', '.join(type(one).__name__ for one in given)})"


def check_tokens(q: Tensor, k: Tensor, v: Tensor, *, step: bool) -> None:
    check_tensors(q=q, k=k, v=v)
    rank, form = (3, "[B, H, D]") if step else (4, "[B, T, H, D]")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != rank:
            raise ValueError(f"{name} must have {rank} axes {form}, but got shape {list(tensor.shape)}.")
    if q.shape != k.shape:
        raise ValueError(f"q and k must have one shape, but got {list(q.shape)} and {list(k.shape)}.")
    if q.shape[:-2] != v.shape[:-2]:
        raise ValueError(
            f"v must agree with q in every axis before the heads, but got v {list(v.shape)} and q {list(q.shape)}."
        )
    if 0 in q.shape or 0 in v.shape:
        raise ValueError(f"No axis may be empty, but got q {list(q.shape)} and v {list(v.shape)}.")
    if v.shape[-2] % q.shape[-2]:
        raise ValueError(
            f"The heads of v must be a multiple of those of q and k, but got {v.shape[-2]} and {q.shape[-2]}."
        )
    if q.shape[-1] > LARGEST_KEY or v.shape[-1] > LARGEST_VALUE:
        raise ValueError(
            f"Head sizes must be at most K = {LARGEST_KEY} and V = {LARGEST_VALUE}, but got K={q.shape[-1]} and "
            f"V={v.shape[-1]}."
        )
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise TypeError(
            "q, k and v must share one dtype of float32, bfloat16 and float16, but got "
            f"{q.dtype}, {k.dtype} and {v.dtype}."
        )
    check_devices(q, ("k", k), ("v", v))


def check_devices(q: Tensor, *others: tuple[str, Tensor | None]) -> None:
    for name, other in others:
        if other is not None and other.device != q.device:
            raise ValueError(f"All tensors must be on one device, but q is on {q.device} and {name} on {other.device}.")


def _check_state(state: Tensor, shape: tuple[int, int, int, int], name: str) -> None:
    if tuple(state.shape) != shape:
        raise ValueError(
            f"{name} must have shape [B, Hv, K, V] = {list(shape)} for these q and v, but got {list(state.shape)}."
        )
    if state.dtype != torch.float32:
        raise TypeError(f"{name} must be torch.float32, but got {state.dtype}; call .float() on it.")
