"""One architecture at another size: the explicit mapping from a trained proxy to the model that is deployed.

* depth: the list of blocks is stacked (tiled) or stretched (each block repeated in place); a block with the weights of
  another has those of the nearest copy of it;
* width: heads, FFN and model width grow together; shares between mixers, KV heads and experts are kept and rounded so
  that sums hold;
* head size and recurrent state grow together, by the ratio of head sizes;
* windows and blocks are multiplied by `tokens`: 1 keeps them absolute, as text wants; synthetic tasks scale them with
  their length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

from nas.architecture.architecture import Architecture, Block
from nas.architecture.errors import ArchitectureError
from nas.architecture.head_mix import HeadMix, heads_width
from nas.architecture.mixers import MixerOptions
from nas.architecture.options import Options, role_of

PartT = TypeVar("PartT", bound=Options)
HEAD_MULTIPLE = 4
FFN_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Factors of `resized`; 1 and None leave things as they are.

    width, depth: factors on model width and number of blocks. head_dim: factor on head and state sizes.
    tokens: factor on windows and blocks. vocab_size: the new vocabulary.
    """

    width: float = 1.0
    depth: float = 1.0
    head_dim: float = 1.0
    tokens: float = 1.0
    vocab_size: int | None = None
    depth_by: Literal["stack", "stretch"] = "stack"

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int | float) and not value > 0:
                raise ArchitectureError(f"{f.name} must be positive, but got {value!r}.")
        if self.depth_by not in ("stack", "stretch"):
            raise ArchitectureError(f"depth_by must be stack or stretch, but got {self.depth_by!r}.")


def resized(architecture: Architecture, scale: Scale) -> Architecture:
    """The same choices at another size. Deterministic; `resized(a, Scale())` is `a`."""
    if scale == Scale():
        return architecture
    d_model = architecture.d_model
    if scale.width != 1 or scale.head_dim != 1:
        quantum = _quantum(architecture, scale)
        d_model = max(quantum, round(architecture.d_model * scale.width / quantum) * quantum)
    exact = replace(scale, width=d_model / architecture.d_model)
    return replace(
        architecture,
        d_model=d_model,
        vocab_size=architecture.vocab_size if scale.vocab_size is None else scale.vocab_size,
        blocks=tuple(_resize_block(block, exact) for block in _resize_depth(architecture, scale)),
    )


def _quantum(architecture: Architecture, scale: Scale) -> int:
    """Model widths step by the size of one head, so that heads can fill them."""
    sizes = [getattr(m, "head_dim", 0) for m in architecture.mixers]
    return _multiple(max(sizes, default=8) * scale.head_dim, HEAD_MULTIPLE)


def _resize_depth(architecture: Architecture, scale: Scale) -> tuple[Block, ...]:
    blocks = architecture.blocks
    count = max(1, round(len(blocks) * scale.depth))
    if scale.depth_by == "stack":
        return tuple(blocks[i % len(blocks)] for i in range(count))
    last_with_weights: dict[int, int] = {}
    found: list[Block] = []
    for i in range(count):
        old = i * len(blocks) // count
        block, weights = blocks[old], architecture.weights_at[old]
        if block.weights_of is not None:
            known = last_with_weights.get(weights)
            block = replace(block, weights_of=None if known is None else i - known)
        last_with_weights[weights] = i
        found.append(block)
    return tuple(found)


@lru_cache(maxsize=16384)
def _resize_block(block: Block, scale: Scale) -> Block:
    if isinstance(block.mixer, HeadMix):
        wanted = [_heads(part) * scale.width / scale.head_dim for part in block.mixer.parts]
        heads = _of_equal_width(block.mixer, scale) if block.mixer.shared_out else apportion(wanted)
        parts = tuple(_resize_part(p, scale, n) for p, n in zip(block.mixer.parts, heads, strict=True))
        mixer: MixerOptions = replace(block.mixer, parts=parts)
    else:
        mixer = _resize_part(block.mixer, scale, max(1, round(_heads(block.mixer) * scale.width / scale.head_dim)))
    return replace(block, mixer=mixer, ffn=_resize_part(block.ffn, scale, 0))


def _of_equal_width(mixer: HeadMix, scale: Scale) -> list[int]:
    """Heads of each part that come to the same width in all, nearest to what is wanted."""
    sizes = [heads_width(_resize_part(part, scale, 1)) for part in mixer.parts]
    width = _multiple(heads_width(mixer.parts[0]) * scale.width, math.lcm(*sizes))
    return [width // size for size in sizes]


def _heads(mixer: MixerOptions) -> int:
    return getattr(mixer, "num_heads", 1)


def _resize_part(part: PartT, scale: Scale, num_heads: int) -> PartT:
    changes: dict[str, Any] = {}
    for f in fields(part):
        value = getattr(part, f.name)
        if isinstance(value, Options):
            changes[f.name] = _resize_part(value, scale, num_heads)
        if value is None or isinstance(value, str | tuple | Options):
            continue
        match role_of(type(part), f.name):
            case "heads" if f.name == "num_heads":
                changes[f.name] = num_heads
            case "heads":
                changes[f.name] = nearest_divisor(num_heads, value / _heads(part) * num_heads)  # type: ignore[arg-type]
            case "groups":
                changes[f.name] = nearest_divisor(num_heads, value)  # type: ignore[arg-type]
            case "width":
                changes[f.name] = (
                    _multiple(value * scale.width, FFN_MULTIPLE) if f.name == "d_ff" else _whole(value * scale.width)
                )
            case "head_dim":
                size = _multiple(value * scale.head_dim, HEAD_MULTIPLE)
                changes[f.name] = min(max(size, f.metadata["minimum"]), f.metadata["maximum"] or size)
            case "state":
                changes[f.name] = _whole(value * scale.head_dim)
            case "tokens":
                changes[f.name] = max(_whole(value * scale.tokens), f.metadata["minimum"] or 1)
    return replace(part, **changes)


def apportion(wanted: Sequence[float]) -> list[int]:
    """Whole numbers of at least 1 in the given proportions whose sum is the rounded sum (largest remainders)."""
    total = max(len(wanted), round(sum(wanted)))
    counts = [max(1, int(w)) for w in wanted]
    while sum(counts) < total:
        i = max(range(len(wanted)), key=lambda j: wanted[j] - counts[j])
        counts[i] += 1
    while sum(counts) > total:
        i = max((j for j in range(len(wanted)) if counts[j] > 1), key=lambda j: counts[j] - wanted[j])
        counts[i] -= 1
    return counts


def nearest_divisor(number: int, wanted: float) -> int:
    """The divisor of `number` nearest to `wanted`; the larger of two equally near ones."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), -d))


def _multiple(value: float, of: int) -> int:
    return max(of, round(value / of) * of)


def _whole(value: float) -> int:
    return max(1, round(value))
