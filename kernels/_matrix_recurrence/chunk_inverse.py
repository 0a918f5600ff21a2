"""The inverse of unit lower triangular matrices, for the erasing systems inside chunks of the portable recurrence."""

import torch
from torch import Tensor

_SMALLEST = 16


def unit_lower_inverse(below: Tensor) -> Tensor:
    """(I + A)⁻¹ for the part A of `below` [..., C, C] strictly below the diagonal; C is a power of two.

    Blocks of 16 by substitution, which is stable; then neighbouring blocks join by matrix products, in which a batch of
    small matrices spends a third of the time that one triangular solve per chunk takes.
    """
    chunk = below.shape[-1]
    size = min(_SMALLEST, chunk)
    eye = torch.eye(size, dtype=below.dtype, device=below.device)
    blocks = below.unflatten(-1, (-1, size)).unflatten(-3, (-1, size)).diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
    solved = torch.linalg.solve_triangular(blocks, eye.expand_as(blocks), upper=False, unitriangular=True)
    while size < chunk:
        early, late = solved[..., 0::2, :, :], solved[..., 1::2, :, :]
        pairs = below.unflatten(-1, (-1, 2, size))[..., 0, :].unflatten(-3, (-1, 2, size))[..., 1, :, :, :]
        across = pairs.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        joined = solved.new_zeros(*early.shape[:-2], 2 * size, 2 * size)
        joined[..., :size, :size], joined[..., size:, size:] = early, late
        joined[..., size:, :size] = -(late @ across @ early)
        solved, size = joined, 2 * size
    return solved.squeeze(-3)
