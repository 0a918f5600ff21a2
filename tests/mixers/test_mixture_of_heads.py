"""Attention whose heads are picked and weighted by the token (MoH)."""

from itertools import product

import pytest
import torch
from torch import Tensor

from nas.architecture import Architecture, Attention, Block, Glu, Scale, canonical_id, resized
from nas.context import Context
from nas.mixers.attention import AttentionMixer
from tests.test_attention_parity import assert_same_attention, dense
from tests.test_parity import BATCH, D_MODEL, TOKENS, randomise


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


@pytest.mark.parametrize(("share", "always", "counts"), [(0.75, 0.25, (1, 3)), (0.5, 0.0, (0, 2)), (0.1, 0.5, (2, 3))])
def test_heads_are_picked_and_weighted_by_the_token(x: Tensor, share: float, always: float, counts: tuple[int, int]):
    options = Attention(num_heads=4, head_dim=16, head_share=share, always_share=always)
    assert (options.always_heads, options.active_heads) == counts
    ours = AttentionMixer(options, D_MODEL).eval()
    randomise(ours)
    x.requires_grad_()
    q, k, v = ours.qkv(x, Context())
    o = dense(q, k, v, torch.ones(TOKENS, TOKENS, dtype=torch.bool))
    assert ours.router is not None
    scores = ours.router.proj(x)
    weights = torch.zeros(BATCH, TOKENS, 4)
    fixed, active = counts
    for b, t in product(range(BATCH), range(TOKENS)):
        row = scores[b, t]
        shares = row[fixed:4].exp() / row[fixed:4].exp().sum()
        best = sorted(range(4 - fixed), key=lambda i: -shares[i].item())[: active - fixed]
        total = sum(shares[i] for i in best)
        kinds = row[4:].exp() / row[4:].exp().sum() * 2 if fixed else (None, 1.0)
        for i in best:
            weights[b, t, fixed + i] = kinds[1] * (active - fixed) * shares[i] / total
        for i in range(fixed):
            weights[b, t, i] = kinds[0] * fixed * row[i].exp() / row[:fixed].exp().sum()
    assert_same_attention(ours, ours.out_proj((o * weights.unsqueeze(-1)).flatten(2)), x)


def test_a_fresh_router_of_heads_changes_little_and_its_loss_tells_how_evenly_they_are_used(x: Tensor):
    ours = AttentionMixer(Attention(num_heads=8, head_dim=16, head_share=0.75), D_MODEL)
    assert ours.router is not None
    context = Context()
    weights = ours.router(x, context)
    assert (weights > 0).sum(-1).eq(6).all()
    assert (weights.sum(-1) / 6 - 1).abs().max() < 0.1
    (balanced,) = context.losses
    with torch.no_grad():
        ours.router.proj.weight.zero_()
        ours.router.proj.weight[2:6] = 1.0
    uneven = Context()
    ours.router(x.abs(), uneven)
    assert uneven.losses[0] > 1.3 * balanced
    ours.eval()
    silent = Context()
    ours(x, None, silent)
    assert silent.losses == []


def test_shares_stay_when_heads_become_more_and_one_head_is_not_picked():
    def network(attention: Attention) -> Architecture:
        return Architecture(d_model=64, vocab_size=8, blocks=(Block(mixer=attention, ffn=Glu(d_ff=8)),))

    picked = network(Attention(num_heads=4, head_dim=16, head_share=0.75))
    (large,) = resized(picked, Scale(width=4)).mixers
    assert isinstance(large, Attention)
    assert (large.num_heads, large.active_heads, large.always_heads) == (16, 12, 4)
    assert canonical_id(picked) != canonical_id(network(Attention(num_heads=4, head_dim=16)))
    one = [network(Attention(num_heads=1, head_dim=64, head_share=share)) for share in (1.0, 0.5)]
    assert canonical_id(one[0]) == canonical_id(one[1])
