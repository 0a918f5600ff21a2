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

CHUNK = 64
# Inside a chunk, blocks up to this size compare every pair of tokens channel by channel under a decay per channel.
PAIRWISE = 8


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
        queries, keys, values = _chunks(q * scale if scale != 1 else q), _chunks(k), _chunks(v)
        erase = None if beta is None else _chunks(beta[..., None])
        cumulative = None
        if log_decay is not None:
            if log_decay.ndim == 1:
                log_decay = log_decay.expand(*v.shape[:3])
            gates = log_decay if log_decay.ndim == 4 else log_decay[..., None]
            cumulative = _chunks(gates).cumsum(dim=3)
        scores, erasing = _scores(queries, keys, cumulative, group, needs_erasing=erase is not None)
        if group > 1:
            queries, keys = queries.repeat_interleave(group, dim=1), keys.repeat_interleave(group, dim=1)
        outputs, state = _run_chunks(queries, keys, values, cumulative, erase, scores, erasing, initial_state)
    outputs = outputs.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]
    return outputs.to(dtype), state


def _chunks(x: Tensor) -> Tensor:
    """[B, T, H, D] -> float32 [B, H, N, C, D]; the last chunk is filled with zeros, which change no state."""
    batch, length, heads, size = x.shape
    chunk = _chunk_size(length)
    x = torch.nn.functional.pad(x.float(), (0, 0, 0, 0, 0, -length % chunk))
    return x.view(batch, -1, chunk, heads, size).permute(0, 3, 1, 2, 4).contiguous()


def _chunk_size(length: int) -> int:
    """CHUNK, or the power of two that holds a sequence shorter than that."""
    return min(CHUNK, 1 << (length - 1).bit_length())


def _scores(
    queries: Tensor, keys: Tensor, cumulative: Tensor | None, group: int, *, needs_erasing: bool
) -> tuple[Tensor, Tensor | None]:
    """Decayed lower triangular products q_t·k_i and, for the delta rule, k_t·k_i: [B, Hv, N, C, C] each."""
    chunk = queries.shape[3]
    if cumulative is not None and cumulative.shape[-1] > 1:
        if group > 1:
            queries, keys = queries.repeat_interleave(group, dim=1), keys.repeat_interleave(group, dim=1)
        rows = torch.stack((queries, keys)) if needs_erasing else queries[None]
        products = _channel_decayed_products(rows, keys, cumulative)
        return products[0], products[1].tril(-1) if needs_erasing else None
    transposed = keys.transpose(-1, -2)
    if cumulative is None:
        decay = None
    else:
        later = torch.ones(chunk, chunk, dtype=torch.bool, device=keys.device).triu(1)
        decay = (cumulative - cumulative.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()

    def weigh(products: Tensor, diagonal: int) -> Tensor:
        if group > 1:
            products = products.repeat_interleave(group, dim=1)
        if decay is not None:
            products = products * decay
        return products if decay is not None and diagonal == 0 else products.tril(diagonal)

    erasing = weigh(keys @ transposed, -1) if needs_erasing else None
    return weigh(queries @ transposed, 0), erasing


def _channel_decayed_products(rows: Tensor, keys: Tensor, cumulative: Tensor) -> Tensor:
    """Σ_c rows_tc keys_ic exp(g_tc - g_ic) for i <= t, else zero: rows [R, B, H, N, C, K] -> [R, B, H, N, C, C].

    Two neighbouring blocks of s tokens meet in one matrix product, their decay split at the first token of the later
    block so that both factors are at most one; s doubles until the chunk is done. Blocks of PAIRWISE tokens at the
    start compare all pairs, which is cheaper than matrix products that small.
    """
    chunk = keys.shape[-2]
    size = min(PAIRWISE, chunk)
    row_blocks, key_blocks, gate_blocks = (x.unflatten(-2, (-1, size)) for x in (rows, keys, cumulative))
    later = torch.ones(size, size, dtype=torch.bool, device=keys.device).triu(1)[..., None]
    differences = gate_blocks[..., :, None, :] - gate_blocks[..., None, :, :]
    decayed = differences.masked_fill(later, -torch.inf).exp() * key_blocks[..., None, :, :]
    products = (decayed @ row_blocks[..., None]).squeeze(-1)
    while size < chunk:
        rows_late = rows.unflatten(-2, (-1, 2, size))[..., 1, :, :]
        keys_early = keys.unflatten(-2, (-1, 2, size))[..., 0, :, :]
        gates = cumulative.unflatten(-2, (-1, 2, size))
        split = gates[..., 1, :1, :]
        rows_late = rows_late * (gates[..., 1, :, :] - split).exp()
        keys_early = keys_early * (split - gates[..., 0, :, :]).exp()
        across = rows_late @ keys_early.transpose(-1, -2)
        early, late = products.unflatten(-3, (-1, 2)).unbind(-3)
        products = torch.cat(
            (torch.cat((early, torch.zeros_like(across)), dim=-1), torch.cat((across, late), dim=-1)), dim=-2
        )
        size *= 2
    return products.squeeze(-3)


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
