"""Types that no kernel takes are refused at the door, by name; nothing is cast."""

import pytest
import torch

from kernels import (
    glu,
    l2_norm,
    linear_cross_entropy,
    rms_norm,
    rope,
    route_top_k,
    short_convolution,
    short_convolution_step,
)
from kernels.backend import OPERATIONS, use_backend
from tests.kernels.calls import calls

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


SENTENCE = "float32 or float16, because the Triton interpreter computes bfloat16 wrongly, but got bfloat16"


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_refuses_bfloat16_in_the_interpreter_in_the_same_words(name):
    with use_backend("gpu"), pytest.raises(ValueError, match=SENTENCE):
        calls(torch.bfloat16)[name]()


def test_a_residual_in_bfloat16_is_refused_there_too():
    with use_backend("gpu"), pytest.raises(ValueError, match=SENTENCE):
        rms_norm(torch.ones(2, 4), residual=torch.ones(2, 4, dtype=torch.bfloat16))
