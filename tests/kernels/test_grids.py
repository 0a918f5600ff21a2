"""How many programs a launch may ask for: a GPU takes 2^31 - 1 along the first axis of a grid, 65,535 along the others.

The interpreter takes any number, so what grows with the inputs must be seen to lie along the first axis.
"""

import pytest
import torch
import triton
import triton.language as tl

from kernels import tuning
from kernels.grids import place_of_three, place_of_two
from scripts.kernel_lab.problem_lists import tiny_problems
from tests.host_code import host_code_alone

# Others count blocks of columns, groups, matrices or parts of a cache along the second and third axis, and some rows,
# chunks or heads: what passes 65,535 of these is refused.
ONE_AXIS = ("vector_recurrence", "wkv", "short_convolution", "rope", "attention", "route_top_k", "linear_cross_entropy")
PROBLEMS = [one for one in tiny_problems() if one.op.removesuffix("_step") in ONE_AXIS and one.op != "attention_step"]


@triton.jit
def count_kernel(twos, threes, FIRST: tl.constexpr, SECOND: tl.constexpr):
    first, second = place_of_two(FIRST)
    tl.store(twos + second * FIRST + first, tl.program_id(0))
    first, second, third = place_of_three(FIRST, SECOND)
    tl.store(threes + (third * SECOND + second) * FIRST + first, tl.program_id(0))


def test_programs_along_one_axis_stand_where_they_would_in_a_grid():
    twos, threes = torch.zeros(2, 24, dtype=torch.int32)
    count_kernel[(24,)](twos, threes, FIRST=2, SECOND=3)
    assert twos.tolist() == threes.tolist() == list(range(24))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda one: f"{one.op} {one.name}")
def test_batch_heads_tokens_and_channels_lie_along_the_first_axis_of_a_grid(problem, monkeypatch):
    monkeypatch.setattr(tuning, "LARGEST_GRID", (2**31 - 1, 1, 1))
    inputs = problem.make_inputs("cpu")
    with host_code_alone(monkeypatch) as launched:
        problem.run(inputs)
    assert launched


@pytest.mark.parametrize("grid", [(2**31,), (1, 65_536), (1, 1, 65_536)], ids=str)
def test_a_grid_that_no_gpu_takes_is_refused_in_one_sentence(grid):
    key = tuning.key("rms_norm.forward", 4, {}, {})
    with pytest.raises(ValueError, match=r"at most \[2147483647, 65535, 65535\] programs, but rms_norm.forward") as got:
        tuning.run(key, count_kernel, grid)
    assert "\n" not in str(got.value)
