"""The launches to compile ahead of time: every kernel in every form, at the types and head sizes that mixers use."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
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
_ALL = (*_SHARED, step_kernel, gpu_tiles.chunk_sum_kernel, *_PER_HEAD, *_PER_CHANNEL, *_DELTA, *_PER_HEAD_DELTA, *_FREE)


# Decay, delta and whether q reads before its token: of every mixer that has a name, then what else runs on a kernel.
_SETTINGS = (
    (1, 1, False), (2, FREE, False), (2, 1, False), (2, 0, True), (2, 0, False), (1, 0, False), (0, 1, False),
    (0, 0, False), (2, FREE, True), (2, 1, True),
)  # fmt: skip
_PLAIN = ((1, 0, False), (0, 0, False))
# Type, K, V, heads of v for one of q and k, whether there is a first state, and settings: what is trained with first,
# then the most demanding. Sizes that are no multiple of a block take more registers, and most where no wide load
# reaches the columns, as at V = 129, the mLSTM's for heads of 128. With the delta rule no layer has an odd V: there the
# gradients of states spill up to 72 bytes in 16-bit types.
_SHAPES = (
    (torch.bfloat16, 128, 128, 2, True, _SETTINGS),
    (torch.float32, 192, 257, 1, True, _SETTINGS),
    (torch.float16, 128, 129, 1, False, _PLAIN),
    (torch.float16, 96, 80, 1, False, _SETTINGS),
    (torch.bfloat16, 256, 512, 1, False, _SETTINGS),
    (torch.float32, 128, 64, 1, False, _SETTINGS),
    (torch.bfloat16, 64, 64, 1, False, _SETTINGS),
)
_HEADS = 8


def ahead_of_time_cases() -> list[Case]:
    """Every kernel in all its forms, and with every default launch of a type, but not each form with each launch.

    A form is what the constants of a kernel but sizes switch on. In the order of the tables a case is compiled where it
    is the first to show its form, its launch, whether there is a first state, or sizes that are no multiple of a block.
    """
    cases: list[Case] = []
    shown: set[object] = set()

    def offer(case: Case) -> None:
        features = {(case.kernel, one) for one in _features(case)}
        if not features <= shown:
            shown.update(features)
            cases.append(case)

    for dtype, key_size, value_size, group, initial, settings in _SHAPES:
        sizes = (key_size, value_size)
        for decay, delta, before in settings:
            # Where something is erased freely, q and k are repeated for the heads of v.
            plan = Plan(
                _HEADS, 1 if delta == FREE else group, *sizes, decay, delta, dtype, torch.device("cuda"), before
            )
            for kernel in _kernels(plan):
                for flags in _forms(plan, kernel):
                    offer(_case(plan, kernel, default_launch(plan.key(kernel)), HAS_INITIAL=initial, **flags))
        # A step takes any decay with any of the others.
        for decay, delta, before in product(range(3), range(3), (False, True)):
            plan = Plan(_HEADS, group, *sizes, decay, delta, dtype, torch.device("cuda"), before)
            offer(_case(plan, step_kernel, default_launch(plan.key(step_kernel))))
    return cases


def _features(case: Case) -> Iterator[object]:
    blocks = {name: case.constexprs[name] for name in ("BK", "BV", "BW") if name in case.constexprs}
    types = {name: type_ for name, type_ in case.signature.items() if name not in _FLOAT32 + _FLOAT32_GRADS}
    if not {"states", "d_states"} & set(types):  # which float16 keeps in float32: else it is compiled as bfloat16 is
        types = {name: type_.replace("fp16", "bf16") for name, type_ in types.items()}
    yield "launch", str(types), str(blocks), str(case.options)
    yield "initial", case.constexprs.get("HAS_INITIAL")
    yield "padded", any(size & (size - 1) for name in "KV" if isinstance(size := case.constexprs.get(name), int))
    sizes = (*blocks, "K", "V", "W", "BT", "H", "GROUP", "HAS_INITIAL", "PRECISION")
    yield "form", str({name: value for name, value in case.constexprs.items() if name not in sizes})


def _forms(plan: Plan, kernel: Any) -> list[dict[str, bool]]:
    """The flags of every launch that a call makes of a kernel."""
    free = plan.delta == FREE
    if kernel is gpu_tiles.chunk_sum_kernel:
        return [{"REVERSE": False, "SHIFTED": False}, {"REVERSE": True, "SHIFTED": free or plan.before}]
    if kernel is gpu_backward.value_grad_kernel:
        return [{"WITH_STATE": with_state} for with_state in ((True, False) if free else (plan.delta == 0,))]
    if kernel is gpu_vector.channel_scores_kernel:
        own = {"OWN": plan.before, "NEGATED": False}
        return [own, {"OWN": False, "NEGATED": True}] if free else [own]
    if kernel is gpu_vector.channel_grad_kernel:
        queries = {"ERASING": False, "BEFORE": plan.before, "OWN": plan.before and not free}
        if free:
            return [queries, queries | {"OWN": plan.before}, {"ERASING": False, "BEFORE": True, "OWN": False}]
        return [queries, {"ERASING": True, "BEFORE": False, "OWN": False}] if plan.delta else [queries]
    return [{}]


def _kernels(plan: Plan) -> list[Any]:
    kernels = [*_SHARED, *(_PER_CHANNEL if plan.decay == 2 else _PER_HEAD)]
    if not plan.fits_in_one:
        kernels.remove(gpu_fused.fused_kernel)
    if plan.decay:
        kernels.append(gpu_tiles.chunk_sum_kernel)
    if plan.delta == FREE:
        kernels += _FREE
    elif plan.delta:
        kernels += _DELTA if plan.decay == 2 else (*_DELTA, *_PER_HEAD_DELTA)
    return kernels


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key, for queries that heads share where they may; a padded size is taken as five eighths of its
    power of two, such as 80 of 128, and V as one more."""
    sizes, flags = dict(key.sizes), dict(key.flags)
    key_size, value_size = sizes.get("K", sizes.get("V", 64)), sizes.get("V", sizes.get("K", 64))
    if flags.get("padded"):
        key_size, value_size = key_size * 5 // 8, value_size * 5 // 8 + 1
    # Of the 16-bit types, bfloat16 alone keeps its states in 16 bits.
    halves = torch.float16 if flags.get("state_bytes") == 4 else torch.bfloat16
    dtype = torch.float32 if key.element_bytes == 4 else halves
    kernel = {one.__name__: one for one in _ALL}[f"{key.kernel.removeprefix('matrix_recurrence.')}_kernel"]
    decay = 2 if kernel in _PER_CHANNEL else flags.get("DECAY", 1)
    heads = sizes["W"] if "W" in sizes else 8
    delta = flags.get("DELTA", 0)
    options = (decay, delta, dtype, torch.device("cpu"), flags.get("BEFORE", 0) > 0)
    plan = Plan(heads, 1 if delta == FREE or heads == 1 else 2, key_size, value_size, *options)
    return replace(_case(plan, kernel, config), name=key.label)


