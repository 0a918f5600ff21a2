"""Which experts a token goes to and with what weight: the routers of the field, as one function.

A router is two choices: how a logit becomes a score, and what is compared when experts are picked. All the rest is a
sum. Everything here stays on the device, so that it can be captured in a CUDA graph.
"""

from types import ModuleType
from typing import get_args

from torch import Tensor

from kernels._route_top_k import portable, reference
from kernels._route_top_k.options import Options, Scoring
from kernels.arguments import check_number, check_optional_tensors, check_switches, check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import check_dtype
from kernels.whole_numbers import check_whole_number

SCORINGS: tuple[str, ...] = get_args(Scoring)


def route_top_k(
    logits: Tensor,
    k: int,
    *,
    scoring: Scoring = "softmax",
    bias: Tensor | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The k experts with the largest scores for each token, and the weights of their outputs.

    Args:
        logits: [T, E], float32, float16 or bfloat16; scores are computed in float32.
        k: experts a token is sent to, 1 to E.
        scoring: `softmax` over all experts (Mixtral, arXiv 2401.04088, section 2.1; with `normalize`, it is the softmax
            over the k chosen logits, as gpt-oss writes it), `sigmoid` (DeepSeek-V3, arXiv 2412.19437, section 2.1.2) or
            `sqrt_softplus` (DeepSeek-V4).
        bias: [E], of one of these types, added to the scores when experts are picked, never to their weights; it
            receives no gradient.
        num_groups: experts 0 .. E / num_groups - 1 are the first group, and so on.
        top_groups: only experts of so many groups can be picked: those whose two best scores, bias included, have the
            largest sum (one best where a group has one expert).
        normalize: the weights of a token are divided by their sum.
        scale: factor of the weights.

    Returns (expert_index [T, k] int64, best first; expert_weight [T, k] float32, with gradients for the logits). Which
    of two experts with equal scores comes first is not said.

    Raises ValueError when shapes or numbers do not belong together.
    """
    check_tensors(logits=logits)
    check_optional_tensors(bias=bias)
    check_switches(normalize=normalize)
    check_number("scale", scale)
    _check(logits, k, scoring, bias, num_groups, top_groups)
    substituted = ask_substitute(
        "route_top_k",
        logits,
        k,
        scoring=scoring,
        bias=bias,
        num_groups=num_groups,
        top_groups=top_groups,
        normalize=normalize,
        scale=scale,
    )
    if substituted is not NotImplemented:
        return substituted
    options = Options(k, scoring, num_groups, top_groups, normalize, float(scale))
    return _implementation(logits).route_top_k(logits, bias, options)


def _implementation(logits: Tensor) -> ModuleType:
    backend = choose_backend(logits)
    if backend == "gpu":
        from kernels._route_top_k import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check(logits: Tensor, k: int, scoring: str, bias: Tensor | None, num_groups: int, top_groups: int) -> None:
    if logits.dim() != 2:
        raise ValueError(f"logits must be [T, E], but got {list(logits.shape)}.")
    check_dtype("logits", logits)
    experts = logits.shape[1]
    if scoring not in SCORINGS:
        raise ValueError(f"scoring must be one of {', '.join(SCORINGS)}, but got {scoring!r}.")
    for name, number in (("k", k), ("num_groups", num_groups), ("top_groups", top_groups)):
        check_whole_number(name, number)
    if num_groups < 1 or experts % num_groups != 0 or not 1 <= top_groups <= num_groups:
        raise ValueError(
            f"num_groups must divide the {experts} experts and top_groups lie between 1 and num_groups, but got "
            f"num_groups={num_groups}, top_groups={top_groups}."
        )
    most = experts // num_groups * top_groups
    if not 1 <= k <= most:
        raise ValueError(f"k must lie between 1 and the {most} experts that can be picked, but got {k}.")
    if bias is not None and (list(bias.shape) != [experts] or bias.device != logits.device):
        raise ValueError(
            f"bias must be [{experts}], one number an expert, on {logits.device}, but got {list(bias.shape)} on "
            f"{bias.device}."
        )
    if bias is not None:
        check_dtype("bias", bias)
