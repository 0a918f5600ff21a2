"""Normalisation against its formula, at sizes where epsilon matters."""

import pytest
import torch

from nas.layers.norm import NORM_EPS, RMSNorm, l2_normalise


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
