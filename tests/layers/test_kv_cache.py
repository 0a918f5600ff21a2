"""Caches of keys and values: what stays in a ring, and that a step reads its position where a CUDA graph can."""

import pytest
import torch

from nas.architecture import Attention
from nas.compile import build_mixer
from nas.context import Context
from nas.layers.kv_cache import append, extend, pairs_in_window, slot_and_length
from nas.mixers.base import Mixer

WIDTH = 32
OPTIONS = {
    "all": Attention(num_heads=2, num_kv_heads=1, head_dim=16),
    "window": Attention(num_heads=2, num_kv_heads=1, head_dim=16, window=5),
    "window and global": Attention(num_heads=2, num_kv_heads=1, head_dim=16, window=5, num_global=3),
}


def tokens(first: int, last: int) -> torch.Tensor:
    """Keys that name their position, [1, T, 1, 1]."""
    return torch.arange(first, last, dtype=torch.float32).reshape(1, -1, 1, 1)


def built(options: Attention, device: str) -> Mixer:
    torch.manual_seed(0)
    with torch.device(device):
        mixer = build_mixer(options, WIDTH)
    assert mixer is not None
    return mixer


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


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_takes_its_position_from_the_clock_alone(options: Attention):
    """As a graph that was recorded at one position and is replayed at others does."""
    mixer, x = built(options, "cpu"), torch.randn(2, 16, WIDTH)
    state, clock = mixer.init_state(2, 16, torch.float32, x.device), torch.zeros((), dtype=torch.int64)
    expected = mixer(x)[0]
    for position in range(16):
        y, state = mixer.step(x[:, position], state, Context(position=0, clock=clock))
        torch.testing.assert_close(y, expected[:, position], rtol=1e-4, atol=1e-5)
        clock += 1


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_reads_nothing_back_from_the_device(options: Attention):
    """The meta device has no numbers that could be read."""
    mixer, x = built(options, "meta"), torch.empty(2, WIDTH, device="meta")
    state = mixer.init_state(2, 16, torch.float32, x.device)
    y, _ = mixer.step(x, state, Context(position=9))
    assert y.shape == x.shape


def test_pairs_are_counted_as_they_are_seen():
    seen = [[1 for key in range(query + 1) if key > query - 4] for query in range(11)]
    for first in (0, 3, 7):
        assert pairs_in_window(11 - first, first, 4) == sum(map(sum, seen[first:]))
