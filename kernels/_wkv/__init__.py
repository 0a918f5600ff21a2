"""WKV of RWKV-4: the mean of all values so far, weighted by exp(key), that forgets by channel.

Source: Peng et al., RWKV (arXiv 2305.13048), section 3.1, equation 16, and appendix D on its numerical form.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._wkv import portable, reference
from kernels._wkv.reference import EMPTY
from kernels.arguments import check_optional_tensors, check_switches, check_tensors
from kernels.backend import Backend, ask_substitute, choose_backend, choose_step_backend
from kernels.dtypes import DTYPES, require_state


def wkv(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, *, initial_state: Tensor | None = None, return_state: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence: y_t = (a_{t-1} + e^{u + k_t} v_t) / (b_{t-1} + e^{u + k_t}), all of it by channel, with

        a_t = e^w a_{t-1} + e^{k_t} v_t;  b_t = e^w b_{t-1} + e^{k_t}.

    Args:
        k: logarithms of weights [B, T, D], in float32, bfloat16 or float16.
        v: values [B, T, D] in the type of k.
        w: natural logarithm of what a token keeps of the sums, [D] in float32. It must not be positive, which is not
            checked. RWKV-4 has w = -exp(time_decay).
        u: what is added to the key of a token for its own output, [D] in float32 ("time_first").
        initial_state: [B, 3, D] in float32, see below; left out, nothing has been seen.
        return_state: also return the state after the last token.

    The state is (a e^{-m}, b e^{-m}, m) along its second axis, with m about the largest logarithm of a weight in b, so
    that no exponent is positive; before anything is seen it is (0, 0, -1e38). Only a and b mean something, m is a
    shift: the m that is returned is a constant to autograd, and a loss should depend on a and b alone.

    Returns y [B, T, D] in the type of v, or (y, state). All arithmetic is in float32. Every tensor given receives
    gradients, once: the backward pass itself is not differentiable.

    Raises ValueError when shapes or devices do not belong together, TypeError for types other than those above.
    """
    check_switches(return_state=return_state)
    _check(k, v, w, u, initial_state, state_name="initial_state", form="[B, T, D]")
    options = {"initial_state": initial_state, "return_state": return_state}
    substituted = ask_substitute("wkv", k, v, w, u, **options)
    if substituted is not NotImplemented:
        return substituted
    if initial_state is None:
        initial_state = k.new_zeros(k.shape[0], 3, k.shape[2], dtype=torch.float32)
        initial_state[:, 2] = EMPTY
    y, state = _implementation(choose_backend(k)).wkv(k, v, w, u, initial_state)
    return (y, state) if return_state else y


def wkv_step(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of `wkv`, for decoding: k and v are [B, D], w and u [D], the state is [B, 3, D] in float32.

    Returns (y [B, D] in the type of v, new state [B, 3, D] in float32); the given state is left as it was. It is
    differentiable as `wkv` is: where a gradient is asked for, the portable implementation runs in the place of the
    Triton kernel, which has none. Raises as `wkv` does.
    """
    require_state(state, "[B, 3, D]", "(0, 0, -1e38)")
    _check(k, v, w, u, state, state_name="state", form="[B, D]")
    substituted = ask_substitute("wkv_step", k, v, w, u, state)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(choose_step_backend(k, v, w, u, state)).wkv_step(k, v, w, u, state)


def _implementation(backend: Backend) -> ModuleType:
    if backend == "gpu":
        from kernels._wkv import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor | None, *, state_name: str, form: str) -> None:
    check_tensors(k=k, v=v, w=w, u=u)
    check_optional_tensors(**{state_name: state})
    if k.ndim != form.count(",") + 1 or 0 in k.shape:
        raise ValueError(f"k must be {form} with no empty axis, but got {list(k.shape)}.")
    batch, channels = k.shape[0], k.shape[-1]
    expected = {"v": (v, list(k.shape)), "w": (w, [channels]), "u": (u, [channels])}
    expected |= {} if state is None else {state_name: (state, [batch, 3, channels])}
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} beside k {list(k.shape)}, but got {list(tensor.shape)}.")
        if tensor.device != k.device:
            raise ValueError(
                f"All tensors must be on one device, but k is on {k.device} and {name} on {tensor.device}."
            )
        if name != "v" and tensor.dtype != torch.float32:
            raise TypeError(f"{name} must be torch.float32, but got {tensor.dtype}; call .float() on it.")
    if not k.dtype == v.dtype or k.dtype not in DTYPES:
        raise TypeError(
            f"k and v must share one dtype of float32, bfloat16 and float16, but got {k.dtype} and {v.dtype}."
        )
