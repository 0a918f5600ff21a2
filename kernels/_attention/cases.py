"""The launches of the attention kernels that a machine without a GPU compiles, to see that they fit."""

import torch
import triton

from kernels._attention.gpu_backward import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels._attention.gpu_step import attention_combine_kernel, attention_step_kernel
from kernels._attention.launches import (
    BACKWARD_DKV,
    BACKWARD_DQ,
    FORWARD,
    LARGEST_SPLITS,
    PRECISION,
    STEP,
    constants_for,
    fit,
    launch_for,
)
from kernels.ahead_of_time import Case


def ahead_of_time_cases() -> list[Case]:
    """The launches to compile without a GPU: every kernel at its default configurations."""
    half, single = torch.float16, torch.float32
    variants = {
        "causal": {"causal": True, "window": 0, "block_size": 0},
        "window": {"causal": True, "window": 1024, "block_size": 0},
        "blocks": {"causal": True, "window": 0, "block_size": 64},
    }
    chosen = [(64, half, "causal"), (80, half, "window"), (128, half, "causal"), (128, half, "blocks")]
    chosen += [(256, half, "window"), (64, single, "causal"), (128, single, "window")]
    cases = [case for size, dtype, name in chosen for case in _sequence_cases(size, dtype, name, **variants[name])]
    for size, dtype in ((64, half), (80, half), (128, half), (128, single)):
        cases += _step_cases(size, dtype)
    return cases


def _sequence_cases(
    size: int, dtype: torch.dtype, variant: str, *, causal: bool, window: int, block_size: int
) -> list[Case]:
    q = torch.empty(0, size, dtype=dtype)
    kernels = {
        "fwd": (attention_fwd_kernel, FORWARD),
        "bwd_dq": (attention_bwd_dq_kernel, BACKWARD_DQ),
        "bwd_dkv": (attention_bwd_dkv_kernel, BACKWARD_DKV),
    }
    cases = []
    for name, (kernel, table) in kernels.items():
        launch = fit(launch_for(table, size, dtype), block_size)
        constants = constants_for(launch, q, causal, window, block_size)
        cases.append(_case(f"attention_{name} D={size} {dtype} {variant}", kernel, dtype, constants))
    return cases


def _step_cases(size: int, dtype: torch.dtype) -> list[Case]:
    launch = launch_for(STEP, size, dtype)
    columns = triton.next_power_of_2(size)
    step: dict[str, int | bool | str] = {
        "D": size,
        "KEEP": True,
        "BM": launch.BM,
        "BN": launch.BN,
        "BD": columns,
        "PRECISION": PRECISION,
    }
    step |= {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    combine: dict[str, int | bool | str] = {"D": size, "BS": LARGEST_SPLITS, "BD": columns}
    return [
        _case(f"attention_step D={size} {dtype}", attention_step_kernel, dtype, step),
        _case(f"attention_combine D={size} {dtype}", attention_combine_kernel, dtype, combine),
    ]


def _case(name: str, kernel: triton.JITFunction, dtype: torch.dtype, constants: dict[str, int | bool | str]) -> Case:
    """Argument types by their names: pointers to bytes, to statistics and to elements; factors; integers."""
    element = {2: "*fp16", 4: "*fp32"}[dtype.itemsize]
    known = dict.fromkeys(("q", "k", "v", "o", "do", "dq", "dk", "dv"), element)
    known |= dict.fromkeys(("lse", "delta", "partial", "partial_lse"), "*fp32")
    known |= dict.fromkeys(("block_mask", "keep"), "*u8") | dict.fromkeys(("scale", "scale_log2"), "fp32")
    options = {option: int(constants[option]) for option in ("num_warps", "num_stages") if option in constants}
    constexprs: dict[str, object] = {
        argument: value for argument, value in constants.items() if argument not in options
    }
    signature = {argument: known.get(argument, "i32") for argument in kernel.arg_names if argument not in constexprs}
    return Case(name, kernel, signature, constexprs, options)
