"""Normalisation against its formula, at sizes where epsilon matters."""

import pytest
import torch

from nas.layers.norm import NORM_EPS, LayerNorm, RMSNorm, l2_normalise, sum_and_norm


@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0])
def test_l2_normalisation_follows_its_formula_down_to_zero(size: float):
    x = size * torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    expected = x / (x.square().sum(-1, keepdim=True) + NORM_EPS).sqrt()
    torch.testing.assert_close(l2_normalise(x), expected)


@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0])
def test_rms_normalisation_follows_its_formula_down_to_zero(size: float):
    x = size * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    norm = RMSNorm(8)
    torch.nn.init.uniform_(norm.weight)
    expected = x / (x.square().mean(-1, keepdim=True) + NORM_EPS).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("norm", [RMSNorm(8), RMSNorm(8, groups=2), LayerNorm(8), torch.nn.Identity()], ids=repr)
def test_the_norm_of_a_sum_comes_with_the_sum_and_both_are_what_two_steps_give(norm):
    x, residual = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).unbind()
    normed, total = sum_and_norm(norm, x.bfloat16(), residual)
    assert torch.equal(total, residual + x.bfloat16())
    assert torch.equal(normed, norm(residual + x.bfloat16()))