def _case(plan: Plan, kernel: Any, config: Config, **forms: bool) -> Case:
    """One launch, in its most demanding form where `forms` says nothing."""
    name = kernel.__name__
    shifted = plan.before or plan.delta == FREE
    flags = {"HAS_INITIAL": True, "WITH_STATE": plan.delta != 1, "REVERSE": True, "SHIFTED": shifted}
    flags |= {"ERASING": plan.delta == 1, "OWN": plan.before, "NEGATED": plan.delta == FREE} | forms
    options = {option: config[option] for option in ("num_warps", "num_stages")}
    constants: dict[str, object] = plan.constants(kernel, **flags)
    constants |= {block: size for block, size in config.items() if block not in options}
    signature = {argument: _type(plan, name, argument) for argument in kernel.arg_names if argument not in constants}
    kind = f"{('plain', 'delta', 'free')[plan.delta]} {'per channel' if plan.decay == 2 else 'per head'}"
    kind += f"{' before' * plan.before} {plan.key_size} {str(plan.dtype).removeprefix('torch.')}"
    return Case(f"{name.removesuffix('_kernel')} {kind}", kernel, signature, constants, options)


def _type(plan: Plan, kernel: str, argument: str) -> str:
    if argument in ("T", "scale"):
        return "i32" if argument == "T" else "fp32"
    if kernel == "chunk_sum_kernel" or argument in (*_FLOAT32, *_FLOAT32_GRADS):
        return "*fp32"
    dtype = plan.state_dtype if argument in ("states", "d_states") else plan.dtype
    return {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}[dtype]
