"""Types that no kernel takes are refused at the door, by name; nothing is cast."""

import pytest
import torch

from kernels import (
    glu,
    l2_norm,
    linear_cross_entropy,
    matrix_recurrence,
    matrix_recurrence_step,
    rms_norm,
    rope,
    route_top_k,
    short_convolution,
    short_convolution_step,
)
from kernels.backend import use_backend

TARGETS, TABLE = torch.zeros(2, dtype=torch.int64), torch.ones(2, 2)
DOORS = {
    "glu": lambda ones: glu(ones(2, 4), ones(2, 4)),
    "rms_norm": lambda ones: rms_norm(ones(2, 4)),
    "l2_norm": lambda ones: l2_norm(ones(2, 4)),
    "short_convolution": lambda ones: short_convolution(ones(1, 2, 4), ones(4, 3)),
    "short_convolution_step": lambda ones: short_convolution_step(ones(1, 4), ones(1, 2, 4), ones(4, 3)),
    "linear_cross_entropy": lambda ones: linear_cross_entropy(ones(2, 4), ones(3, 4), TARGETS),
    "rope": lambda ones: rope(ones(1, 2, 1, 4), TABLE, TABLE),
    "route_top_k": lambda ones: route_top_k(ones(2, 4), 1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.int64, torch.complex64], ids=str)
@pytest.mark.parametrize("door", DOORS)
def test_a_door_refuses_types_that_its_kernels_do_not_have(door, dtype):
    with pytest.raises(ValueError, match=f"must be float32, float16 or bfloat16, but got {dtype} of shape"):
        DOORS[door](lambda *shape: torch.ones(shape).to(dtype))


def test_the_matrix_recurrence_refuses_bfloat16_in_the_interpreter():
    x = torch.ones(1, 2, 1, 16, dtype=torch.bfloat16)
    with use_backend("gpu"):
        with pytest.raises(ValueError, match="multiplies bfloat16 wrongly"):
            matrix_recurrence(x, x, x)
        with pytest.raises(ValueError, match="multiplies bfloat16 wrongly"):
            matrix_recurrence_step(x[:, 0], x[:, 0], x[:, 0], torch.zeros(1, 1, 16, 16))
