"""The selective scan of Mamba: a diagonal state space whose step size, input and output vary with the token.

Source: Gu and Dao, Mamba (arXiv 2312.00752), section 3, equation 2 with the discretisation of section 3.6.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._selective_scan import portable, reference
from kernels.backend import ask_substitute, choose_backend


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t;  y_t = (C_t h_t + D u_t) silu(z_t).

    Args:
        u: inputs [B, T, Dm].
        delta: step sizes [B, T, Dm], already positive (after softplus).
        A: continuous decay rates [Dm, N], negative.
        B: input projections [B, T, N], shared by all channels.
        C: output projections [B, T, N], shared by all channels.
        D: skip weights [Dm]; left out, there is no skip.
        z: gate before silu [B, T, Dm]; left out, there is no gate.
        initial_state: [B, Dm, N]; left out, zeros.
        return_state: also return the state after the last token, [B, Dm, N] in float32.

    Returns y [B, T, Dm] in the type of u, or (y, state). All arithmetic is in float32. Every tensor given receives
    gradients, once: the backward pass itself is not differentiable.

    Raises ValueError when the shapes do not belong together.
    """
    _check_shapes(u, delta, A, B, C, D, z, initial_state, dims=3)
    options = {"D": D, "z": z, "initial_state": initial_state, "return_state": return_state}
    substituted = ask_substitute("selective_scan", u, delta, A, B, C, **options)
    if substituted is not NotImplemented:
        return substituted
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], *A.shape, dtype=torch.float32)
    y, state = _implementation(u).selective_scan(u, delta, A, B, C, D, z, initial_state)
    return (y, state) if return_state else y


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of `selective_scan`, for decoding: u, delta, z are [B, Dm], B and C [B, N], state [B, Dm, N].

    Returns (y [B, Dm] in the type of u, new state [B, Dm, N] in float32); the given state is left as it was.
    Raises ValueError when the shapes do not belong together.
    """
    _check_shapes(u, delta, A, B, C, D, z, state, dims=2)
    substituted = ask_substitute("selective_scan_step", u, delta, A, B, C, state, D=D, z=z)
    if substituted is not NotImplemented:
        return substituted
    return _implementation(u).selective_scan_step(u, delta, A, B, C, state, D, z)


def _implementation(u: Tensor) -> ModuleType:
    backend = choose_backend(u)
    if backend == "gpu":
        from kernels._selective_scan import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    state: Tensor | None,
    *,
    dims: int,
) -> None:
    if u.dim() != dims or A.dim() != 2:
        wanted = "[B, T, Dm]" if dims == 3 else "[B, Dm]"
        raise ValueError(f"u must be {wanted} and A [Dm, N], but got u {list(u.shape)} and A {list(A.shape)}.")
    channels, states = u.shape[-1], A.shape[1]
    expected = {
        "delta": (delta, list(u.shape)),
        "A": (A, [channels, states]),
        "B": (B, [*u.shape[:-1], states]),
        "C": (C, [*u.shape[:-1], states]),
        "D": (D, [channels]),
        "z": (z, list(u.shape)),
        "state": (state, [u.shape[0], channels, states]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} beside u {list(u.shape)} and A {list(A.shape)}, but got {list(tensor.shape)}."
            )
