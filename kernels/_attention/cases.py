"""The launches of the attention kernels that a machine without a GPU compiles, to see that they fit."""

from collections.abc import Mapping
from dataclasses import replace

import triton

from kernels._attention.gpu_backward import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels._attention.gpu_step import attention_combine_kernel, attention_step_kernel
from kernels._attention.launches import (
    LARGEST_SPLITS,
    Form,
    combine_constants,
    constants,
    default_launch,
    form_of,
    launch_key,
)
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key

KERNELS = {
    "attention.forward": attention_fwd_kernel,
    "attention.backward_dq": attention_bwd_dq_kernel,
    "attention.backward_dkv": attention_bwd_dkv_kernel,
    "attention.step": attention_step_kernel,
    "attention.combine": attention_combine_kernel,
}


def ahead_of_time_cases() -> list[Case]:
    """Each kernel at the default launch of every size that has one of its own, and on each of its paths once: windows,
    global keys, heads with a tail, and each option that takes registers, alone and all together."""
    plain = Form(128, 128, 2, causal=True)
    window = replace(plain, windowed=True)
    several = replace(window, has_global=True, softcap=True, forget=True, sink=True, dlse=True)
    sequences = [
        replace(plain, size=32, value_size=32),
        replace(window, size=64, value_size=64, sink=True),
        plain,
        replace(window, size=256, value_size=256),
        replace(plain, size=192),
        replace(plain, size=576, value_size=512),
        replace(window, softcap=True),
        replace(plain, forget=True),
        several,
        replace(plain, size=64, value_size=64, element_bytes=4),
        replace(window, element_bytes=4),
    ]
    kernels = ("attention.forward", "attention.backward_dq", "attention.backward_dkv")
    cases = [_default_case(kernel, form) for form in sequences for kernel in kernels]
    step = Form(128, 128, 2, rows=64, keep=True)
    latent = Form(576, 512, 2, rows=64, shared=True, on_device=True)
    listed = replace(step, keep=False, on_device=True, listed=True)
    steps = [
        replace(step, size=64, value_size=64),
        step,
        replace(step, softcap=True, sink=True, bias=True, on_device=True),
        replace(step, size=256, value_size=256),
        latent,
        replace(listed, size=64, value_size=64),
        listed,
        replace(listed, size=80, value_size=80, rows=16),
        replace(latent, listed=True),
        replace(step, element_bytes=4),
        replace(latent, element_bytes=4, rows=16),
    ]
    cases += [_default_case("attention.step", form) for form in steps]
    combined = ((64, 2), (80, 2), (128, 2), (512, 2), (128, 4))
    return cases + [_default_case("attention.combine", Form(size, size, count)) for size, count in combined]


def _default_case(kernel: str, form: Form) -> Case:
    key = launch_key(kernel, form)
    return launch_case(key, default_launch(key))


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key, of the form that stands for it; 16-bit types stand for each other as bfloat16."""
    form = form_of(key)
    if key.kernel == "attention.combine":
        made = combine_constants(config, form.value_size, triton.next_power_of_2(LARGEST_SPLITS))
    else:
        made = constants(key.kernel, config, form)
    return _case(key.label, KERNELS[key.kernel], key.element_bytes, made)


def _case(name: str, kernel: triton.JITFunction, element_bytes: int, constants: Mapping[str, int | bool | str]) -> Case:
    """Argument types by their names: pointers to bytes, to statistics and to elements; factors; integers."""
    element = {2: "*bf16", 4: "*fp32"}[element_bytes]
    known = dict.fromkeys(("q", "k", "v", "o", "do", "dq", "dk", "dv"), element)
    statistics = ("lse", "delta", "dlse", "partial", "partial_lse", "sink", "bias", "forgotten", "dforgotten")
    known |= dict.fromkeys(statistics, "*fp32") | dict.fromkeys(("lengths", "listed"), "*i32")
    known |= {"keep": "*u8"}
    known |= dict.fromkeys(("scale", "scale_log2", "tanh_scale"), "fp32")
    options = {option: int(constants[option]) for option in ("num_warps", "num_stages") if option in constants}
    constexprs: dict[str, object] = {
        argument: value for argument, value in constants.items() if argument not in options
    }
    signature = {argument: known.get(argument, "i32") for argument in kernel.arg_names if argument not in constexprs}
    return Case(name, kernel, signature, constexprs, options)
