"""The matrix recurrence in chunks of PyTorch matrix products: what CPU users train with, differentiable by autograd.

A chunk of C tokens turns into products of [C, C] and [C, K] matrices, all chunks at once; only the state passes from
chunk to chunk in a loop. Writing g for the running sum of log_decay inside a chunk and S for the state before it,

    o_t = exp(g_t) Sᵀq_t + Σ_{i<=t} (Σ_c q_tc k_ic exp(g_tc - g_ic)) w_i,
    S'  = exp(g_C) S + Σ_i exp(g_C - g_i) k_i w_iᵀ,

where w is v, or for the delta rule the solution of a unit lower triangular system (the WY form of Yang et al.,
"Parallelizing Linear Transformers with the Delta Rule over Sequence Length", section 3, and "Gated Delta Networks",
section 3.3). Only differences g_t - g_i with t >= i are exponentiated, so nothing overflows at any decay.
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence.channel_decay import channel_decayed_products


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.recurrence`, computed in float32."""
    length, dtype = v.shape[1], v.dtype
    group = v.shape[2] // q.shape[2]
    # Matrix products below are float32 on purpose; autocast would cast their operands down again.
    with torch.autocast(v.device.type, enabled=False):
        chunk = _chunk_size(length, max(q.shape[-1], v.shape[-1]))
        queries, keys, values = _chunks(q, chunk) * scale, _chunks(k, chunk), _chunks(v, chunk)
        erase = None if beta is None else _chunks(beta[..., None], chunk)
        cumulative = None
        if log_decay is not None:
            if log_decay.ndim == 1:
                log_decay = log_decay.expand(*v.shape[:3])
            gates = log_decay if log_decay.ndim == 4 else log_decay[..., None]
            cumulative = _chunks(gates, chunk).cumsum(dim=3)
        scores, erasing = _scores(queries, keys, cumulative, group, needs_erasing=erase is not None)
        queries, keys = _to_value_heads(queries, group), _to_value_heads(keys, group)
        outputs, state = _run_chunks(queries, keys, values, cumulative, erase, scores, erasing, initial_state)
    outputs = outputs.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]
    return outputs.to(dtype), state


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, D] -> float32 [B, H, N, C, D]; the last chunk is filled with zeros, which change no state."""
    batch, length, heads, size = x.shape
    x = torch.nn.functional.pad(x.float(), (0, 0, 0, 0, 0, -length % chunk))
    return x.view(batch, -1, chunk, heads, size).permute(0, 3, 1, 2, 4).contiguous()


def _chunk_size(length: int, head_size: int) -> int:
    """32 for small heads and 64 for others, the faster on two CPU cores, or a power of two that holds all tokens."""
    return min(32 if head_size <= 32 else 64, 1 << (length - 1).bit_length())


def _to_value_heads(x: Tensor, group: int) -> Tensor:
    return x if group == 1 else x.repeat_interleave(group, dim=1)


def _scores(
    queries: Tensor, keys: Tensor, cumulative: Tensor | None, group: int, *, needs_erasing: bool
) -> tuple[Tensor, Tensor | None]:
    """Decayed products q_t·k_i, lower triangular, and for the delta rule k_t·k_i: [B, Hv, N, C, C] each.

    Of the second only the part below the diagonal has a meaning; the triangular solve reads no more.
    """
    if cumulative is not None and cumulative.shape[-1] > 1:
        queries, keys = _to_value_heads(queries, group), _to_value_heads(keys, group)
        rows = torch.stack((queries, keys), dim=-2) if needs_erasing else queries.unsqueeze(-2)
        products = channel_decayed_products(rows, keys, cumulative)
        return products[..., 0, :], products[..., 1, :] if needs_erasing else None
    transposed = keys.transpose(-1, -2)
    scores = _to_value_heads(queries @ transposed, group)
    erasing = _to_value_heads(keys @ transposed, group) if needs_erasing else None
    if cumulative is None:
        return scores.tril(), erasing
    chunk = keys.shape[3]
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=keys.device).triu(1)
    decay = (cumulative - cumulative.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()
    return scores * decay, None if erasing is None else erasing * decay


def _run_chunks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cumulative: Tensor | None,
    erase: Tensor | None,
    scores: Tensor,
    erasing: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, N, C, V] and the last state [B, H, K, V] from the products inside the chunks."""
    keys_to_end, whole = keys, None
    keys_from_start = keys
    if cumulative is not None:
        last = cumulative[..., -1:, :]
        keys_to_end = keys * (last - cumulative).exp()
        whole = last.exp().transpose(-1, -2)
        from_start = cumulative.exp()
        queries = queries * from_start
        if erase is not None:
            keys_from_start = keys * from_start
    transposed = keys_to_end.transpose(-1, -2)
    if erase is None:
        states, state = _pass_states(transposed @ values, whole, None, initial_state)
        return scores @ values + queries @ states, state
    assert erasing is not None
    right = erase * torch.cat((values, keys_from_start), dim=-1)
    solved = torch.linalg.solve_triangular(erase * erasing, right, upper=False, unitriangular=True)
    written, erased = solved.split((values.shape[-1], keys.shape[-1]), dim=-1)
    states, state = _pass_states(transposed @ written, whole, transposed @ erased, initial_state)
    return scores @ (written - erased @ states) + queries @ states, state


def _pass_states(
    updates: Tensor, whole: Tensor | None, erased: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The states before each chunk [B, H, N, K, V] and after the last: S' = whole·S - erased S + update."""
    batch, heads, chunks, key_size, value_size = updates.shape
    state = initial_state
    if state is None:
        state = updates.new_zeros(batch, heads, key_size, value_size)
    decays = [None] * chunks if whole is None else whole.unbind(2)
    removals = [None] * chunks if erased is None else erased.unbind(2)
    before = []
    for update, decay, removal in zip(updates.unbind(2), decays, removals, strict=True):
        before.append(state)
        if removal is not None:
            update = update - removal @ state
        state = update + state if decay is None else torch.addcmul(update, decay, state)
    return torch.stack(before, dim=2), state
