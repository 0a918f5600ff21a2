"""One residual block: a mixer and an FFN around the stream, each joining it as the wiring says.

Where norms stand and what is scaled: `nas.architecture.Block`. A part that is absent has no norm and no parameters.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nas.architecture import Attention, Block
from nas.architecture.architecture import NormPlacement
from nas.context import Context
from nas.ffns.base import Ffn
from nas.layers.adapter import OwnOfUse
from nas.layers.norm import sum_and_norm
from nas.mixers.base import Mixer, State

FFN_PREFIX = "ffn."


class ResidualBlock(nn.Module):
    """A mixer and an FFN, each joining the residual stream as the wiring says; either may be absent.

    norm: makes the norm of so many streams of the model's width. own: what each use of the block has for itself.
    """

    def __init__(
        self,
        wiring: Block,
        mixer: Mixer | None,
        ffn: Ffn | None,
        norm: Callable[[int], nn.Module],
        own: Sequence[OwnOfUse] = (),
    ) -> None:
        super().__init__()
        self.wiring = wiring
        self.wide = isinstance(wiring.mixer, Attention) and wiring.mixer.reads == "with_embedding"
        read = 2 if self.wide else 1
        self.mixer_norm = norm(read) if mixer is not None and wiring.mixer_norm != "post" else nn.Identity()
        self.mixer = mixer
        self.mixer_post_norm = norm(1) if mixer is not None and _ends_with_norm(wiring.mixer_norm) else nn.Identity()
        own_norm = ffn is not None and not wiring.parallel
        self.ffn_norm = norm(1) if own_norm and wiring.ffn_norm != "post" else nn.Identity()
        self.ffn = ffn
        self.ffn_post_norm = norm(1) if own_norm and _ends_with_norm(wiring.ffn_norm) else nn.Identity()
        self.own: list[OwnOfUse] = nn.ModuleList(own)  # type: ignore[assignment]

    def forward(self, x: Tensor, state: State | None, context: Context, use: int = 0) -> tuple[Tensor, State | None]:
        """x [B, T, d]; with a state, reads on from it. use: which one of the block's this is."""
        read = self._begin(x, context, use)
        if self.mixer is None:
            return self._end(x, self._after_ffn(x, read, context, state), context, use), state
        normed = self._normed(read, context)
        y, new = self.mixer(normed, state, context)
        y = self._end(x, self._after_mixer(x, normed, y, context, state), context, use)
        return y, None if new is None else self._with_ffn(new, state)

    def step(self, x: Tensor, state: State, context: Context, use: int = 0) -> tuple[Tensor, State]:
        """x [B, d], one token."""
        read = self._begin(x, context, use)
        if self.mixer is None:
            return self._end(x, self._after_ffn(x, read, context, state), context, use), state
        normed = self._normed(read, context)
        y, new = self.mixer.step(normed, state, context)
        y = self._end(x, self._after_mixer(x, normed, y, context, state), context, use)
        return y, self._with_ffn(new, state)

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        """The state of the mixer, and that of an FFN that remembers, each name of it behind a prefix."""
        state = {} if self.mixer is None else self.mixer.init_state(batch, max_len, dtype, device)
        kept = {} if self.ffn is None else self.ffn.init_state(batch, dtype, device)
        return state | {FFN_PREFIX + name: tensor for name, tensor in kept.items()}

    def _begin(self, x: Tensor, context: Context, use: int) -> Tensor:
        """What is read: the stream x with what the block before put aside."""
        own = self.own[use] if self.own else None
        context.mixer_adapter, context.ffn_adapter = (None, None) if own is None else (own.mixer, own.ffn)
        return with_aside(x, context)

    def _normed(self, read: Tensor, context: Context) -> Tensor:
        if self.wide:
            assert context.embedding is not None, "a model tells its blocks the embedding"
            read = torch.cat((read, context.embedding), dim=-1)
        return self.mixer_norm(read)

    def _end(self, x: Tensor, y: Tensor, context: Context, use: int) -> Tensor:
        """The stream after this block, y; or as it was, and y aside."""
        context.mixer_adapter = context.ffn_adapter = None
        if not self.wiring.aside:
            return y
        out_proj = self.own[use].out_proj
        assert out_proj is not None, "what goes aside is projected"
        context.aside = out_proj(y)
        return x

    def _after_mixer(self, x: Tensor, normed: Tensor, y: Tensor, context: Context, state: State | None) -> Tensor:
        w = self.wiring
        past = normed if w.mixer_norm == "residual" else x
        y = times(self.mixer_post_norm(y), w.mixer_scale)
        if self.ffn is None:
            return _skipped(past, w.mixer_skip, y)
        if w.parallel:
            past = _skipped(past, w.mixer_skip, y)
            return past + times(self._ffn_of(normed, context, state), w.ffn_scale)
        if w.mixer_skip == 0:
            normed, x = self.ffn_norm(y), y
        else:
            normed, x = sum_and_norm(self.ffn_norm, y, times(past, w.mixer_skip))
        return self._joined_by_ffn(x, normed, context, state)

    def _after_ffn(self, x: Tensor, read: Tensor, context: Context, state: State | None) -> Tensor:
        return x if self.ffn is None else self._joined_by_ffn(x, self.ffn_norm(read), context, state)

    def _joined_by_ffn(self, x: Tensor, normed: Tensor, context: Context, state: State | None) -> Tensor:
        w = self.wiring
        past = normed if w.ffn_norm == "residual" else x
        return _skipped(past, w.ffn_skip, times(self.ffn_post_norm(self._ffn_of(normed, context, state)), w.ffn_scale))

    def _ffn_of(self, normed: Tensor, context: Context, state: State | None) -> Tensor:
        assert self.ffn is not None, "who asks has an FFN"
        if not self.ffn.remembers or state is None:
            return self.ffn(normed, context)
        named = {name.removeprefix(FFN_PREFIX): x for name, x in state.items() if name.startswith(FFN_PREFIX)}
        return self.ffn(normed, context, named)

    def _with_ffn(self, new: State, old: State | None) -> State:
        """What a mixer returned, with the state of the FFN, which was brought up to date in place."""
        if self.ffn is None or not self.ffn.remembers or old is None:
            return new
        return new | {name: tensor for name, tensor in old.items() if name.startswith(FFN_PREFIX)}


def with_aside(x: Tensor, context: Context) -> Tensor:
    """The stream with what a block put aside, which is then taken."""
    aside, context.aside = context.aside, None
    return x if aside is None else x + aside


def _ends_with_norm(placement: NormPlacement) -> bool:
    return placement in ("post", "sandwich")


def times(x: Tensor, factor: float) -> Tensor:
    """factor x; without an operation where the factor is 1."""
    return x if factor == 1 else factor * x


def _skipped(past: Tensor, factor: float, y: Tensor) -> Tensor:
    """factor past + y; without an operation on the past where the factor is 0."""
    return y if factor == 0 else times(past, factor) + y
