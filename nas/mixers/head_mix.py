"""Several mixers side by side in one layer, each with heads of its own, fused into one output.

Each part is a whole mixer with its own output projection. `concat` is the sum of the parts, which equals concatenating
their heads and projecting once; each part may have a factor. `norm_mean` is the mean of the RMS-normalised parts with
learned scales per channel.
Source of norm_mean: Dong et al., Hymba (arXiv 2411.13676), section 2.1; there the heads of the parts are normalised and
averaged before one projection, as here with `shared_out`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas.architecture.head_mix import HeadMix, heads_width
from nas.architecture.mixer_options import MixerOptions
from nas.context import Context
from nas.layers.linear import INIT_STD, Linear
from nas.layers.norm import RMSNorm
from nas.mixers.base import Mixer, State, linear_flops


class HeadMixer(Mixer):
    """Fuses parts; its state is theirs, each name behind the number of its part. `build` makes a part from options."""

    def __init__(self, options: HeadMix, d_model: int, build: Callable[[MixerOptions, int], Mixer | None]) -> None:
        super().__init__()
        self.family = options.family
        self.causal = options.causal
        self.parts: list[Mixer] = nn.ModuleList(build(part, d_model) for part in options.directed_parts)  # type: ignore[assignment]
        self.scales = options.scales
        self.shared_out = options.shared_out
        normed = options.parts if options.fuse == "norm_mean" else ()
        size = heads_width(options.parts[0]) if options.shared_out else d_model
        self.norms: list[RMSNorm] = nn.ModuleList(RMSNorm(size) for _ in normed)  # type: ignore[assignment]
        if options.shared_out:
            self.out_proj = Linear(size, d_model)
            for part in self.parts:
                part.without_projection()
            return
        # A normalised part would enter the residual stream at size 1, far above the embeddings and every other mixer.
        # A value projection and an output projection at their initial size leave about this much.
        for norm in self.norms:
            nn.init.constant_(norm.weight, INIT_STD**2 * d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        outputs, new = [], None if state is None else {}
        for i, part in enumerate(self.parts):
            y, part_state = part(x, None if state is None else _state_of(state, i), context)
            outputs.append(y)
            if new is not None:
                new.update(_named(part_state, i))
        return self._fuse(outputs), new

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        self.check_causal()
        outputs, new = [], {}
        for i, part in enumerate(self.parts):
            y, part_state = part.step(x, _state_of(state, i), context)
            outputs.append(y)
            new.update(_named(part_state, i))
        return self._fuse(outputs), new

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        state: State = {}
        for i, part in enumerate(self.parts):
            state.update(_named(part.init_state(batch, max_len, dtype, device), i))
        return state

    def flops(self, tokens: int, context_len: int) -> int:
        out = linear_flops(tokens, self.out_proj) if self.shared_out else 0
        return out + sum(part.flops(tokens, context_len) for part in self.parts)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        return sum(part.state_traffic(tokens, context_len, dtype) for part in self.parts)

    def scale_output(self, factor: float) -> None:
        if self.shared_out:
            super().scale_output(factor)
            return
        for part in self.parts:
            part.scale_output(factor)
        with torch.no_grad():
            for norm in self.norms:
                norm.weight.mul_(factor)

    def _fuse(self, outputs: list[Tensor]) -> Tensor:
        if self.scales is not None:
            outputs = [scale * y for scale, y in zip(self.scales, outputs, strict=True)]
        if not self.norms:
            return _sum(outputs)
        mean = _sum([norm(y) for norm, y in zip(self.norms, outputs, strict=True)]) / len(outputs)
        return self.out_proj(mean) if self.shared_out else mean


def _sum(outputs: list[Tensor]) -> Tensor:
    total = outputs[0]
    for y in outputs[1:]:
        total = total + y
    return total


def _named(state: State, part: int) -> State:
    return {f"{part}.{name}": tensor for name, tensor in state.items()}


def _state_of(state: State, part: int) -> State:
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
