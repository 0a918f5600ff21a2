"""The mLSTM as a setting of the matrix recurrence: exponential input gates, kept in range, and a normaliser.

Source: Beck et al., xLSTM (arXiv 2405.04517), section 2.3, equations 19 to 27, and appendix A.1 on the stabiliser.

With i the logarithm of the input gate and f that of the forget gate, C and n of equations 19 and 20 grow as exp(i).
What is kept is S = (C, n) exp(-m), with m_t = max(f_t + m_{t-1}, i_t): a decay of f_t + m_{t-1} - m_t, which is never
positive, and keys times exp(i_t - m_t), at most 1. Any m gives the same output, so m is a constant to autograd.
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence import matrix_recurrence, matrix_recurrence_step
from kernels._matrix_recurrence.checks import LARGEST_VALUE, check_devices, check_tokens, described
from kernels.arguments import check_switches, check_tensors

MlstmState = tuple[Tensor, Tensor]


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    *,
    initial_state: MlstmState | None = None,
    return_state: bool = False,
    scale: float | None = None,
) -> Tensor | tuple[Tensor, MlstmState]:
    """h_t = C_tᵀq_t / max(|n_tᵀq_t|, 1), with C_t = e^f C_{t-1} + e^i k vᵀ and n_t = e^f n_{t-1} + e^i k.

    Shapes: q, k [B, T, Hqk, K]; v [B, T, H, V], H a multiple of Hqk; K at most 256, V at most 1023; input_gate and
    forget_gate [B, T, H], the logarithms i and f of the gates, both finite and f at most 0 (a log-sigmoid), which is
    not checked. `scale` multiplies q and is K**-0.5 unless given. The state is (S [B, H, K, V + 1], m [B, H]) in
    float32: C exp(-m) and, in the last column, n exp(-m); left out, nothing has been seen. Types, devices and gradients
    are as for `matrix_recurrence`, on which it runs; m receives no gradient: a loss should depend on S exp(m) alone.

    Returns h [B, T, H, V] in the type of v; with `return_state` also the state after the last token.
    Raises ValueError for shapes, devices and settings, TypeError for types that do not fit together.
    """
    check_switches(return_state=return_state)
    start, m_start = _checked(q, k, v, input_gate, forget_gate, initial_state, step=False)
    i, f = input_gate.float(), forget_gate.float()
    m = _stabilisers(i.detach(), f.detach(), m_start)
    before = torch.cat((m_start[:, None], m[:, :-1]), dim=1)
    keys, values = _per_head(k, v) * torch.exp(i - m)[..., None].to(k.dtype), _with_ones(v)
    both, state = matrix_recurrence(
        _per_head(q, v), keys, values, log_decay=f + before - m, initial_state=start, return_state=True, scale=scale
    )
    h = _normalised(both, m, v.dtype)
    return (h, (state, m[:, -1].contiguous())) if return_state else h


def mlstm_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    state: MlstmState,
    *,
    scale: float | None = None,
) -> tuple[Tensor, MlstmState]:
    """One token of `mlstm`, for decoding: its shapes without the T axis. Returns (h [B, H, V], the new state).

    The given state is left as it was. Raises as `mlstm` does.
    """
    start, m_start = _checked(q, k, v, input_gate, forget_gate, state, step=True)
    i, f = input_gate.float(), forget_gate.float()
    m = torch.maximum(f + m_start, i).detach()
    keys, values = _per_head(k, v) * torch.exp(i - m)[..., None].to(k.dtype), _with_ones(v)
    both, new = matrix_recurrence_step(_per_head(q, v), keys, values, start, log_decay=f + m_start - m, scale=scale)
    return _normalised(both, m, v.dtype), (new, m)


def _empty_state(q: Tensor, v: Tensor) -> MlstmState:
    """The state before anything is seen, for these q [..., K] and v [B, ..., H, V]."""
    batch, heads = v.shape[0], v.shape[-2]
    state = v.new_zeros(batch, heads, q.shape[-1], v.shape[-1] + 1, dtype=torch.float32)
    return state, state.new_zeros(batch, heads)


def _stabilisers(i: Tensor, f: Tensor, start: Tensor) -> Tensor:
    """m_t = max(f_t + m_{t-1}, i_t) for all tokens [B, T, H]; in float64, because sums of f grow with the length."""
    kept = f.double().cumsum(dim=1)
    largest = torch.cummax(i.double() - kept, dim=1).values
    return (kept + torch.maximum(largest, start[:, None].double())).float()


def _normalised(both: Tensor, m: Tensor, dtype: torch.dtype) -> Tensor:
    """Both are C exp(-m) read by q, and in the last column n exp(-m)."""
    both = both.float()
    bound = torch.maximum(both[..., -1].abs(), torch.exp(-m))
    return (both[..., :-1] / bound[..., None]).to(dtype)


def _with_ones(v: Tensor) -> Tensor:
    return torch.cat((v, v.new_ones(*v.shape[:-1], 1)), dim=-1)


def _per_head(x: Tensor, v: Tensor) -> Tensor:
    """Keys that carry a gate of every head of v are no longer shared."""
    return x if x.shape[-2] == v.shape[-2] else x.repeat_interleave(v.shape[-2] // x.shape[-2], dim=-2)


def _checked(
    q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor, state: MlstmState | None, *, step: bool
) -> MlstmState:
    """The state to start from."""
    check_tokens(q, k, v, step=step)
    check_tensors(input_gate=input_gate, forget_gate=forget_gate)
    if v.shape[-1] >= LARGEST_VALUE:
        raise ValueError(
            f"The head size V must be at most {LARGEST_VALUE - 1}, because the normaliser takes a column beside it, "
            f"but got V={v.shape[-1]}."
        )
    start = None if state is None and not step else _state_pair(state, "state" if step else "initial_state")
    per_head, size = [*v.shape[:-1]], [v.shape[0], v.shape[-2]]
    states = {} if start is None else {
        "S of the state": (start[0], [*size, q.shape[-1], v.shape[-1] + 1]), "m of the state": (start[1], size)
    }  # fmt: skip
    gates = {"input_gate": (input_gate, per_head), "forget_gate": (forget_gate, per_head)}
    for name, (tensor, shape) in (gates | states).items():
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} beside q {list(q.shape)} and v {list(v.shape)}, but got {list(tensor.shape)}."
            )
        if tensor.dtype != torch.float32 and (tensor.dtype != q.dtype or name in states):
            wanted = "torch.float32" if name in states else f"{q.dtype} like q or torch.float32"
            raise TypeError(f"{name} must be {wanted}, but got {tensor.dtype}.")
        check_devices(q, (name, tensor))
    return _empty_state(q, v) if start is None else (start[0], start[1].detach())


def _state_pair(state: object, name: str) -> MlstmState:
    pair = list(state) if isinstance(state, tuple | list) else []
    if len(pair) != 2 or not all(isinstance(one, Tensor) for one in pair):
        raise TypeError(f"{name} must be a pair of tensors (S, m), but got {described(state)}.")
    return pair[0], pair[1]
