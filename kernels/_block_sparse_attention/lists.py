"""What the kernels are told about the lists: tidied for the queries, inverted for the keys, all on the device.

Inverted lists say for each run of keys which lists name it, so that the gradients of keys are sums in a fixed order,
without atomics. Blocks of fewer than `SMALLEST_RUN` keys are run together, and a bit for each block says whether a list
names it. Long inverted lists, such as that of a block that everybody sees, are cut into chunks that run side by side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels._block_sparse_attention.options import Options

SMALLEST_RUN = 16  # keys; what a matrix instruction takes
JOINED_RUN = 32  # keys, where blocks are smaller
ROWS_PER_CHUNK = 32768  # queries times heads


@dataclass(frozen=True)
class Lists:
    """entries [B', Nq, H', S] int32: blocks in order, -1 to be skipped; slots [B', Nq, H'] int32: how many count."""

    entries: Tensor
    slots: Tensor


@dataclass(frozen=True)
class Inverse:
    """For each run of keys, in rows [B' H' runs], the lists that name it: `members` from `starts[row]` on.

    members, bits [E] int32: a list, and which of the run's blocks it names. Row `row_of_chunk[c]` [C] int32 is that of
    chunk c, the number of rows for a chunk that does not exist; `chunk_starts`, `partial_starts` [rows + 1] int32 count
    chunks, and those chunks whose sums are added to others', before each row.
    """

    members: Tensor
    bits: Tensor
    starts: Tensor
    row_of_chunk: Tensor
    chunk_starts: Tensor
    partial_starts: Tensor
    order: Tensor  # [E] int64: the entry that each member comes from
    rows: int
    runs: int
    chunk: int  # members
    partials: int  # at most


def blocks_in_a_run(block_size: int) -> int:
    return 1 if block_size >= SMALLEST_RUN else JOINED_RUN // block_size


def tidy(blocks: Tensor, queries: int, keys: int, options: Options) -> Lists:
    """The lists in order, without blocks that do not exist, that lie ahead of all their queries, or that repeat."""
    block_size, query_block = options.block_size, options.query_block
    count = -(-keys // block_size)
    exists = (blocks >= 0) & (blocks < count)
    if options.causal:
        ends = torch.arange(1, blocks.shape[1] + 1, device=blocks.device) * query_block
        last = ends.clamp(max=queries) - 1 + keys - queries
        exists &= blocks <= (last // block_size).view(-1, 1, 1)
    ordered = torch.where(exists, blocks, count).to(torch.int32).sort(dim=-1).values
    slots = (ordered < count).sum(-1, dtype=torch.int32)
    repeats = torch.zeros_like(exists)
    repeats[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return Lists(ordered.masked_fill(repeats | (ordered >= count), -1), slots)


def invert(entries: Tensor, keys: int, block_size: int, rows_per_list: int) -> Inverse:
    """Of tidy lists [B', Nq, H', S]; `rows_per_list`: queries times heads that read one list."""
    joined = blocks_in_a_run(block_size)
    batch, count, heads, _ = entries.shape
    device = entries.device
    runs = -(-keys // (block_size * joined))
    total = batch * heads * runs
    run, named = entries // joined, entries >= 0
    bits = torch.bitwise_left_shift(torch.ones_like(entries), entries.clamp(min=0) % joined)
    if joined > 1:
        run, named, bits = _one_entry_a_run(run, named, bits)
    head = torch.arange(batch, device=device).view(-1, 1, 1, 1) * heads + torch.arange(heads, device=device).view(-1, 1)
    row = torch.where(named, head * runs + run, total).to(torch.int32).flatten()
    row, order = row.sort(stable=True)
    member = torch.arange(count, device=device, dtype=torch.int32).view(1, -1, 1, 1).expand_as(entries).flatten()
    starts = torch.searchsorted(row, torch.arange(total + 1, device=device, dtype=torch.int32)).to(torch.int32)

    chunk = max(1, ROWS_PER_CHUNK // rows_per_list)
    chunks = ((starts.diff() + chunk - 1) // chunk).clamp(min=1)
    partial = torch.where(chunks > 1, chunks, 0)
    zero = chunks.new_zeros(1)
    chunk_starts, partial_starts = (torch.cat((zero, one.cumsum(0))).to(torch.int32) for one in (chunks, partial))
    most_chunks = total + row.numel() // chunk
    every = torch.arange(most_chunks, device=device, dtype=torch.int32)
    return Inverse(
        members=member[order],
        bits=bits.flatten()[order],
        starts=starts,
        row_of_chunk=torch.searchsorted(chunk_starts[1:], every, right=True).to(torch.int32),
        chunk_starts=chunk_starts,
        partial_starts=partial_starts,
        order=order,
        rows=total,
        runs=runs,
        chunk=chunk,
        partials=2 * (row.numel() // chunk),  # a row of more than one chunk has more members than half of its chunks
    )


def places_of(inverse: Inverse, entries: Tensor) -> Tensor:
    """Where each entry of the lists lies among the members, int32 in the shape of `entries`; -1 for one to be skipped.
    Blocks must not be run together."""
    number = torch.arange(inverse.order.shape[0], device=entries.device, dtype=torch.int32)
    places = torch.empty_like(number).scatter_(0, inverse.order, number).view(entries.shape)
    return torch.where(entries >= 0, places, -1)


def _one_entry_a_run(run: Tensor, named: Tensor, bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of the same run, which lie side by side but for skipped ones, become the first of them with all bits."""
    # A skipped entry repeats the one before it, or lies behind all others.
    known = torch.where(named, run, -1).cummax(dim=-1).values
    first = named.clone()
    first[..., 1:] &= known[..., 1:] != known[..., :-1]
    place = (first.cumsum(-1) - 1).clamp(min=0)
    together = torch.zeros_like(bits).scatter_add(-1, place, torch.where(named, bits, 0))
    return run, first, together.gather(-1, place)
