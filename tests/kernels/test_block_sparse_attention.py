"""Attention over listed blocks: implementations compute the definition, its gradients too, and refuse nonsense."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from kernels import block_sparse_attention, use_backend
from kernels._block_sparse_attention import gpu, gpu_arguments, gpu_by_keys, launches, lists, portable
from kernels._block_sparse_attention.options import Options
from kernels.tuning import forget_tables
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-5, torch.float16: 4e-3}

# Tq, Tk, Hq, Hkv, D, Dv, block_size, query_block, S, lists shared by sequences and heads, causal
CASES = {
    "one token": (1, 1, 2, 2, 16, 16, 4, 1, 2, False, True),
    "a list for each query": (31, 63, 4, 2, 16, 16, 16, 1, 3, False, True),
    "blocks of queries": (100, 100, 2, 1, 20, 36, 32, 32, 2, False, True),
    "one list for all heads": (33, 50, 4, 2, 16, 16, 8, 4, 3, True, True),
    "single keys": (15, 40, 4, 1, 16, 16, 1, 1, 7, False, True),
    "odd blocks": (50, 50, 2, 1, 80, 80, 3, 5, 4, False, True),
    "blocks wider than a tile": (30, 130, 2, 1, 16, 16, 100, 7, 2, False, True),
    "in both directions": (63, 40, 2, 1, 16, 16, 20, 16, 2, False, False),
    "wide blocks": (20, 70, 4, 2, 20, 36, 50, 1, 2, True, True),
}


def inputs(case, dtype=torch.float32):
    queries, keys, heads, kv_heads, size, size_v, block, query_block, slots, shared, causal = CASES[case]
    generator = torch.Generator().manual_seed(0)
    batch = 1 if query_block == 1 else 2  # the interpreter takes its time for each list
    q, k, v = (
        torch.randn(batch, tokens, count, width, generator=generator).to(dtype).requires_grad_()
        for tokens, count, width in ((queries, heads, size), (keys, kv_heads, size), (keys, kv_heads, size_v))
    )
    shape = (1 if shared else batch, -(-queries // query_block), 1 if shared else kv_heads, slots)
    blocks = torch.randint(-1, -(-keys // block), shape, generator=generator)
    do = torch.randn(batch, queries, heads, size_v, generator=generator).to(dtype)
    dlse = torch.randn(batch, queries, heads, generator=generator)
    options = {"block_size": block, "query_block": query_block, "causal": causal}
    return (q, k, v), blocks, (do, dlse), options


def run(backend, tensors, blocks, grads, options):
    """Output, log-sum-exp where finite, and gradients from both."""
    with use_backend(backend):
        o, lse = block_sparse_attention(*tensors, blocks, **options, return_lse=True)
    do, dlse = grads
    lse = torch.where(lse.isfinite(), lse, 0.0)
    loss = (o.float() * do.float()).sum() + (lse * dlse).sum()
    return o, lse, *torch.autograd.grad(loss, tensors)


def assert_close(actual, expected, limit):
    if expected.abs().max() > 1e-5:
        assert_close_relative(actual, expected, limit)
    else:
        assert torch.allclose(actual, expected, atol=1e-5)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that tiny inputs have several, and chunks so short that keys have several."""
    for table in launches.TABLES.values():
        for at in table:
            monkeypatch.setitem(table, at, ((16, 16, 4, 1),))
    for table in launches.PAIRS_TABLES.values():
        for at in table:
            monkeypatch.setitem(table, at, ((16, 4, 1),))
    monkeypatch.setattr(lists, "ROWS_PER_CHUNK", 24)
    monkeypatch.setattr(gpu_by_keys, "PART_ELEMENTS", 4000)  # so that lists come in several turns
    forget_tables()
    yield
    forget_tables()


@pytest.mark.usefixtures("small_tiles", "nan_filled_memory")
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_compute_the_definition_and_its_gradients(case):
    given = inputs(case)
    for actual, wanted in zip(run("gpu", *given), run("reference", *given), strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])


@pytest.mark.usefixtures("small_tiles", "nan_filled_memory")
@pytest.mark.parametrize(
    ("case", "outside"),
    [
        ("a list for each query", "lists"),
        ("in both directions", "keys"),
    ],
)
def test_the_other_loop_outside_gives_the_same_output_and_gradients(case, outside, monkeypatch):
    """Than the one that the sizes call for, which the tests above take."""
    monkeypatch.setattr(gpu, "keys_outside", lambda *_: outside == "keys")
    given = inputs(case)
    for actual, wanted in zip(run("gpu", *given), run("reference", *given), strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])


