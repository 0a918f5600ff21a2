"""Attention: every implementation computes the definition, its gradients too, and refuses what has no meaning."""

import pytest
import torch
import torch.nn.functional as F

from kernels._attention import (
    attention,
    attention_step,
    gpu_decode,
    gpu_memory,
    gpu_sequence,
    portable,
    portable_chunks,
)
from kernels.backend import use_backend
from tests.kernels.closeness import assert_close_relative

LIMITS = {torch.float32: 1e-5, torch.float16: 3e-3}

# Tq, Tk, Hq, Hkv, D, window, causal
CASES = {
    "one token": (1, 1, 2, 2, 16, None, True),
    "grouped queries": (15, 15, 4, 1, 20, None, True),
    "several tiles": (63, 63, 2, 2, 64, None, True),
    "padded head size": (33, 33, 2, 1, 80, None, True),
    "queries are the last positions": (15, 100, 2, 1, 16, None, True),
    "one query at the end": (1, 63, 4, 1, 16, None, True),
    "window": (63, 63, 2, 1, 16, 17, True),
    "window of one": (15, 15, 2, 1, 16, 1, True),
    "window and earlier keys": (50, 100, 2, 1, 16, 40, True),
    "more queries than keys": (33, 20, 2, 1, 16, None, False),
}


def inputs(case, dtype=torch.float32, batch=None):
    queries, keys, heads, kv_heads, size, window, causal = CASES[case]
    batch = batch or (2 if queries * keys < 2000 else 1)
    generator = torch.Generator().manual_seed(0)
    q, k, v, do = (
        torch.randn(batch, tokens, count, size, generator=generator).to(dtype)
        for tokens, count in ((queries, heads), (keys, kv_heads), (keys, kv_heads), (queries, heads))
    )
    return (q, k, v), do, {"causal": causal, "window": window}


def output_and_gradients(tensors, do, options, backend):
    tensors = [x.detach().requires_grad_() for x in tensors]
    with use_backend(backend):
        o = attention(*tensors, **options)
    return o, *torch.autograd.grad(o, tensors, do)


def assert_close(actual, expected, limit):
    """Gradients that are zero by cancellation, where a query sees one key, are compared in absolute terms."""
    if expected.abs().max() > 1e-5:
        assert_close_relative(actual, expected, limit)
    else:
        assert torch.allclose(actual, expected, atol=1e-5)


