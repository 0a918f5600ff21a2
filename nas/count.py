"""What a network costs, counted without building it: parameters, FLOPs, bytes. And the matching of parameters.

* Models are compiled on the meta device (shapes, no data), so a count takes milliseconds at any size.
* Designs are compared at equal parameters: a mixer that spends fewer gets wider FFNs. Total parameters are linear in
  the FFN widths, and nothing else depends on them, so one factor for all FFNs follows in closed form.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch

from nas.architecture import Architecture, FfnOptions, resized
from nas.architecture.options import role_of
from nas.compile import compile_architecture
from nas.workload import Deployment, Workload


class CannotMatch(ValueError):
    """No FFN widths bring an architecture near the wanted number of parameters. The message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Exact numbers of one architecture under one workload.

    parameters: all, shared ones once. active_parameters: those that one token uses. weight_bytes: all parameters.
    sequence_bytes: KV cache and recurrent state of one sequence at the context. flops_prefill: reading the prompt of
    one sequence. flops_decode: one new token of one sequence at the context.
    """

    parameters: int
    active_parameters: int
    weight_bytes: int
    sequence_bytes: int
    flops_prefill: int
    flops_decode: int


def count(architecture: Architecture, workload: Workload, *, dtype: torch.dtype = torch.float32) -> Counts:
    """Counts of an architecture, as it stands (resize first). Cached; the name does not matter."""
    return _count(replace(architecture, name="counted"), workload, dtype)


@lru_cache(maxsize=4096)
def _count(architecture: Architecture, workload: Workload, dtype: torch.dtype) -> Counts:
    with torch.device("meta"):
        model = compile_architecture(architecture).to(dtype)
    return Counts(
        parameters=sum(p.numel() for p in model.parameters()),
        active_parameters=model.active_parameters(),
        weight_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        sequence_bytes=model.state_bytes(workload.context),
        flops_prefill=model.flops(workload.prompt, 0),
        flops_decode=model.flops(1, workload.context),
    )


@lru_cache(maxsize=4096)
def _parameters(architecture: Architecture) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in compile_architecture(architecture).parameters())


def count_parameters(architecture: Architecture) -> int:
    """All parameters, shared ones once."""
    return _parameters(replace(architecture, name="counted"))


def deployed(architecture: Architecture, deployment: Deployment) -> Architecture:
    """The proxy's choices at the size of the deployment, parameters matched again; raises CannotMatch."""
    width, target = deployment.width, deployment.parameters
    if width is None:
        assert target is not None
        width = width_for(architecture, deployment, target)
    large = resized(architecture, deployment.scale(width))
    return large if target is None else match_parameters(large, target)


def width_for(architecture: Architecture, deployment: Deployment, target: int) -> float:
    """The factor on the width at which the network, FFNs in proportion, has about `target` parameters.

    Embeddings grow with the width, everything else with its square; heads and biases are rounded later, and the
    matching of FFN widths takes up what this leaves.
    """
    deep = resized(architecture, replace(deployment.scale(1.0), head_dim=1.0))
    linear = deep.d_model * deep.vocab_size * (1 if deep.tie_embeddings else 2)
    quadratic = max(1, count_parameters(deep) - linear)
    return (math.sqrt(linear**2 + 4 * quadratic * target) - linear) / (2 * quadratic)


