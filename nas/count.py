"""What a network costs, counted without building it: parameters, FLOPs, bytes. And the matching of parameters.

* Counts are sums over parts (`nas/parts.py`), so thousands of architectures a second can be counted.
* Designs are compared at equal parameters: a mixer that spends fewer gets wider FFNs. Total parameters are linear in
  the FFN widths, and nothing else depends on them, so one factor for all FFNs follows in closed form.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from nas.architecture import Architecture, Attention, Block, NoFfn, NoMixer, resized
from nas.deployment import MATCHED_WITHIN, Deployment
from nas.parts import (
    active_parameters,
    ffn_flops,
    ffn_parameters,
    ffn_state_bytes,
    ffn_width,
    mixer_flops,
    mixer_parameters,
    mixer_state_bytes,
    own_parameters,
    own_per_width,
    parameters_per_width,
    with_width,
)
from nas.workload import LONGEST_CONTEXT


class CannotMatch(ValueError):
    """No FFN widths bring an architecture near the wanted number of parameters. The message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Exact numbers of one architecture at one context.

    parameters: all, shared ones once. active_parameters: those that one token uses. weight_bytes: all parameters.
    sequence_bytes: KV cache and recurrent state of one sequence at the context. flops_decode: one new token of one
    sequence at the context.
    """

    parameters: int
    active_parameters: int
    weight_bytes: int
    sequence_bytes: int
    flops_decode: int


def count(architecture: Architecture, context: int, *, dtype: torch.dtype = torch.float32) -> Counts:
    """Counts of an architecture, as it stands (resize first), when a sequence holds `context` tokens."""
    parameters, d_model = count_parameters(architecture), architecture.d_model
    ffns = [(block.ffn, times) for block, times in _with_weights(architecture)]
    idle = sum(times * (ffn_parameters(ffn, d_model) - active_parameters(ffn, d_model)) for ffn, times in ffns)
    return Counts(
        parameters=parameters,
        active_parameters=parameters - idle,
        weight_bytes=parameters * dtype.itemsize,
        sequence_bytes=count_state_bytes(architecture, context, dtype=dtype),
        flops_decode=count_flops(architecture, 1, context),
    )


@lru_cache(maxsize=1024)
def count_parameters(architecture: Architecture) -> int:
    """All parameters, shared ones once."""
    d_model = architecture.d_model
    ends = architecture.vocab_size * d_model * (1 if architecture.tie_embeddings else 2) + d_model
    ends += (architecture.num_meta_tokens + (not architecture.causal)) * d_model  # the mask has an embedding
    parts = sum(
        times * (mixer_parameters(block.mixer, d_model) + ffn_parameters(block.ffn, d_model))
        for block, times in _with_weights(architecture)
    )
    own = sum(times * own_parameters(block, d_model) for block, times in architecture.distinct_blocks)
    return ends + parts + own + d_model * _further_norm_vectors(architecture)


def _with_weights(architecture: Architecture) -> list[tuple[Block, int]]:
    """Every different block that has weights of its own, and how often it stands there."""
    return [(block, times) for block, times in architecture.distinct_blocks if block.weights_of is None]


def _further_norm_vectors(architecture: Architecture) -> int:
    """Vectors of d_model in norms beyond one for every part and one at the end, which the parts and ends count."""
    parts, norms = 1, 1 + architecture.embedding_norm
    for block, times in _with_weights(architecture):
        placements = [] if isinstance(block.mixer, NoMixer) else [block.mixer_norm]
        placements += [] if isinstance(block.ffn, NoFfn) else [block.ffn_norm]
        parts += times * len(placements)
        norms += times * (sum(2 if placement == "sandwich" else 1 for placement in placements) - block.parallel)
        norms += times * (isinstance(block.mixer, Attention) and block.mixer.reads == "with_embedding")
    return norms * (2 if architecture.norm_bias else 1) - parts


@lru_cache(maxsize=1024)
def count_state_bytes(architecture: Architecture, context: int, *, dtype: torch.dtype) -> int:
    """Bytes of cache and recurrent state of one sequence of `context` tokens, and the meta tokens before them.

    None where the network is not causal, which reads everything again.
    """
    if not architecture.causal:
        return 0
    d_model, context = architecture.d_model, context + architecture.num_meta_tokens
    return sum(
        times * (mixer_state_bytes(block.mixer, d_model, context, dtype) + ffn_state_bytes(block.ffn, d_model, dtype))
        for block, times in architecture.distinct_blocks
    )


def count_flops(architecture: Architecture, tokens: int, context: int = 0) -> int:
    """Forward operations of `tokens` tokens of one sequence after `context` earlier ones.

    Two per multiply-accumulate; the head counts for every token; lookups, norms and activations do not count. Meta
    tokens are read with the first token. What is not causal reads the earlier ones again, without a head for them.
    """
    d_model, meta = architecture.d_model, architecture.num_meta_tokens
    head = 2 * tokens * architecture.vocab_size * d_model
    if not architecture.causal:
        tokens, context = tokens + context, 0
    tokens, context = (tokens, context + meta) if context else (tokens + meta, 0)
    return head + sum(
        times
        * (
            mixer_flops(block.mixer, d_model, tokens, context)
            + ffn_flops(block.ffn, d_model, tokens)
            + 2 * tokens * own_parameters(block, d_model)
        )
        for block, times in architecture.distinct_blocks
    )


def longest_context(architecture: Architecture, batch: int, free_bytes: int, *, dtype: torch.dtype) -> int:
    """The most tokens for which `batch` sequences fit beside the weights into `free_bytes`; 0 where none do."""
    weights = count_parameters(architecture) * dtype.itemsize

    def fits(context: int) -> bool:
        return weights + batch * count_state_bytes(architecture, context, dtype=dtype) <= free_bytes

    if fits(LONGEST_CONTEXT):
        return LONGEST_CONTEXT
    low, high = 0, LONGEST_CONTEXT  # state never shrinks with the context, so what fits ends somewhere between
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


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
    architecture: Architecture, target: int, *, multiple: int = 8, tolerance: float = MATCHED_WITHIN
) -> Architecture:
    """The architecture with all FFN widths times one factor, such that its parameters are nearest to `target`.

    Widths are rounded to `multiple`, which keeps the ratio between layers up to rounding. Where rounding alone misses
    by more than a third of `tolerance`, single layers move by one `multiple`. Raises CannotMatch beyond `tolerance`.
    """
    widths = _own_widths(architecture)
    if not any(widths):
        total = count_parameters(architecture)
        if abs(total - target) <= tolerance * target:
            return architecture
        raise CannotMatch(
            f"Parameters are matched by FFN widths, but {architecture.name!r} has no FFN and {total:,} parameters, "
            f"not {target:,}."
        )
    fixed, slopes = parameters_by_width(architecture)
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


def parameters_by_width(architecture: Architecture) -> tuple[int, list[int]]:
    """Parameters that no FFN width changes, and for each block the parameters that one unit of width adds.

    A block with the weights of another adds none: what its adapters add counts with that one's.
    """
    slopes = [0] * len(architecture.blocks)
    for block, at in zip(architecture.blocks, architecture.weights_at, strict=True):
        slopes[at] += parameters_per_width(block.ffn, architecture.d_model) if block.weights_of is None else 0
        slopes[at] += own_per_width(block, architecture.d_model)
    widths = _own_widths(architecture)
    movable = sum(slope * width for slope, width in zip(slopes, widths, strict=True))
    return count_parameters(architecture) - movable, slopes


def _own_widths(architecture: Architecture) -> list[int]:
    """The width of each FFN, 0 where there is none or it is that of an earlier block."""
    return [ffn_width(block.ffn) if block.weights_of is None else 0 for block in architecture.blocks]


def with_ffn_widths(architecture: Architecture, widths: list[int]) -> Architecture:
    """The architecture with the FFN of each block at the given width; 0 leaves a block as it is.

    A block with the weights of another follows that one.
    """
    widths = [widths[i] for i in architecture.weights_at]
    blocks = tuple(
        _with_ffn_width(block, width) if width else block
        for block, width in zip(architecture.blocks, widths, strict=True)
    )
    return replace(architecture, blocks=blocks)


@lru_cache(maxsize=16384)
def _with_ffn_width(block: Block, width: int) -> Block:
    return replace(block, ffn=with_width(block.ffn, width))
