"""How close two implementations of a kernel must be, by one rule for all of them."""

import torch

WORST_ROW_FACTOR = 10.0


def assert_close_relative(actual: torch.Tensor, expected: torch.Tensor, limit: float) -> None:
    """RMS(error) / RMS(expected) stays below `limit` over the whole tensor, and below ten times that in every row.

    A row is a slice along the last axis; its error is taken relative to its own RMS or to that of the whole tensor,
    whichever is larger. The mean alone would hide one wrong tail row among many right ones.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.isfinite(expected).all(), "the expected values are not finite"
    assert torch.isfinite(actual).all(), f"{int((~torch.isfinite(actual)).sum())} values are not finite"
    if expected.numel() == 0:
        return
    tiny = 1e-12
    error, scale = _rms(actual - expected), _rms(expected)
    assert error <= limit * scale + tiny, f"relative error {float(error / scale):.3g} above {limit:g}"

    row_error = (actual - expected).square().mean(-1).sqrt().flatten()
    row_scale = expected.square().mean(-1).sqrt().flatten().clamp_min(float(scale))
    excess = row_error - WORST_ROW_FACTOR * limit * row_scale - tiny
    worst = int(excess.argmax())
    assert excess[worst] <= 0, (
        f"row {worst} of {len(excess)} has relative error {float(row_error[worst] / row_scale[worst]):.3g}, "
        f"above {WORST_ROW_FACTOR * limit:g}"
    )


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.square().mean().sqrt()
