"""Softmax over a window and linear attention to all before it, against the sums written out."""

import pytest
import torch
from torch import Tensor

from nas.architecture import ArchitectureError, Attention, WindowLinearAttention
from nas.context import Context
from nas.mixers.attention import AttentionMixer
from nas.mixers.window_linear_attention import WindowLinearAttentionMixer
from tests.test_attention_parity import assert_same_attention
from tests.test_parity import BATCH, D_MODEL, TOKENS, copy, randomise


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def written_out(ours: WindowLinearAttentionMixer, x: Tensor, window: int) -> Tensor:
    """Every pair of a query and an earlier key has a weight, by exp or by features; all are divided by their sum."""
    q, k, v = ours.qkv(x, Context())
    k, v = (part.repeat_interleave(q.shape[2] // k.shape[2], 2) for part in (k, v))
    near = (torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5 + ours.log_weight.view(-1, 1, 1)).exp()
    far = torch.einsum("bihf,bjhf->bhij", ours.q_features(q), ours.k_features(k))
    distance = torch.arange(TOKENS).unsqueeze(1) - torch.arange(TOKENS)
    weights = torch.where(distance < window, near, far).masked_fill(distance < 0, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    return ours.out_proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


@pytest.mark.parametrize("feature_map", ["hedgehog", "elu", "softmax", "relu"])
@pytest.mark.parametrize(("window", "kv_heads"), [(1, 4), (7, 2)])
def test_the_window_and_the_rest_have_one_normaliser(x: Tensor, feature_map: str, window: int, kv_heads: int):
    options = WindowLinearAttention(
        num_heads=4,
        num_kv_heads=kv_heads,
        head_dim=16,
        window=window,
        feature_map=feature_map,  # type: ignore[arg-type]
    )
    ours = WindowLinearAttentionMixer(options, D_MODEL)
    randomise(ours)
    x.requires_grad_()
    assert_same_attention(ours, written_out(ours, x, window), x)


def test_where_nothing_has_left_the_window_it_is_softmax_attention(x: Tensor):
    ours = WindowLinearAttentionMixer(WindowLinearAttention(num_heads=4, head_dim=16, window=TOKENS), D_MODEL)
    randomise(ours)
    plain = AttentionMixer(Attention(num_heads=4, head_dim=16), D_MODEL)
    names = ("qkv.linear.weight", "out_proj.weight")
    copy(plain, {name: weight for name, weight in ours.named_parameters() if name in names})
    x.requires_grad_()
    assert_same_attention(ours, plain(x)[0], x)


def test_scores_of_any_size_are_divided_without_overflow(x: Tensor):
    ours = WindowLinearAttentionMixer(WindowLinearAttention(num_heads=4, head_dim=16, window=3), D_MODEL)
    with torch.no_grad():
        ours.qkv.linear.weight.mul_(20)
    for size in (1e-3, 30.0):
        y, _ = ours((x * size).requires_grad_())
        assert y.isfinite().all()
        gradients = torch.autograd.grad(y.sum(), list(ours.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_features_that_make_states_too_large_are_refused():
    with pytest.raises(
        ArchitectureError, match="head_dim=256 with feature_map=hedgehog gives 512 rows and 257 columns"
    ):
        WindowLinearAttention(num_heads=1, head_dim=256)
