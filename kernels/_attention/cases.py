"""The launches of the attention kernels that a machine without a GPU compiles, to see that they fit."""

from collections.abc import Mapping

import triton

from kernels._attention.gpu_backward import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels._attention.gpu_step import attention_combine_kernel, attention_step_kernel
from kernels._attention.launches import LARGEST_SPLITS, default_launch, sequence_constants, step_constants
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import key

KERNELS = {
    "attention.forward": attention_fwd_kernel,
    "attention.backward_dq": attention_bwd_dq_kernel,
    "attention.backward_dkv": attention_bwd_dkv_kernel,
    "attention.step": attention_step_kernel,
    "attention.combine": attention_combine_kernel,
}


def ahead_of_time_cases() -> list[Case]:
    """The launches to compile without a GPU: every kernel at its default configurations."""
    causal = {"causal": 1, "windowed": 0, "block": 0}
    window, blocks = causal | {"windowed": 1}, causal | {"block": 64}
    chosen = [(64, 2, causal), (80, 2, window), (128, 2, causal), (128, 2, blocks), (256, 2, window)]
    chosen += [(64, 4, causal), (128, 4, window)]
    cases = []
    for size, element_bytes, flags in chosen:
        for kernel in ("attention.forward", "attention.backward_dq", "attention.backward_dkv"):
            cases.append(_default_case(kernel, size, element_bytes, flags))
    for size, element_bytes in ((64, 2), (80, 2), (128, 2), (128, 4)):
        cases.append(_default_case("attention.step", size, element_bytes, {"rows": 64, "keep": 1}))
        cases.append(_default_case("attention.combine", size, element_bytes, {}))
    return cases


def _default_case(kernel: str, size: int, element_bytes: int, flags: dict[str, int]) -> Case:
    at = key(kernel, element_bytes, {"D": size}, flags | {"padded": size & (size - 1) > 0})
    return launch_case(at, default_launch(at))


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; a padded head is taken as five eighths of its power of two, such as 80 of 128."""
    flags, size = dict(key.flags), dict(key.sizes)["D"]
    if flags["padded"]:
        size = size * 5 // 8
    if key.kernel == "attention.step":
        constants = step_constants(config, size, flags["keep"] > 0)
    elif key.kernel == "attention.combine":
        constants = {"D": size, "BS": LARGEST_SPLITS, "BD": triton.next_power_of_2(size), **config}
    else:
        constants = sequence_constants(config, size, flags["causal"] > 0, flags["windowed"], flags["block"])
    return _case(key.label, KERNELS[key.kernel], key.element_bytes, constants)


def _case(name: str, kernel: triton.JITFunction, element_bytes: int, constants: Mapping[str, int | bool | str]) -> Case:
    """Argument types by their names: pointers to bytes, to statistics and to elements; factors; integers."""
    element = {2: "*fp16", 4: "*fp32"}[element_bytes]
    known = dict.fromkeys(("q", "k", "v", "o", "do", "dq", "dk", "dv"), element)
    known |= dict.fromkeys(("lse", "delta", "partial", "partial_lse"), "*fp32")
    known |= dict.fromkeys(("block_mask", "keep"), "*u8") | dict.fromkeys(("scale", "scale_log2"), "fp32")
    options = {option: int(constants[option]) for option in ("num_warps", "num_stages") if option in constants}
    constexprs: dict[str, object] = {
        argument: value for argument, value in constants.items() if argument not in options
    }
    signature = {argument: known.get(argument, "i32") for argument in kernel.arg_names if argument not in constexprs}
    return Case(name, kernel, signature, constexprs, options)
