"""The launches to compile ahead of time: every kernel, at the head sizes and kinds of decay that the mixers use."""

from dataclasses import replace
from typing import Any

import torch

from kernels._matrix_recurrence import (
    gpu_backward,
    gpu_delta,
    gpu_forward,
    gpu_free,
    gpu_fused,
    gpu_scalar,
    gpu_tiles,
    gpu_vector,
)
from kernels._matrix_recurrence.gpu_step import step_kernel
from kernels._matrix_recurrence.launches import default_launch
from kernels._matrix_recurrence.plan import FREE, Plan
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key

_FLOAT32 = ("g", "beta", "bonus", "erasing", "initial", "final", "offset", "state", "new_state")
_FLOAT32_GRADS = (
    "d_q", "d_k", "d_x", "d_y", "d_a", "d_b", "d_g", "d_before", "d_beta", "d_last", "d_final", "d_initial",
)  # fmt: skip
_SHARED = (
    gpu_forward.state_kernel,
    gpu_forward.output_kernel,
    gpu_fused.fused_kernel,
    gpu_backward.value_grad_kernel,
    gpu_backward.state_grad_kernel,
    gpu_backward.token_grad_kernel,
    step_kernel,
)
_PER_HEAD = (gpu_scalar.scores_kernel,)
_PER_CHANNEL = (gpu_vector.channel_scores_kernel, gpu_vector.score_grad_kernel, gpu_vector.channel_grad_kernel)
_PER_HEAD_DELTA = (gpu_scalar.erasing_grad_kernel,)
_DELTA = (gpu_delta.inverse_kernel, gpu_delta.wy_kernel, gpu_delta.wy_grad_kernel)
_FREE = (
    gpu_delta.inverse_kernel,
    gpu_free.free_wy_kernel,
    gpu_free.free_wy_grad_kernel,
    gpu_free.free_token_grad_kernel,
)
_ALL = (*_SHARED, gpu_tiles.chunk_sum_kernel, *_PER_HEAD, *_PER_CHANNEL, *_DELTA, *_PER_HEAD_DELTA, *_FREE)


def ahead_of_time_cases() -> list[Case]:
    """bfloat16 at K = V = 64 and 128: per head and per channel, without and with the delta rule; free; with a bonus."""
    cases: dict[object, Case] = {}
    settings = (
        (1, 0, False), (1, 1, False), (2, 0, False), (2, 1, False), (2, FREE, False), (2, 0, True), (2, FREE, True)
    )  # fmt: skip
    for size in (64, 128):
        for decay, delta, before in settings:
            plan = Plan(8, 1, size, size, decay, delta, torch.bfloat16, torch.device("cpu"), before)
            for kernel in _kernels(plan):
                case = _case(plan, kernel, default_launch(plan.key(kernel)))
                # A kernel that knows nothing of what differs between two plans is compiled for one of them.
                cases.setdefault((case.kernel, str((case.signature, case.constexprs, case.options))), case)
    return list(cases.values())


def _kernels(plan: Plan) -> list[Any]:
    kernels = [*_SHARED, gpu_tiles.chunk_sum_kernel, *(_PER_CHANNEL if plan.decay == 2 else _PER_HEAD)]
    if plan.delta == FREE:
        kernels += _FREE
    elif plan.delta:
        kernels += _DELTA if plan.decay == 2 else (*_DELTA, *_PER_HEAD_DELTA)
    return kernels


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; a padded size is taken as five eighths of its power of two, such as 80 of 128."""
    sizes, flags = dict(key.sizes), dict(key.flags)
    key_size, value_size = sizes.get("K", sizes.get("V", 64)), sizes.get("V", sizes.get("K", 64))
    if flags.get("padded"):
        key_size, value_size = key_size * 5 // 8, value_size * 5 // 8
    # Of the 16-bit types, bfloat16 alone keeps its states in 16 bits.
    halves = torch.float16 if flags.get("state_bytes") == 4 else torch.bfloat16
    dtype = torch.float32 if key.element_bytes == 4 else halves
    kernel = {one.__name__: one for one in _ALL}[f"{key.kernel.removeprefix('matrix_recurrence.')}_kernel"]
    decay = 2 if kernel in _PER_CHANNEL else flags.get("DECAY", 1)
    heads = sizes["W"] if "W" in sizes else 8
    options = (decay, flags.get("DELTA", 0), dtype, torch.device("cpu"), flags.get("BEFORE", 0) > 0)
    plan = Plan(heads, 1, key_size, value_size, *options)
    return replace(_case(plan, kernel, config), name=key.label)


def _case(plan: Plan, kernel: Any, config: Config) -> Case:
    name = kernel.__name__
    shifted = plan.before or plan.delta == FREE
    flags = {"HAS_INITIAL": True, "WITH_STATE": plan.delta != 1, "REVERSE": True, "SHIFTED": shifted}
    flags |= {"ERASING": plan.delta == 1, "OWN": plan.before, "NEGATED": plan.delta == FREE}
    options = {option: config[option] for option in ("num_warps", "num_stages")}
    constants: dict[str, object] = plan.constants(kernel, **flags)
    constants |= {block: size for block, size in config.items() if block not in options}
    signature = {argument: _type(plan, name, argument) for argument in kernel.arg_names if argument not in constants}
    kind = f"{('plain', 'delta', 'free')[plan.delta]} {'per channel' if plan.decay == 2 else 'per head'}"
    kind += f"{' before' * plan.before} {plan.key_size}"
    return Case(f"{name.removesuffix('_kernel')} {kind}", kernel, signature, constants, options)


def _type(plan: Plan, kernel: str, argument: str) -> str:
    if argument in ("T", "scale"):
        return "i32" if argument == "T" else "fp32"
    if kernel == "chunk_sum_kernel" or argument in (*_FLOAT32, *_FLOAT32_GRADS):
        return "*fp32"
    dtype = plan.state_dtype if argument in ("states", "d_states") else plan.dtype
    return {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}[dtype]
