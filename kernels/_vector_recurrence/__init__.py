"""The recurrence of a vector state: one number a channel, that decays and is added to.

Its mixers give it (σ is the sigmoid, ⊙ by channel):

* RG-LRU (De et al., Griffin, arXiv 2402.19427, section 2.4): log_decay = -8 r ⊙ softplus(Λ),
  x = sqrt(1 - exp(2 log_decay)) ⊙ i ⊙ input;
* HGRN (Qin et al., arXiv 2311.04823, section 3.2): log_decay = log f, x = (1 - f) ⊙ input;
* minGRU (Feng et al., arXiv 2410.01201, section 3.1): log_decay = logσ(-k), x = σ(k) ⊙ candidate;
* minLSTM (section 3.2 there): the gates divided by their sum, with d = softplus(-f) - softplus(-i):
  log_decay = -softplus(d), x = σ(d) ⊙ candidate.

A bidirectional mixer adds a scan with `reverse`. The WKV of RWKV-4 divides two such recurrences: see `kernels.wkv`.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._vector_recurrence import portable, reference
from kernels.arguments import check_optional_tensors, check_switches, check_tensors
from kernels.backend import Backend, ask_substitute, choose_backend, choose_step_backend
from kernels.dtypes import DTYPES, require_state


def vector_recurrence(
    x: Tensor,
    log_decay: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence: h_t = exp(log_decay_t) ⊙ h_{t-1} + x_t; with `reverse` h_t = exp(log_decay_t) ⊙ h_{t+1} + x_t.

    Args:
        x: what is added [B, T, D], in float32, bfloat16 or float16.
        log_decay: natural logarithm of what is kept [B, T, D], in the type of x or in float32. It must not be positive,
            which is not checked; -inf forgets everything, and its own gradient is then zero.
        initial_state: state before the first token, or behind the last one with `reverse`, [B, D] in float32; left
            out, zeros.
        return_state: also return the state after the whole scan, [B, D] in float32.
        reverse: scan from the last token to the first.

    Returns h [B, T, D] in the type of x, or (h, state). All arithmetic is in float32. Every tensor given receives
    gradients, once: the backward pass itself is not differentiable.

    Raises ValueError when shapes or devices do not belong together, TypeError for types other than those above.
    """
    check_switches(return_state=return_state, reverse=reverse)
    _check(x, log_decay, initial_state, state_name="initial_state", form="[B, T, D]")
    options = {"initial_state": initial_state, "return_state": return_state, "reverse": reverse}
    substituted = ask_substitute("vector_recurrence", x, log_decay, **options)
    if substituted is not NotImplemented:
        return substituted
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], x.shape[2], dtype=torch.float32)
    h, state = _implementation(choose_backend(x)).vector_recurrence(x, log_decay, initial_state, reverse)
    return (h, state) if return_state else h


def vector_recurrence_step(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of `vector_recurrence`, for decoding: x and log_decay are [B, D], the state is [B, D] in float32.

    Returns (h [B, D] in the type of x, new state [B, D] in float32); the given state is left as it was. It is
    differentiable: where a gradient is asked for, the portable implementation runs in the place of the Triton kernel,
    which has none. Raises as `vector_recurrence` does.
    """
    require_state(state, "[B, D]", "zeros")
    _check(x, log_decay, state, state_name="state", form="[B, D]")
    substituted = ask_substitute("vector_recurrence_step", x, log_decay, state)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(choose_step_backend(x, log_decay, state)).vector_recurrence_step(x, log_decay, state)


def _implementation(backend: Backend) -> ModuleType:
    if backend == "gpu":
        from kernels._vector_recurrence import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(x: Tensor, log_decay: Tensor, state: Tensor | None, *, state_name: str, form: str) -> None:
    check_tensors(x=x, log_decay=log_decay)
    check_optional_tensors(**{state_name: state})
    if x.ndim != form.count(",") + 1 or 0 in x.shape:
        raise ValueError(f"x must be {form} with no empty axis, but got {list(x.shape)}.")
    if log_decay.shape != x.shape:
        raise ValueError(f"log_decay must have the shape of x {list(x.shape)}, but got {list(log_decay.shape)}.")
    if state is not None and tuple(state.shape) != (x.shape[0], x.shape[-1]):
        raise ValueError(
            f"{state_name} must be [B, D] = {[x.shape[0], x.shape[-1]]} for this x, but got {list(state.shape)}."
        )
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, bfloat16 or float16, but got {x.dtype}.")
    if log_decay.dtype not in (x.dtype, torch.float32):
        raise TypeError(f"log_decay must be {x.dtype} like x or torch.float32, but got {log_decay.dtype}.")
    if state is not None and state.dtype != torch.float32:
        raise TypeError(f"{state_name} must be torch.float32, but got {state.dtype}; call .float() on it.")
    for name, other in (("log_decay", log_decay), (state_name, state)):
        if other is not None and other.device != x.device:
            raise ValueError(f"All tensors must be on one device, but x is on {x.device} and {name} on {other.device}.")
