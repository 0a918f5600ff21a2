"""Grids of more than two axes that lie along one: a GPU takes 2^31 - 1 programs along the first axis of a grid, but no
more than 65,535 along the second and third, which batches, heads and chunks of a long sequence may pass.

The order in which programs start is that of the axes, the first of them running fastest.
"""

import triton
import triton.language as tl


@triton.jit
def place_of_two(first):
    """Where this program stands in a grid [first, any]."""
    at = tl.program_id(0)
    return at % first, at // first


@triton.jit
def place_of_three(first, second):
    """Where this program stands in a grid [first, second, any]."""
    at = tl.program_id(0)
    return at % first, at // first % second, at // first // second
