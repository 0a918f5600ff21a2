"""The definition of the grouped product: every row times the matrix of its group, in float32."""

import torch
from torch import Tensor


def grouped_matmul(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """[M, N] in the type of x; shapes as at the public door. Raises ValueError where the sizes do not fit the rows."""
    rows, sizes = [], group_sizes.tolist()
    if min(sizes, default=0) < 0 or sum(sizes) > x.shape[0]:
        raise ValueError(
            f"group_sizes must be non-negative and sum to at most the {x.shape[0]} rows of x, but got {sizes}."
        )
    group_of_row = [group for group, size in enumerate(sizes) for _ in range(size)]
    for row, group in enumerate(group_of_row):
        rows.append(x[row].float() @ w[group].float())
    beyond = x.new_zeros(x.shape[0] - len(rows), w.shape[2])
    return torch.cat([torch.stack(rows).to(x.dtype), beyond]) if rows else beyond
