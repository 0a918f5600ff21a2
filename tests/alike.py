"""One layer beside that of somebody else: weights at which every path matters, and how near the outputs are."""

import torch
from torch import Tensor, nn


def randomise(module: nn.Module, *, fewest_rows: int = 0) -> None:
    """Weights at which every path matters: matrices of unit gain, vectors moved off their defaults.

    fewest_rows: matrices of fewer rows are lists of vectors.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2 and parameter.shape[0] >= fewest_rows:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))


def copy(ours: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill every parameter of ours; a name or shape that does not fit is an error."""
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()}, strict=True)


def assert_near(ours: Tensor, theirs: Tensor, limit: float = 1e-5) -> None:
    """By the relative root mean square error."""
    error = ((ours - theirs).square().mean() / theirs.square().mean()).sqrt().item()
    assert error < limit, f"relative RMS error {error:.1e}"