def match_parameters(
    architecture: Architecture, target: int, *, multiple: int = 8, tolerance: float = 0.03
) -> Architecture:
    """The architecture with all FFN widths times one factor, such that its parameters are nearest to `target`.

    Widths are rounded to `multiple`, which keeps the ratio between layers up to rounding. Where rounding alone misses
    by more than a third of `tolerance`, single layers move by one `multiple`. Raises CannotMatch beyond `tolerance`.
    """
    widths = [ffn_width(block.ffn) for block in architecture.blocks]
    if not any(widths):
        total = count_parameters(architecture)
        if abs(total - target) <= tolerance * target:
            return architecture
        raise CannotMatch(
            f"Parameters are matched by FFN widths, but {architecture.name!r} has no FFN and {total:,} parameters, "
            f"not {target:,}."
        )
    fixed, slopes = parameters_by_width(architecture, multiple)
    smallest = fixed + sum(slope * multiple for slope in slopes)
    if smallest > target * (1 + tolerance):
        raise CannotMatch(
            f"The mixers and embeddings of {architecture.name!r} alone take {fixed:,} of {target:,} parameters; "
            "make them smaller or the target larger."
        )
    factor = (target - fixed) / sum(slope * width for slope, width in zip(slopes, widths, strict=True))
    rounded = [max(multiple, round(w * factor / multiple) * multiple) if w else 0 for w in widths]
    rounded = move_nearer(rounded, slopes, target - fixed, multiple=multiple, enough=tolerance / 3 * target)
    total = fixed + sum(slope * width for slope, width in zip(slopes, rounded, strict=True))
    if abs(total - target) > tolerance * target:
        raise CannotMatch(
            f"FFN widths in steps of {multiple} bring {architecture.name!r} to {total:,} parameters, which is not "
            f"within {tolerance:.0%} of {target:,}."
        )
    return with_ffn_widths(architecture, rounded)


def move_nearer(widths: list[int], slopes: list[int], wanted: int, *, multiple: int, enough: float) -> list[int]:
    """Move single widths by one `multiple`, each at most once, while that brings their parameters nearer to `wanted`.

    Stops when they are within `enough`: equal layers that stay equal are worth more than the last percent, and widths
    are scaled again at the deployment.
    """
    widths = list(widths)
    miss = wanted - sum(slope * width for slope, width in zip(slopes, widths, strict=True))
    movable = [i for i, width in enumerate(widths) if width]
    while movable and abs(miss) > enough:
        step = multiple if miss > 0 else -multiple
        best = min(movable, key=lambda i: abs(miss - slopes[i] * step))
        movable.remove(best)
        if abs(miss - slopes[best] * step) < abs(miss) and widths[best] + step >= multiple:
            widths[best] += step
            miss -= slopes[best] * step
    return widths


def parameters_by_width(architecture: Architecture, step: int) -> tuple[int, list[int]]:
    """Parameters that no FFN width changes, and for each block the parameters that one unit of width adds."""
    total = count_parameters(architecture)
    widths = [ffn_width(block.ffn) for block in architecture.blocks]
    slope_of: dict[FfnOptions, int] = {}
    for i, block in enumerate(architecture.blocks):
        if widths[i] and block.ffn not in slope_of:
            wider = with_ffn_widths(architecture, [w + step * (i == j) for j, w in enumerate(widths)])
            slope_of[block.ffn] = (count_parameters(wider) - total) // step
    slopes = [slope_of.get(block.ffn, 0) for block in architecture.blocks]
    return total - sum(slope * width for slope, width in zip(slopes, widths, strict=True)), slopes


def ffn_width(ffn: FfnOptions) -> int:
    """The hidden width of an FFN (of one expert), 0 without one."""
    name = width_option(ffn)
    return 0 if name is None else getattr(ffn, name)


def width_option(ffn: FfnOptions) -> str | None:
    """The name of the option that holds an FFN's width; a kind has at most one."""
    names = [f.name for f in fields(ffn) if role_of(type(ffn), f.name) == "width"]
    assert len(names) <= 1, f"{ffn.kind} has several widths: {names}"
    return names[0] if names else None


def with_ffn_widths(architecture: Architecture, widths: list[int]) -> Architecture:
    """The architecture with the FFN of each block at the given width; 0 leaves a block as it is."""
    blocks = []
    for block, width in zip(architecture.blocks, widths, strict=True):
        name = width_option(block.ffn)
        changed = block if name is None or not width else replace(block, ffn=replace(block.ffn, **{name: width}))
        blocks.append(changed)
    return replace(architecture, blocks=tuple(blocks))