def by_torch(q, k, v, do, mask):
    """Torch's attention under a mask [Tq, Tk], with heads repeated, in float32."""
    q, k, v = (x.detach().float().requires_grad_() for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    rows, cols, values = (x.repeat_interleave(n, 2).transpose(1, 2) for x, n in ((q, 1), (k, group), (v, group)))
    o = F.scaled_dot_product_attention(rows, cols, values, attn_mask=mask).transpose(1, 2)
    return o, *torch.autograd.grad(o, (q, k, v), do.float())


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_the_reference(case, backend, small_attention_tiles, nan_filled_memory):
    tensors, do, options = inputs(case)
    expected = output_and_gradients(tensors, do, options, "reference")
    for actual, wanted in zip(output_and_gradients(tensors, do, options, backend), expected, strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("case", ["grouped queries", "padded head size"])
def test_half_precision_stays_close_to_the_reference_in_single(case, backend, small_attention_tiles, nan_filled_memory):
    tensors, do, options = inputs(case, torch.float16)
    single = [x.float() for x in tensors]
    expected = output_and_gradients(single, do.float(), options, "reference")
    for actual, wanted in zip(output_and_gradients(tensors, do, options, backend), expected, strict=True):
        assert actual.dtype == torch.float16
        assert_close_relative(actual, wanted, LIMITS[torch.float16])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("window", [None, 20])
def test_default_tiles_agree_with_torch_attention(backend, window, nan_filled_memory):
    generator = torch.Generator().manual_seed(1)
    shapes = ((130, 2), (130, 1), (130, 1), (130, 2))
    q, k, v, do = (torch.randn(1, tokens, heads, 64, generator=generator) for tokens, heads in shapes)
    distance = torch.arange(130).unsqueeze(1) - torch.arange(130)
    mask = (distance >= 0) & (distance < (window or 130))
    actual = output_and_gradients((q, k, v), do, {"window": window}, backend)
    for ours, theirs in zip(actual, by_torch(q, k, v, do, mask), strict=True):
        assert_close_relative(ours, theirs, LIMITS[torch.float32])


@pytest.mark.parametrize("extra_keys", [0, 5, 200])
@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_short_window_over_a_long_sequence_is_computed_in_strips(window, extra_keys, monkeypatch):
    monkeypatch.setattr(portable, "SMALLEST_STRIP", 8)
    generator = torch.Generator().manual_seed(2)
    queries, keys = 530, 530 + extra_keys
    shapes = ((queries, 2), (keys, 1), (keys, 1), (queries, 2))
    q, k, v, do = (torch.randn(2, tokens, heads, 16, generator=generator) for tokens, heads in shapes)
    monkeypatch.setattr(portable, "_masked", None)
    actual = output_and_gradients((q, k, v), do, {"window": window}, "portable")
    distance = torch.arange(extra_keys, keys).unsqueeze(1) - torch.arange(keys)
    expected = by_torch(q, k, v, do, (distance >= 0) & (distance < window))
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, LIMITS[torch.float32])


def test_a_window_counts_the_query_itself():
    q = k = torch.zeros(1, 4, 1, 16)
    v = torch.tensor([8.0, 4.0, 2.0, 6.0]).view(1, 4, 1, 1).expand(1, 4, 1, 16)
    assert attention(q, k, v, window=2)[0, :, 0, 0].tolist() == [8.0, 6.0, 3.0, 4.0]
    assert attention(q, k, v, window=1)[0, :, 0, 0].tolist() == [8.0, 4.0, 2.0, 6.0]


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_a_scale_may_turn_scores_round_or_make_them_equal(scale, backend):
    tensors, do, _ = inputs("grouped queries")
    expected = output_and_gradients(tensors, do, {"scale": scale}, "reference")
    for actual, wanted in zip(output_and_gradients(tensors, do, {"scale": scale}, backend), expected, strict=True):
        assert_close(actual, wanted, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_reading_a_prompt_in_chunks_changes_nothing(backend):
    (q, k, v), _, _ = inputs("several tiles")
    with use_backend(backend):
        whole = attention(q, k, v, window=30)
        chunks = [attention(q[:, a:b], k[:, :b], v[:, :b], window=30) for a, b in ((0, 20), (20, 21), (21, 63))]
    assert_close_relative(torch.cat(chunks, dim=1), whole, LIMITS[torch.float32])


def test_slices_of_a_fused_projection_are_read_where_they_lie(nan_filled_memory):
    fused = torch.randn(2, 15, 4, 20, generator=torch.Generator().manual_seed(3))
    q, k, v = fused.split((2, 1, 1), dim=2)
    assert gpu_memory.read_by_heads(q) is q
    for strided in ((q, k, v), (q.transpose(1, 2).contiguous().transpose(1, 2), k, v), (q.flip(1), k, v)):
        copies = [x.clone(memory_format=torch.contiguous_format) for x in strided]
        do = torch.randn(2, 20, 15, 2).permute(0, 2, 3, 1)
        for actual, wanted in zip(
            output_and_gradients(strided, do, {}, "gpu"), output_and_gradients(copies, do, {}, "reference"), strict=True
        ):
            assert_close_relative(actual, wanted, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "slots", "length", "kept"),
    [
        *((4, 1, 16, 40, 33, kept) for kept in (None, 0.1, 0.8, 0.0)),
        *((4, 4, 20, 10, 1, kept) for kept in (None, 0.8)),
        *((20, 1, 80, 600, 590, kept) for kept in (None, 0.1)),  # several splits
    ],
)
def test_a_step_is_that_of_the_reference(heads, kv_heads, size, slots, length, kept, backend, nan_filled_memory):
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(2, heads, size, generator=generator)
    k, v = torch.randn(2, 2, slots, kv_heads, size, generator=generator)
    # What lies in slots that are not filled must not matter.
    k[:, length:], v[:, length:] = float("nan"), float("nan")
    keep = None if kept is None else torch.rand(2, kv_heads, slots, generator=generator) < kept
    with use_backend("reference"):
        expected = attention_step(q, k.nan_to_num(), v.nan_to_num(), length, keep=keep)
    with use_backend(backend):
        actual = attention_step(q, k, v, length, keep=keep)
    assert_close_relative(actual, expected, LIMITS[torch.float32])


@pytest.mark.parametrize("backend", ["portable", "gpu"])
def test_a_step_is_the_last_row_of_attention_in_any_order_of_slots(backend, nan_filled_memory):
    (q, k, v), _, _ = inputs("grouped queries")
    order = torch.randperm(15, generator=torch.Generator().manual_seed(5))
    with use_backend(backend):
        o = attention_step(q[:, -1], k[:, order], v[:, order], 15)
    assert_close_relative(o, attention(q, k, v)[:, -1], LIMITS[torch.float32])


def test_gradients_of_the_kernels_repeat_bit_for_bit():
    tensors, do, options = inputs("grouped queries")
    first, second = (output_and_gradients(tensors, do, options, "gpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_operators_keep_the_rules_of_torch_library():
    (q, k, v), do, _ = inputs("grouped queries", batch=1)
    arguments = [x.requires_grad_() for x in (q, k, v)] + [torch.zeros(4, requires_grad=True)]
    arguments.append(torch.zeros(1, 4, 15, requires_grad=True))
    options = (0.25, True, 7, 2, 0, 3.0)
    torch.library.opcheck(gpu_sequence.attention_forward, (*arguments, *options))
    torch.library.opcheck(portable_chunks.attention_in_chunks, (*arguments, *options))
    q, k, v, sink, forgotten = (x.detach() for x in arguments)
    o, lse = gpu_sequence.attention_forward(q, k, v, sink, forgotten, *options)
    torch.library.opcheck(
        gpu_sequence.attention_backward, (do, torch.ones_like(lse), q, k, v, o, lse, forgotten, *options)
    )
    decode = (q[:, 0], k, v, None, None, None, torch.tensor(9), None, 15, 0.25, 0.0, 20)
    torch.library.opcheck(gpu_decode.attention_decode, decode)
