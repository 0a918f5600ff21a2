"""A router in Triton: one launch from the logits to experts and weights, and one for the gradient of the logits.

Written out in PyTorch it is five to a dozen launches, which is all that its time is at the few tokens of a decode step.
Launch configurations are looked up, with the defaults of `launches.py`; nothing is tuned in passing.
"""

from typing import Any, get_args

import torch
import triton
from torch import Tensor

from kernels._route_top_k import portable
from kernels._route_top_k.gpu_kernels import backward_kernel, forward_kernel
from kernels._route_top_k.launches import LARGEST_ROW, default_launch, launch_key
from kernels._route_top_k.launches import launch_candidates as launch_candidates
from kernels._route_top_k.options import Options, Scoring
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run

SCORINGS = {name: number for number, name in enumerate(get_args(Scoring))}  # as the kernels number them


def route_top_k(logits: Tensor, bias: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    """See `kernels.route_top_k`."""
    if logits.shape[1] > LARGEST_ROW:
        return portable.route_top_k(logits, bias, options)
    weight, index = _forward(
        logits, None if bias is None else bias.detach(), options.k, SCORINGS[options.scoring], options.num_groups,
        options.top_groups, options.normalize, options.scale,
    )  # fmt: skip
    return index, weight


@torch.library.custom_op("hybrid_nas::route_top_k", mutates_args=())
def _forward(
    logits: Tensor,
    bias: Tensor | None,
    k: int,
    scoring: int,
    num_groups: int,
    top_groups: int,
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(expert_weight [T, k] float32, expert_index [T, k] int64)."""
    logits = logits.contiguous()
    tokens, experts = logits.shape
    index = logits.new_empty(tokens, k, dtype=torch.int64)
    weight = logits.new_empty(tokens, k, dtype=torch.float32)
    flags = {"scoring": scoring, "normalize": normalize, "biased": bias is not None, "grouped": top_groups < num_groups}
    key = launch_key("forward", logits.element_size(), experts, **flags)
    config = choose(key, forward_kernel, default_launch, logits.device)
    if tokens > 0:
        with torch.cuda.device_of(logits):
            run(
                key, forward_kernel, (triton.cdiv(tokens, config["BLOCK_T"]),), logits,
                logits if bias is None else bias.contiguous(), index, weight, tokens, experts, k, num_groups,
                top_groups, experts // num_groups, scale, **{name.upper(): flag for name, flag in flags.items()},
                **config,
            )  # fmt: skip
    return weight, index


@_forward.register_fake
def _(logits, bias, k, scoring, num_groups, top_groups, normalize, scale):
    shape = (logits.shape[0], k)
    return logits.new_empty(shape, dtype=torch.float32), logits.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op("hybrid_nas::route_top_k_backward", mutates_args=())
def _backward(grad: Tensor, logits: Tensor, index: Tensor, scoring: int, normalize: bool, scale: float) -> Tensor:
    """The gradient of the logits, in their type."""
    grad, logits, index = grad.contiguous(), logits.contiguous(), index.contiguous()
    (tokens, experts), k = logits.shape, index.shape[1]
    grad_logits = torch.empty_like(logits)
    flags = {"scoring": scoring, "normalize": normalize}
    key = launch_key("backward", logits.element_size(), experts, **flags)
    config = choose(key, backward_kernel, default_launch, logits.device)
    if tokens > 0:
        with torch.cuda.device_of(logits):
            run(
                key, backward_kernel, (triton.cdiv(tokens, config["BLOCK_T"]),), grad, logits, index, grad_logits,
                tokens, experts, k, scale, **{name.upper(): flag for name, flag in flags.items()}, **config,
            )  # fmt: skip
    return grad_logits


@_backward.register_fake
def _(grad, logits, index, scoring, normalize, scale):
    return logits.new_empty(logits.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    logits, _, _, ctx.scoring, _, _, ctx.normalize, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, output[1])


def _differentiate(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return _backward(grad, *ctx.saved_tensors, ctx.scoring, ctx.normalize, ctx.scale), *(None,) * 7


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def ahead_of_time_cases() -> list[Case]:
    """The default launches of 8 to 512 experts and every scoring, with biases and groups and without."""
    keys = []
    for experts in (8, 256, 512):
        for scoring, normalize, biased, grouped in ((0, 1, 0, 0), (1, 1, 1, 1), (2, 0, 0, 1)):
            flags = {"scoring": scoring, "normalize": normalize}
            for element_bytes in (2, 4) if experts == 256 else (2,):
                keys.append(launch_key("forward", element_bytes, experts, **flags, biased=biased, grouped=grouped))
                keys.append(launch_key("backward", element_bytes, experts, **flags))
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    kernel = forward_kernel if key.kernel == "route_top_k.forward" else backward_kernel
    constants: dict[str, object] = {name: size for name, size in config.items() if name != "num_warps"}
    constants |= {name.upper(): flag for name, flag in key.flags}
    element = {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    types = {"logits": element, "grad_logits": element, "bias": "*fp32", "grad": "*fp32", "scale": "fp32"}
    types |= {"expert_index": "*i64", "expert_weight": "*fp32"}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constants}
    return Case(key.label, kernel, signature, constants, {"num_warps": config["num_warps"]}, ("E",))