def test_the_outer_loop_goes_over_keys_where_a_block_weighs_more_than_the_rows_that_meet_it():
    sizes = {"lists": 65536, "blocks": 1024, "capacity": 16, "block_bytes": 64 * 256 * 2, "row_bytes": 384 * 2}
    assert launches.keys_outside(rows=16, **sizes), "NSA: 16 heads of one query"
    assert launches.keys_outside(rows=16, **(sizes | {"row_bytes": 512 * 2})), "the gradient of its queries"
    assert not launches.keys_outside(rows=64 * 4, **sizes), "a list for 64 queries"
    assert not launches.keys_outside(rows=16, **(sizes | {"lists": 16})), "a block that nobody shares"


@pytest.mark.parametrize("way", ["_gathered", "_masked"])
@pytest.mark.parametrize("case", CASES)
def test_both_portable_ways_compute_the_definition_with_and_without_the_log_sum(case, way, monkeypatch):
    monkeypatch.setattr(portable, "_gathering_pays", lambda *_: way == "_gathered")
    monkeypatch.setattr(portable, "GATHERED_ELEMENTS", 2000)
    monkeypatch.setattr(portable, "KEPT_ELEMENTS", 3000)
    tensors, blocks, grads, options = inputs(case)
    expected = run("reference", tensors, blocks, grads, options)
    for actual, wanted in zip(run("portable", tensors, blocks, grads, options), expected, strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])
    o = block_sparse_attention(*tensors, blocks, **options)
    assert_close(o, expected[0], LIMITS[torch.float32])
    with use_backend("reference"):
        definition = block_sparse_attention(*tensors, blocks, **options)
    for actual, wanted in zip(*(torch.autograd.grad(y, tensors, grads[0]) for y in (o, definition)), strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", ["a list for each query", "blocks of queries"])
def test_half_precision_stays_close_to_the_definition_in_single(case, backend):
    tensors, blocks, grads, options = inputs(case, torch.float16)
    single = tuple(x.detach().float().requires_grad_() for x in tensors)
    expected = run("reference", single, blocks, grads, options)
    actual = run(backend, tensors, blocks, grads, options)
    assert [one.dtype for one in actual] == [torch.float16, torch.float32, *[torch.float16] * 3]
    for ours, wanted in zip(actual, expected, strict=True):
        assert_close_relative(ours, wanted, LIMITS[torch.float16])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_all_blocks_are_full_attention_and_the_own_block_alone_is_local_attention(backend):
    generator = torch.Generator().manual_seed(1)
    leaves = q, k, v = [torch.randn(1, 40, heads, 16, generator=generator).requires_grad_() for heads in (4, 2, 2)]
    do = torch.randn(1, 40, 4, 16, generator=generator)
    everything, own = torch.arange(3).expand(1, 5, 1, 3), (torch.arange(0, 40, 8) // 16).view(1, 5, 1, 1)
    position = torch.arange(40)
    causal = position <= position.unsqueeze(1)
    local = causal & (position // 16 == position.unsqueeze(1) // 16)
    for blocks, mask in ((everything, causal), (own, local)):
        with use_backend(backend):
            actual = block_sparse_attention(q, k, v, blocks, block_size=16, query_block=8)
        rows, keys, values = (x.transpose(1, 2) for x in (q, k, v))
        expected = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, enable_gqa=True).transpose(1, 2)
        gradients = [torch.autograd.grad(o, leaves, do) for o in (actual, expected)]
        for ours, theirs in zip((actual, *gradients[0]), (expected, *gradients[1]), strict=True):
            assert_close_relative(ours, theirs, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_order_repetition_and_width_of_integers_do_not_matter(backend):
    tensors, blocks, _, options = inputs("a list for each query")
    again = torch.cat((blocks.flip(-1), blocks[..., :1], torch.full_like(blocks, -1)), dim=-1).int()
    with use_backend(backend):
        whole = block_sparse_attention(*tensors, blocks, **options)
        assert_close_relative(block_sparse_attention(*tensors, again, **options), whole, 1e-6)


@pytest.mark.parametrize("backend", ["reference", "portable", "gpu"])
def test_a_query_without_a_key_gets_zeros_a_log_sum_of_minus_infinity_and_no_gradient(backend):
    tensors, blocks, (do, _), options = inputs("a list for each query")
    blocks[:, 5] = -1
    with use_backend(backend):
        o, lse = block_sparse_attention(*tensors, blocks, **options, return_lse=True)
    dq, dk, dv = torch.autograd.grad(o, tensors, do)
    assert o[:, 5].eq(0).all() and dq[:, 5].eq(0).all() and lse[:, 5].eq(float("-inf")).all()
    assert all(torch.isfinite(x).all() for x in (o, dq, dk, dv))


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_two_halves_of_the_lists_combine_by_their_log_sums(backend):
    tensors, _, _, options = inputs("blocks of queries")
    every = torch.arange(4).expand(1, 4, 1, 4)
    with use_backend(backend):
        whole = block_sparse_attention(*tensors, every, **options)
        halves = [
            block_sparse_attention(*tensors, every[..., part], **options, return_lse=True)
            for part in (slice(0, 1), slice(1, 4))
        ]
    weights = torch.stack([lse for _, lse in halves]).softmax(0).unsqueeze(-1)
    assert_close_relative(sum(w * o for w, (o, _) in zip(weights, halves, strict=True)), whole, 1e-5)


def test_blocks_that_do_not_exist_are_skipped_by_the_gpu_and_refused_elsewhere():
    tensors, blocks, _, options = inputs("a list for each query")
    outside, none = blocks.clone(), blocks.clone()
    outside[:, 7, :, 0], none[:, 7, :, 0] = 99, -1
    with use_backend("gpu"):
        one, other = (block_sparse_attention(*tensors, given, **options) for given in (outside, none))
    assert torch.equal(one, other)
    for backend in ("reference", "portable"):
        with use_backend(backend), pytest.raises(ValueError, match="0 to 3, or be -1 to fill up, but got -1 to 99"):
            block_sparse_attention(*tensors, outside, **options)


def test_a_block_may_go_far_beyond_the_tokens():
    tensors, _, _, options = inputs("one token")
    huge = options | {"block_size": 2**40, "query_block": 2**40}
    with use_backend("gpu"):
        o = block_sparse_attention(*tensors, torch.zeros(1, 1, 1, 1, dtype=torch.int64), **huge)
    assert_close_relative(o, tensors[2], LIMITS[torch.float32])


@pytest.mark.parametrize("way", ["gpu", "_gathered", "_masked"])
def test_strided_inputs_and_gradients_of_stride_zero_are_read_where_they_lie(way, monkeypatch):
    monkeypatch.setattr(portable, "_gathering_pays", lambda *_: way == "_gathered")
    backend = "gpu" if way == "gpu" else "portable"
    generator = torch.Generator().manual_seed(3)
    fused = torch.randn(2, 30, 4, 20, generator=generator)
    q, k, v = fused.split((2, 1, 1), dim=2)
    blocks = torch.randint(0, 4, (2, 30, 1, 2), generator=generator)
    assert gpu_arguments.side_by_side(q) is q and gpu_arguments.readable(k) is k
    blocks[..., 0] = 0  # every query sees a key, whose log-sum has a derivative
    grads = (torch.ones(()).expand(2, 30, 2, 20), torch.ones(()).expand(2, 30, 2))
    for strided in ((q, k, v), (q.flip(1), k, v.transpose(1, 3).contiguous().transpose(1, 3))):
        leaves, found = tuple(x.detach().requires_grad_() for x in strided), []
        for name in (backend, "reference"):
            with use_backend(name):
                outputs = block_sparse_attention(*leaves, blocks, block_size=8, return_lse=True)
            found.append((*outputs, *torch.autograd.grad(outputs, leaves, grads)))
        for actual, wanted in zip(*found, strict=True):
            assert_close_relative(actual, wanted, LIMITS[torch.float32])


def test_gradients_of_the_kernels_repeat_bit_for_bit():
    given = inputs("single keys")
    assert all(torch.equal(a, b) for a, b in zip(run("gpu", *given), run("gpu", *given), strict=True))


def test_every_key_finds_the_lists_that_name_it_in_chunks_that_cover_them(monkeypatch):
    monkeypatch.setattr(lists, "ROWS_PER_CHUNK", 4)
    blocks = torch.tensor([[0, 2, 0, -1], [1, 0, -1, -1], [0, 1, 2, 3], [3, 3, 0, 1]]).view(1, 4, 1, 4)
    tidied = lists.tidy(blocks, 8, 64, Options(16, 2, 1.0, False))
    assert tidied.slots.flatten().tolist() == [3, 2, 4, 4]
    inverse = lists.invert(tidied.entries, 64, 16, rows_per_list=2)
    starts = inverse.starts.tolist()
    members = [sorted(inverse.members[a:b].tolist()) for a, b in pairwise(starts)]
    assert members == [[0, 1, 2, 3], [1, 2, 3], [0, 2], [2, 3]]
    assert inverse.chunk == 2
    assert inverse.row_of_chunk.tolist()[:6] == [0, 0, 1, 1, 2, 3]
    assert set(inverse.row_of_chunk.tolist()[6:]) == {4}
    assert inverse.partial_starts.tolist() == [0, 2, 4, 4, 4]
    places = lists.places_of(inverse, tidied.entries)
    named = tidied.entries >= 0
    assert places[~named].eq(-1).all() and sorted(places[named].tolist()) == list(range(11))
    lists_of_entries = torch.arange(4).view(1, 4, 1, 1).expand_as(places)
    assert torch.equal(inverse.members[places[named].long()].long(), lists_of_entries[named])


def test_small_blocks_are_run_together_with_a_bit_for_each():
    blocks = torch.tensor([[0, 5, 5, 31], [32, 1, -1, 0]]).view(1, 2, 1, 4)
    tidied = lists.tidy(blocks, 2, 64, Options(1, 1, 1.0, False))
    inverse = lists.invert(tidied.entries, 64, 1, rows_per_list=1)
    assert inverse.starts.tolist() == [0, 2, 3]
    assert inverse.members[:3].tolist() == [0, 1, 1]
    assert [bits % 2**32 for bits in inverse.bits[:3].tolist()] == [1 + 2**5 + 2**31, 1 + 2, 1]


def test_the_operators_keep_the_rules_of_torch_library():
    tensors, blocks, grads, _ = inputs("one list for all heads")
    tensors = [x.detach()[:1, :tokens].requires_grad_() for x, tokens in zip(tensors, (9, 12, 12), strict=True)]
    blocks, grads = blocks[:, :3].clamp(max=1), [x[:1, :9] for x in grads]
    blocks[:, :, :, 0] = 0  # every query sees a key: a log-sum of -inf has no derivative to compare
    torch.library.opcheck(gpu.sparse_forward, (*tensors, blocks, 8, 4, 0.25, True))
    detached = [x.detach() for x in tensors]
    kept = gpu.sparse_forward(*detached, blocks, 8, 4, 0.25, True)
    torch.library.opcheck(portable._checked, (blocks, 8))
    given = (*grads, *detached, blocks, *kept, 8, 4, 0.25, True)
    torch.library.opcheck(gpu.sparse_backward, given)


GOOD = {"q": (2, 5, 2, 16), "k": (2, 5, 1, 16), "v": (2, 5, 1, 16), "blocks": (2, 5, 1, 2), "block_size": 4}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": (2, 5, 16)}, r"q must be \[B, T, H, D\]"),
        ({"k": (2, 5, 1, 32)}, "k must have the head size 16 of q"),
        ({"k": (1, 5, 1, 16), "v": (1, 5, 1, 16)}, "k must have the 2 sequences of q"),
        ({"v": (2, 6, 1, 16)}, "v must have the sequences, tokens and heads of k"),
        ({"q": (2, 5, 3, 16), "k": (2, 5, 2, 16), "v": (2, 5, 2, 16)}, "a multiple of the 2 heads of k"),
        ({"v": (2, 5, 1, 12)}, "size of v must be a multiple of 4 from 16 to 256, but got 12"),
        ({"k": (2, 4, 1, 16), "v": (2, 4, 1, 16)}, "at most the 4 tokens of k when causal"),
        ({"block_size": 2.0}, r"block_size must be a whole number, but got 2\.0"),
        ({"block_size": 0}, "block_size must be at least 1, but got 0"),
        ({"query_block": -1}, "query_block must be at least 1, but got -1"),
        ({"blocks": (2, 4, 1, 2)}, r"blocks must be int32 or int64 \[B or 1, .* = \[2 or 1, 5, 1 or 1, S\]"),
        ({"blocks": (2, 5, 1, 0)}, "blocks must be int32 or int64"),
        ({"blocks": (2, 5, 1, 2), "query_block": 2}, r"= \[2 or 1, 3, 1 or 1, S\]"),
    ],
)
def test_shapes_and_options_that_do_not_belong_together_are_refused(changed, message):
    given = GOOD | changed
    tensors = [torch.zeros(given.pop(name)) for name in ("q", "k", "v")]
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*tensors, torch.zeros(given.pop("blocks"), dtype=torch.int64), **given)


def test_mixed_and_unknown_types_are_refused():
    q, blocks = torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"k must have the type and device of q, torch\.float32 on cpu"):
        block_sparse_attention(q, q.half(), q, blocks, block_size=2)
    with pytest.raises(ValueError, match="q must be float32, float16 or bfloat16"):
        block_sparse_attention(q.double(), q.double(), q.double(), blocks, block_size=2)
    with pytest.raises(ValueError, match="blocks must be int32 or int64"):
        block_sparse_attention(q, q, q, blocks.float(), block_size=2)
    with pytest.raises(ValueError, match="blocks must be a tensor, but got None"):
        block_sparse_attention(q, q, q, None, block_size=2)
    with pytest.raises(ValueError, match="scale must be a finite number, but got nan"):
        block_sparse_attention(q, q, q, blocks, block_size=2, scale=float("nan"))
    with pytest.raises(ValueError, match="causal must be True or False, but got None"):
        block_sparse_attention(q, q, q, blocks, block_size=2, causal=None)
