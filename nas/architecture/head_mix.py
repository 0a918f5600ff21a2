"""The options of several mixers side by side in one layer."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.mixers import Attention, Mamba1, Mamba2, NoMixer
from nas.architecture.options import option


@dataclass(frozen=True, kw_only=True)
class HeadMix(MixerOptions):
    """Several mixers side by side in one layer, each with its own heads, fused into one output.

    `concat`: heads are concatenated and projected once. `norm_mean`: mean of normalised branches with learned scales.
    scales: of `concat`, a factor for the output of each part. shared_out: of `norm_mean`; heads are averaged, then
    projected once, as in Hymba (arXiv 2411.13676, section 2.1), whose parts have heads of the same width in all.
    direction: that of all parts.
    """

    kind: ClassVar[str] = "head_mix"
    family: ClassVar[str] = "head_mix"

    parts: tuple[MixerOptions, ...]
    fuse: Literal["concat", "norm_mean"] = option("norm_mean")
    scales: tuple[float, ...] | None = None
    shared_out: bool = option(False, rare=True)

    @property
    def sees_both_at_once(self) -> bool:
        return True

    @property
    def directed_parts(self) -> tuple[MixerOptions, ...]:
        """The parts, which read as the whole does."""
        if self.direction == "forward":  # as parts alone do, and nearly every head_mix: asked thousands of times
            return self.parts
        return tuple(replace(part, direction=self.direction) for part in self.parts)

    def check(self) -> None:
        if self.scales is not None:
            given = self.scales if isinstance(self.scales, tuple) else ()
            numbers = [s for s in given if isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s)]
            if self.fuse != "concat" or len(numbers) != len(self.parts):
                raise ArchitectureError(
                    f"scales must be one number for each of the {len(self.parts)} parts of a concat, but got "
                    f"{self.scales!r} with fuse={self.fuse}."
                )
        if not isinstance(self.parts, tuple) or not all(isinstance(p, MixerOptions) for p in self.parts):
            raise ArchitectureError(f"parts must be a list of mixers, but got {self.parts!r}.")
        if len(self.parts) < 2:
            raise ArchitectureError(f"head_mix needs at least 2 parts, but got {len(self.parts)}.")
        for part in self.parts:
            if isinstance(part, HeadMix | NoMixer):
                raise ArchitectureError(f"A part of head_mix must be a mixer with heads, but got {part.kind!r}.")
            if part.direction != "forward":
                raise ArchitectureError(
                    f"Parts of head_mix read as the whole does, but got one with direction={part.direction}; set it on "
                    "the head_mix."
                )
            if isinstance(part, Attention) and part.reads != "stream":
                raise ArchitectureError(
                    f"Parts of head_mix read the stream alone, but got one with reads={part.reads}."
                )
        if self.shared_out:
            self._check_shared_out()

    def _check_shared_out(self) -> None:
        if self.fuse != "norm_mean":
            raise ArchitectureError(f"shared_out is of fuse: norm_mean, but got fuse={self.fuse}.")
        for part in self.parts:
            if not isinstance(part, Attention | Mamba1 | Mamba2) or getattr(part, "out_bias", False):
                raise ArchitectureError(
                    "Parts of a head_mix with shared_out are attention, mamba1 or mamba2 without out_bias, but got "
                    f"{part.kind} with out_bias={getattr(part, 'out_bias', False)}."
                )
        widths = [heads_width(part) for part in self.parts]
        if len(set(widths)) > 1:
            raise ArchitectureError(
                f"Parts of a head_mix with shared_out must have heads of the same width in all, but got {widths}."
            )

    def canonical(self, d_model: int) -> MixerOptions:
        if self.scales is not None and any(scale != 1 for scale in self.scales):
            pairs = zip((p.canonical(d_model) for p in self.parts), map(float, self.scales), strict=True)
            ordered, scales = zip(*sorted(pairs, key=repr), strict=True)
            return replace(self, parts=ordered, scales=scales)
        parts: list[MixerOptions] = []
        for part in sorted((p.canonical(d_model) for p in self.parts), key=repr):
            joined = join_heads(parts[-1], part) if parts and self.fuse == "concat" else None
            if joined is None:
                parts.append(part)
            else:
                parts[-1] = joined
        if len(parts) == 1:
            return replace(parts[0], direction=self.direction)
        return replace(self, parts=tuple(parts), scales=None)


def heads_width(part: Any) -> int:
    """Channels of all heads of a mixer with heads, before its output projection."""
    return part.num_heads * (part.value_size if isinstance(part, Attention) else part.head_dim)


def join_heads(first: MixerOptions, second: MixerOptions) -> MixerOptions | None:
    """One multi-head attention that computes what two concatenated ones compute, or None if there is none."""
    if not (isinstance(first, Attention) and isinstance(second, Attention)):
        return None
    total = first.num_heads + second.num_heads
    if first.kv_heads != first.num_heads or second.kv_heads != second.num_heads:
        return None
    if first.kv_from != "own" or first.routes_heads:
        return None
    if replace(first, num_heads=total, num_kv_heads=total) != replace(second, num_heads=total, num_kv_heads=total):
        return None
    return replace(first, num_heads=total, num_kv_heads=total)
