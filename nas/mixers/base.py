"""What every token mixer can do: read a sequence, read on from a state, take one step, and say what that costs."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from nas.context import Context
from nas.layers.linear import Linear

State = dict[str, Tensor]


class Mixer(nn.Module, ABC):
    """A token mixer.

    Attributes:
        family: the row of the learning-rate table.
        causal: whether a token sees none after it. One that is not reads whole sequences alone: its state is empty,
            and reading begins anew whatever state is given.
        out_proj: the last projection, whose result joins the residual stream.
    """

    family: str
    causal: bool = True
    out_proj: Linear

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        """Mix x [B, T, d] -> (y [B, T, d], state).

        Without a state: from the start, nothing is kept, and the state returned is None. With a state: read on after
        `context.position` tokens and return the state after the last one. The state given is used up: buffers in it may
        be written in place.
        """

    def check_causal(self) -> None:
        """Raise ValueError unless tokens can be read one by one."""
        if not self.causal:
            raise ValueError(
                "A mixer with direction: both has no step, because a new token changes what all others see: read the "
                "whole sequence again."
            )

    def without_projection(self) -> None:
        """Leave the last projection to another: what is returned is what it would be given."""
        self.out_proj = nn.Identity()  # type: ignore[assignment]

    @abstractmethod
    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        """One token x [B, d] at `context.position` -> (y [B, d], state); uses up the state given."""

    @abstractmethod
    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        """The state before the first token, with room for max_len tokens; `dtype` is that of cached activations.

        Recurrent states are float32 whatever the dtype.
        """

    @abstractmethod
    def flops(self, tokens: int, context_len: int) -> int:
        """Floating-point operations of reading `tokens` tokens of one sequence after `context_len` earlier ones.

        Two per multiply-accumulate, projections included; norms, gates and activations are not counted. Recurrences
        count in their token-by-token form, and add up over chunks, unless a single token is read in another form.
        """

    def state_bytes(self, context_len: int, dtype: torch.dtype) -> int:
        """Bytes of the state of one sequence of context_len tokens."""
        state = self.init_state(1, context_len, dtype, torch.device("meta"))
        return sum(tensor.nbytes for tensor in state.values())

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        """Bytes of state that reading `tokens` tokens of one sequence after `context_len` others must move at least.

        A recurrent state is read and written whole, once; who can do with less says so.
        """
        return 2 * self.state_bytes(context_len + tokens, dtype)

    def scale_output(self, factor: float) -> None:
        """Shrink what this mixer adds to the residual stream at the start of training."""
        with torch.no_grad():
            self.out_proj.weight.mul_(factor)


def linear_flops(tokens: int, *layers: nn.Module) -> int:
    """Two per multiply-accumulate; nothing for what projects nothing (`nn.Identity`)."""
    return sum(2 * tokens * layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))
