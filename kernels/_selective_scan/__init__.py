"""The selective scan of Mamba: a diagonal state space whose step size, input and output vary with the token.

Source: Gu and Dao, Mamba (arXiv 2312.00752), section 3, equation 2 with the discretisation of section 3.6.

Its relatives:

* S4D (Gu et al., arXiv 2206.11893) with B and C that all channels share: delta [Dm], B and C [N], expanded to the
  sequence; S4D-Real has A_n = -(n + 1).
* S4D with B and C of each channel, as published: `kernels.vector_recurrence` of Dm N numbers, log_decay = delta A and
  x = delta u B. A complex A = -a + i w is two of them in the frame that turns with it: with p_t = w (delta_1 + … +
  delta_t), log_decay = -delta a, x = delta u B (cos p, -sin p) gives (r, s), and Re(C h) = C (r cos p - s sin p).
* S5 (Smith et al., arXiv 2208.04933): one state for all channels, that is `kernels.vector_recurrence` as above between
  projections from and to the channels.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._selective_scan import portable, reference
from kernels.arguments import check_optional_tensors, check_switches, check_tensors
from kernels.backend import Backend, ask_substitute, choose_backend, choose_step_backend
from kernels.dtypes import DTYPES, require_state


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
        u: inputs [B, T, Dm], in float32, bfloat16 or float16.
        delta: step sizes [B, T, Dm], already positive (after softplus).
        A: continuous decay rates [Dm, N], negative.
        B: input projections [B, T, N], shared by all channels; or [B, T, G, N], shared by each of G equal groups of
            neighbouring channels (the heads of Zamba).
        C: output projections, as B.
        D: skip weights [Dm]; left out, there is no skip.
        z: gate before silu [B, T, Dm]; left out, there is no gate.
        initial_state: [B, Dm, N] in float32; left out, zeros.
        return_state: also return the state after the last token, [B, Dm, N] in float32.

    All but the state are in the type of u or in float32.

    Returns y [B, T, Dm] in the type of u, or (y, state). All arithmetic is in float32. Every tensor given receives
    gradients, once: the backward pass itself is not differentiable. For it the state before each chunk of tokens is
    kept, and the states in between are computed again.

    Raises ValueError when shapes or devices do not belong together, TypeError for types other than those above.
    """
    check_switches(return_state=return_state)
    _check(u, delta, A, B, C, D, z, initial_state, step=False)
    options = {"D": D, "z": z, "initial_state": initial_state, "return_state": return_state}
    substituted = ask_substitute("selective_scan", u, delta, A, B, C, **options)
    if substituted is not NotImplemented:
        return substituted
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], *A.shape, dtype=torch.float32)
    scan = _implementation(choose_backend(u)).selective_scan
    y, state = _joined([scan(*one) for one in _groups(u, delta, A, B, C, D, z, initial_state)])
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
    """One token of `selective_scan`, for decoding: u, delta, z are [B, Dm], B and C [B, N] or [B, G, N], state
    [B, Dm, N].

    Returns (y [B, Dm] in the type of u, new state [B, Dm, N] in float32); the given state is left as it was. It is
    differentiable: where a gradient is asked for, the portable implementation runs in the place of the Triton kernel,
    which has none. Raises as `selective_scan` does.
    """
    require_state(state, "[B, Dm, N]", "zeros")
    _check(u, delta, A, B, C, D, z, state, step=True)
    substituted = ask_substitute("selective_scan_step", u, delta, A, B, C, state, D=D, z=z)
    if substituted is not NotImplemented:
        return substituted
    step = _implementation(choose_step_backend(u, delta, A, B, C, state, D, z)).selective_scan_step
    return _joined([step(*one[:5], one[7], *one[5:7]) for one in _groups(u, delta, A, B, C, D, z, state)])


def _groups(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, state: Tensor
) -> list[tuple]:
    """The arguments of every group of channels, which know nothing of one another."""
    if B.ndim == u.ndim:
        return [(u, delta, A, B, C, D, z, state)]
    count = B.shape[-2]

    def cut(x: Tensor | None, dim: int) -> tuple[Tensor | None, ...]:
        return (None,) * count if x is None else x.chunk(count, dim)

    wide = [cut(x, -1) for x in (u, delta)]
    rest = [cut(A, 0), B.unbind(-2), C.unbind(-2), cut(D, 0), cut(z, -1), cut(state, 1)]
    return list(zip(*wide, *rest, strict=True))


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Output and state of all groups."""
    if len(parts) == 1:
        return parts[0]
    outputs, states = zip(*parts, strict=True)
    return torch.cat(outputs, -1), torch.cat(states, 1)


def _implementation(backend: Backend) -> ModuleType:
    if backend == "gpu":
        from kernels._selective_scan import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    state: Tensor | None,
    *,
    step: bool,
) -> None:
    check_tensors(u=u, delta=delta, A=A, B=B, C=C)
    check_optional_tensors(D=D, z=z, **{"state" if step else "initial_state": state})
    if u.dim() != (2 if step else 3) or A.dim() != 2 or 0 in u.shape or 0 in A.shape:
        wanted = "[B, Dm]" if step else "[B, T, Dm]"
        raise ValueError(
            f"u must be {wanted} and A [Dm, N] with no empty axis, but got u {list(u.shape)} and A {list(A.shape)}."
        )
    channels, states = u.shape[-1], A.shape[1]
    groups = [B.shape[-2]] if B.dim() == u.dim() + 1 else []
    if groups and (groups[0] == 0 or channels % groups[0]):
        raise ValueError(f"The groups of B must divide the channels of u, but got {groups[0]} and {channels}.")
    projection = [*u.shape[:-1], *groups, states]
    state_name = "state" if step else "initial_state"
    expected = {
        "delta": (delta, list(u.shape)),
        "A": (A, [channels, states]),
        "B": (B, projection),
        "C": (C, projection),
        "D": (D, [channels]),
        "z": (z, list(u.shape)),
        state_name: (state, [u.shape[0], channels, states]),
    }
    if u.dtype not in DTYPES:
        raise TypeError(f"u must be float32, bfloat16 or float16, but got {u.dtype}.")
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} beside u {list(u.shape)} and A {list(A.shape)}, but got {list(tensor.shape)}."
            )
        if name == state_name and tensor.dtype != torch.float32:
            raise TypeError(f"{name} must be torch.float32, but got {tensor.dtype}; call .float() on it.")
        if tensor.dtype not in (u.dtype, torch.float32):
            raise TypeError(f"{name} must be {u.dtype} like u or torch.float32, but got {tensor.dtype}.")
        if tensor.device != u.device:
            raise ValueError(
                f"All tensors must be on one device, but u is on {u.device} and {name} on {tensor.device}."
            )
