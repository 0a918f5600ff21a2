"""Caches of keys and values: what stays in a ring, and what is written."""

import pytest
import torch

from nas.context import Context
from nas.layers.kv_cache import append, extend, pairs_in_window, slot_and_length, write_if


def tokens(first: int, last: int) -> torch.Tensor:
    """Keys that name their position, [1, T, 1, 1]."""
    return torch.arange(first, last, dtype=torch.float32).reshape(1, -1, 1, 1)


@pytest.mark.parametrize("chunks", [[1] * 20, [20], [2, 9, 1, 1, 7], [9, 11], [4, 4, 4, 8]])
@pytest.mark.parametrize("num_global", [0, 3])
def test_a_ring_holds_the_global_tokens_and_the_last_of_the_others(num_global: int, chunks: list[int]):
    ring, position = 5, 0
    cache = torch.full((1, num_global + ring, 1, 1), -1.0)
    for size in chunks:
        if size == 1:
            slot, length = slot_and_length(Context(position), cache.shape[1], num_global, cache.device)
            at_hand = append(cache, tokens(position, position + 1)[:, 0], slot).flatten()
            assert int(length) == position + 1
            at_hand = at_hand[: int(length)].sort().values
        else:
            at_hand = extend(cache, tokens(position, position + size), position, num_global).flatten()
        position += size
        # What the chunk's first token may see, then the chunk.
        seen = [p for p in range(position) if p < num_global or p > position - size - ring]
        assert at_hand.tolist()[-len(seen) :] == seen
        held = [p for p in range(position) if p < num_global or p >= position - ring]
        assert sorted(cache.flatten().tolist())[-len(held) :] == held


def test_pairs_are_counted_as_they_are_seen():
    seen = [[1 for key in range(query + 1) if key > query - 4] for query in range(11)]
    for first in (0, 3, 7):
        assert pairs_in_window(11 - first, first, 4) == sum(map(sum, seen[first:]))


def test_what_is_not_to_be_written_leaves_the_cache_as_it_was_wherever_it_would_go():
    cache = tokens(0, 4)
    for slot in (-3, 2, 9):
        write_if(torch.tensor(False), cache, tokens(7, 8)[:, 0], torch.tensor(slot))
    assert cache.flatten().tolist() == [0, 1, 2, 3]
    write_if(torch.tensor(True), cache, tokens(7, 8)[:, 0], torch.tensor(2))
    assert cache.flatten().tolist() == [0, 1, 7, 3]
