"""The matrix recurrence behind linear attention, Mamba-2, GLA, DeltaNet and their relatives: one state matrix per head.

    S ← diag(exp(log_decay)) S;  w = v, or with beta: w = beta·(v - Sᵀk);  S ← S + k wᵀ;  o = Sᵀ(scale·q)

Which published layer is which setting (log_decay, beta): linear attention (none, none); RetNet and Lightning ([Hv],
none); Mamba-2 and simple GLA ([B, T, Hv], none); GLA and HGRN2 ([B, T, Hv, K], none); DeltaNet (none, beta); Gated
DeltaNet ([B, T, Hv], beta); Kimi Delta Attention ([B, T, Hv, K], beta).
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence import portable, reference
from kernels._matrix_recurrence.checks import check_arguments
from kernels.backend import ask_substitute, choose_backend

__all__ = ["matrix_recurrence", "matrix_recurrence_step"]


def matrix_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    scale: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the recurrence over whole sequences; gradients flow to every tensor argument and from the last state.

    Shapes: q, k [B, T, Hqk, K]; v [B, T, Hv, V], Hv a multiple of Hqk (head h of v reads head h // (Hv/Hqk) of q and
    k); log_decay [Hv], [B, T, Hv] or [B, T, Hv, K]; beta [B, T, Hv]; initial_state [B, Hv, K, V] in float32, zeros
    if not given. K and V are at most 256; float32, bfloat16 and float16; gates in that dtype or in float32.
    `log_decay` is a natural logarithm and at most 0 (not checked: that would wait for the device). `scale` multiplies
    q and is K**-0.5 unless given. The state is kept in float32 and all sums are taken there.

    Returns o [B, T, Hv, V] in the dtype of v; with `return_state` also the state after the last token.
    Raises ValueError for shapes and devices, TypeError for dtypes that do not fit together.
    """
    check_arguments(q, k, v, log_decay, beta, initial_state, step=False)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    options = {"log_decay": log_decay, "beta": beta, "initial_state": initial_state, "return_state": return_state}
    substituted = ask_substitute("matrix_recurrence", q, k, v, **options, scale=factor)
    if substituted is not NotImplemented:
        return substituted
    backend = choose_backend(q)
    if backend == "gpu":
        # Triton is imported where it runs: it exists on Linux alone.
        from kernels._matrix_recurrence import gpu

        run = gpu.recurrence
    else:
        run = reference.recurrence if backend == "reference" else portable.recurrence
    output, state = run(q, k, v, log_decay, beta, initial_state, factor)
    return (output, state) if return_state else output


def matrix_recurrence_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one token, for generation: `matrix_recurrence` at T = 1 without the T axis.

    Shapes: q, k [B, Hqk, K]; v [B, Hv, V]; state [B, Hv, K, V] in float32; log_decay [Hv], [B, Hv] or [B, Hv, K];
    beta [B, Hv]. Returns (o [B, Hv, V] in the dtype of v, the new state); the given state is not changed. It is
    differentiable; the Triton kernel, which is not, runs only where no gradient is asked for.
    Raises as `matrix_recurrence` does.
    """
    check_arguments(q, k, v, log_decay, beta, state, step=True)
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    substituted = ask_substitute("matrix_recurrence_step", q, k, v, state, log_decay=log_decay, beta=beta, scale=factor)
    if substituted is not NotImplemented:
        return substituted
    tensors = (q, k, v, state, log_decay, beta)
    needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    if choose_backend(q) == "gpu" and not needs_grad:
        from kernels._matrix_recurrence import gpu

        return gpu.recurrence_step(q, k, v, state, log_decay, beta, factor)
    return reference.recurrence_step(q, k, v, state, log_decay, beta, factor)
