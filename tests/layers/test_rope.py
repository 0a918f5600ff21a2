"""Rotary positions: against turning in the complex plane, and their stretched angles against transformers."""

from types import SimpleNamespace

import pytest
import torch

from nas.architecture import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from nas.context import Context
from nas.layers.rope import Rope, frequencies, rotate

CPU = torch.device("cpu")


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, 3, 16, generator=torch.Generator().manual_seed(0))


def turned(x: torch.Tensor, first: int) -> torch.Tensor:
    """Pairs (2i, 2i + 1) of x [B, T, H, D] as complex numbers times e^(i position base^(-2i / D)), base 50."""
    size = x.shape[-1]
    angle = torch.arange(first, first + x.shape[1])[:, None] * 50.0 ** (-torch.arange(0, size, 2) / size)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(
        torch.ones_like(angle), angle)[:, None]).flatten(-2)  # fmt: skip


@pytest.mark.parametrize("first", [0, 5])
def test_neighbours_are_turned_as_complex_numbers(x, first):
    actual = rotate(x, Rope(size=16, base=50.0, interleaved=True), Context(position=first))
    torch.testing.assert_close(actual, turned(x, first))


def test_the_two_layouts_are_a_permutation_of_channels(x):
    halves = torch.cat((torch.arange(0, 16, 2), torch.arange(1, 16, 2)))
    by_halves = rotate(x[..., halves], Rope(size=16, base=50.0), Context(position=2))
    torch.testing.assert_close(by_halves, turned(x, 2)[..., halves])


def test_a_fraction_turns_the_first_channels_and_leaves_the_rest(x):
    actual = rotate(x, Rope(size=4, base=50.0, interleaved=True), Context(position=3))
    torch.testing.assert_close(actual, torch.cat((turned(x[..., :4], 3), x[..., 4:]), dim=-1))


def test_the_tables_of_a_pass_are_made_once_for_each_kind_of_rope(x):
    context = Context()
    for _ in range(2):
        rotate(x, Rope(size=16, base=50.0), context)
    rotate(x, Rope(size=16, base=50.0, scaling=LinearScaling(factor=2)), context)
    assert len(context.shared) == 2


@pytest.mark.parametrize(
    ("scaling", "theirs"),
    [
        (LinearScaling(factor=8), {"rope_type": "linear", "factor": 8.0}),
        (
            Llama3Scaling(factor=8, original_length=64, low=1, high=4),
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        ),
        (YarnScaling(factor=16, original_length=64), {"rope_type": "yarn", "factor": 16.0}),
        (
            YarnScaling(factor=16, original_length=64, fast=20, slow=2, truncate=False, table_scale=0.5),
            {
                "rope_type": "yarn",
                "factor": 16.0,
                "beta_fast": 20.0,
                "beta_slow": 2.0,
                "truncate": False,
                "attention_factor": 0.5,
            },
        ),
    ],
    ids=["linear", "llama3", "yarn", "yarn exact"],
)
def test_stretched_angles_are_those_of_transformers(scaling: RopeScaling, theirs: dict):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_theta": 500.0, "original_max_position_embeddings": 64, **theirs}
    config = SimpleNamespace(
        rope_parameters=parameters,
        head_dim=32,
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=1024,
        standardize_rope_params=lambda: None,
    )
    expected, scale = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, CPU)
    torch.testing.assert_close(frequencies(Rope(size=32, base=500.0, scaling=scaling), CPU), expected)
    assert scaling.scale_of_tables() == pytest.approx(scale)


def test_stretching_multiplies_sine_and_cosine(x):
    plain = rotate(x, Rope(size=16, base=50.0), Context())
    scaled = rotate(
        x, Rope(size=16, base=50.0, scaling=YarnScaling(factor=1, original_length=8, table_scale=3)), Context()
    )
    torch.testing.assert_close(scaled, 3 * plain)
