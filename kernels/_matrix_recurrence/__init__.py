"""The matrix recurrence behind linear attention, Mamba-2, GLA, DeltaNet and their relatives: one state matrix per head.

For each token, with S the state that the tokens before it left:

    S' = diag(exp(log_decay)) S
    beta:   S' ← S' + k wᵀ,  w = beta·(v - S'ᵀk)         erase:  S' ← S' + b (aᵀS) + k vᵀ         else:  S' ← S' + k vᵀ
    o  = scale·S'ᵀq,   or with bonus u:  o = scale·(Sᵀq + (q·(u⊙k)) v)

Which published layer is which setting:

| layer | log_decay | beta | erase (a, b) | bonus |
|---|---|---|---|---|
| linear attention | | | | |
| RetNet, Lightning, TransNormer | [Hv] | | | |
| Mamba-2 (q = C, k = B, v = Δx), simple GLA | [B, T, Hv] | | | |
| mLSTM (`kernels.mlstm`: k times its input gate; a column of ones beside v gives the normaliser) | [B, T, Hv] | | | |
| GLA, HGRN2 (k = 1 - forget gate) | [B, T, Hv, K] | | | |
| RWKV-6 | [B, T, Hv, K] | | | u |
| DeltaNet | | yes | | |
| Gated DeltaNet | [B, T, Hv] | yes | | |
| gated DeltaProduct of n steps: n tokens each, decay at the first, q at the last | [B, nT, Hv] | yes | | |
| Kimi Delta Attention | [B, T, Hv, K] | yes | | |
| GDN-2 (v times its write gate) | [B, T, Hv, K] | | (gate⊙k⊙exp(log_decay), -k) | |
| Comba, erasing from the decayed state | [B, T, Hv] | | (p·exp(log_decay), -beta·k), and k times beta | |
| RWKV-7 | [B, T, Hv, K] | | (-κ, κ⊙in-context rate) | |
"""

from torch import Tensor

from kernels._matrix_recurrence import portable, reference
from kernels._matrix_recurrence.checks import check_arguments, scale_of
from kernels.arguments import check_switches
from kernels.backend import ask_substitute, choose_backend, choose_step_backend

__all__ = ["matrix_recurrence", "matrix_recurrence_step"]


def matrix_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    erase: tuple[Tensor, Tensor] | None = None,
    bonus: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    scale: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the recurrence over whole sequences; gradients flow to every tensor argument and from the last state.

    Shapes: q, k [B, T, Hqk, K]; v [B, T, Hv, V], Hv a multiple of Hqk (head h of v reads head h // (Hv/Hqk) of q and
    k). All else belongs to the heads of v, which do not share it: log_decay [Hv], [B, T, Hv] or [B, T, Hv, K];
    beta [B, T, Hv]; erase (a, b), each [B, T, Hv, K], which reads the state before its decay and excludes beta;
    bonus [Hv, K]; initial_state [B, Hv, K, V] in float32, zeros if not given. K is at most 256, V at most 1024. q, k,
    v, a and b share float32, bfloat16 or float16; log_decay, beta and bonus have that dtype or float32.
    `log_decay` is a natural logarithm and at most 0 (not checked: that would wait for the device). `scale` multiplies
    q and is K**-0.5 unless given. The state is kept in float32 and all sums are taken there.

    Returns o [B, T, Hv, V] in the dtype of v; with `return_state` also the state after the last token.
    Raises ValueError for shapes, devices and settings, TypeError for dtypes that do not fit together.
    """
    check_switches(return_state=return_state)
    options = check_arguments(q, k, v, log_decay, beta, erase, bonus, initial_state, step=False)
    factor = scale_of(q, scale)
    substituted = ask_substitute(
        "matrix_recurrence", q, k, v, log_decay=log_decay, beta=beta, erase=erase, bonus=bonus,
        initial_state=initial_state, return_state=return_state, scale=factor,
    )  # fmt: skip
    if substituted is not NotImplemented:
        return substituted
    backend = choose_backend(q)
    if backend == "gpu":
        # Triton is imported where it runs: it exists on Linux alone.
        from kernels._matrix_recurrence import gpu

        run = gpu.recurrence
    else:
        run = reference.recurrence if backend == "reference" else portable.recurrence
    output, state = run(q, k, v, options, initial_state, factor)
    return (output, state) if return_state else output


def matrix_recurrence_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    erase: tuple[Tensor, Tensor] | None = None,
    bonus: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one token, for generation: `matrix_recurrence` at T = 1 without the T axis.

    Shapes: q, k [B, Hqk, K]; v [B, Hv, V]; state [B, Hv, K, V] in float32; log_decay [Hv], [B, Hv] or [B, Hv, K];
    beta [B, Hv]; erase (a, b), each [B, Hv, K]; bonus [Hv, K]. Returns (o [B, Hv, V] in the dtype of v, the new state);
    the given state is not changed. It is differentiable: where a gradient is asked for, the portable implementation
    runs in the place of the Triton kernel, which has none. Raises as `matrix_recurrence` does.
    """
    options = check_arguments(q, k, v, log_decay, beta, erase, bonus, state, step=True)
    factor = scale_of(q, scale)
    substituted = ask_substitute(
        "matrix_recurrence_step", q, k, v, state, log_decay=log_decay, beta=beta, erase=erase, bonus=bonus, scale=factor
    )
    if substituted is not NotImplemented:
        return substituted
    if choose_step_backend(q, k, v, state, *options) == "gpu":
        from kernels._matrix_recurrence import gpu

        return gpu.recurrence_step(q, k, v, state, options, factor)
    return reference.recurrence_step(q, k, v, state, options, factor)
