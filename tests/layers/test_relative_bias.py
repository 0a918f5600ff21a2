"""Biases of scores by distance are those of T5, and no more than a band of scores is formed for them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention_step
from nas.architecture import ArchitectureError, Attention
from nas.architecture.positions import first_distances
from nas.context import Context
from nas.layers.relative_bias import RelativeBias
from nas.mixers.attention import AttentionMixer
from tests.alike import copy, randomise
from tests.test_parity import assert_same

HEADS, KV_HEADS, SIZE = 4, 2, 16


@pytest.mark.parametrize(("buckets", "largest"), [(32, 128), (32, 256), (6, 9), (5, 9), (2, 5), (16, 4096)])
def test_buckets_are_those_of_t5(buckets: int, largest: int):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(3 * largest)
    theirs = T5Attention._relative_position_bucket(-distances, False, buckets, largest)
    first = torch.tensor(first_distances(buckets, largest))
    assert torch.equal((distances.unsqueeze(1) >= first).sum(1) - 1, theirs)


def test_attention_with_biases_is_that_of_t5():
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    tokens, width = 29, 32
    config = T5Config(
        d_model=width, d_kv=SIZE, num_heads=HEADS, relative_attention_num_buckets=8, relative_attention_max_distance=20,
        is_decoder=True,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0, is_causal=True).eval()
    randomise(theirs)
    options = Attention(
        num_heads=HEADS, head_dim=SIZE, score_scale=SIZE**0.5, position="relative", relative_buckets=8,
        relative_distance=20,
    )  # fmt: skip
    ours = AttentionMixer(options, width)
    weights = dict(theirs.named_parameters())
    biases = weights["relative_attention_bias.weight"]
    qkv = torch.cat([weights[f"{name}.weight"] for name in "qkv"])
    copy(ours, {"qkv.linear.weight": qkv, "bias.table": biases.t(), "out_proj.weight": weights["o.weight"]})
    x = torch.randn(2, tokens, width, requires_grad=True)
    unseen = torch.full((tokens, tokens), torch.finfo().min).triu(1).expand(2, 1, -1, -1)
    expected = theirs(x, mask=unseen)[0]
    found = ours(x)[0]
    assert_same(found, expected)
    assert ours.bias is not None
    readout = torch.randn_like(x)
    of_theirs = torch.autograd.grad((expected * readout).sum(), (x, biases))
    of_ours = torch.autograd.grad((found * readout).sum(), (x, ours.bias.table))
    assert_same(of_ours[0], of_theirs[0])
    assert_same(of_ours[1], of_theirs[1].t())
    state = ours.init_state(2, tokens, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for position in range(tokens):
            y, state = ours.step(x[:, position], state, Context(position=position))
            assert_same(y, expected[:, position])


def written_out(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int | None, softcap: float | None, sink: Tensor | None
) -> Tensor:
    """All scores at once; bias [H, R + 1] by distance."""
    distance = torch.arange(k.shape[1] - q.shape[1], k.shape[1]).unsqueeze(1) - torch.arange(k.shape[1])
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=2) for part in (k, v))
    scores = 0.3 * torch.einsum("bihd,bjhd->bhij", q, k)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores + bias[:, distance.clamp(0, bias.shape[1] - 1)]
    unseen = (distance < 0) | (distance >= (window or k.shape[1]))
    scores = scores.masked_fill(unseen, -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink[:, None, None].expand(*scores.shape[:3], 1)), -1)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1)[..., : k.shape[1]], v)


@pytest.mark.parametrize(
    ("queries", "keys", "options"),
    [
        (150, 150, {}),  # the last bucket begins at 113
        (150, 150, {"window": 130, "softcap": 1.5, "sink": True}),
        (70, 150, {"window": 30}),
        (9, 150, {"sink": True}),
        (1, 1, {}),
    ],
)
def test_near_and_far_keys_are_one_softmax(queries: int, keys: int, options: dict[str, Any]):
    torch.manual_seed(0)
    biases = RelativeBias(HEADS, 32, 128, 1)
    q = torch.randn(1, queries, HEADS, SIZE, requires_grad=True)
    k, v = (torch.randn(1, keys, KV_HEADS, size, requires_grad=True) for size in (SIZE, 20))
    sink = torch.randn(HEADS, requires_grad=True) if options.get("sink") else None
    given = {"window": options.get("window"), "softcap": options.get("softcap"), "sink": sink}
    found = biases.attend(q, k, v, scale=0.3, **given)
    expected = written_out(q, k, v, biases.by_distance(), **given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    readout = torch.randn_like(found)
    leaves = [q, k, v, biases.table, *([] if sink is None else [sink])]
    gradients = [torch.autograd.grad((o * readout).sum(), leaves) for o in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_slots_of_a_ring_have_the_distances_of_their_tokens():
    torch.manual_seed(0)
    biases, window, last = RelativeBias(HEADS, 8, 20, 1), 12, 40
    q, k, v = (torch.randn(1, last + 1, heads, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    with torch.no_grad():
        expected = biases.attend(q, k, v, scale=0.3, window=window, softcap=None, sink=None)[:, -1]
        tokens = torch.arange(last + 1 - window, last + 1)
        slots = torch.empty_like(tokens).scatter(0, tokens % window, tokens)
        bias = biases.of_slots(torch.tensor(last), window).unsqueeze(0)
        found = attention_step(q[:, -1], k[:, slots], v[:, slots], window, scale=0.3, bias=bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"relative_distance": 10}, "take fewer buckets or a larger distance"),
        ({"window": 9, "num_global": 2}, "position: relative goes without num_global"),
        ({"relative_buckets": 1}, "relative_buckets must be at least 2, but got 1"),
    ],
)
def test_what_has_no_buckets_is_refused(options: dict[str, Any], says: str):
    with pytest.raises(ArchitectureError, match=says):
        Attention(num_heads=2, position="relative", **options)
