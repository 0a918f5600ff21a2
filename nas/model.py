"""A language model as a stack of residual blocks: embedding, blocks, norm, head, and decoding from a state.

* Pre-norm: x + mixer(norm(x)), then x + ffn(norm(x)); a part that is absent has no norm and no parameters.
* The model knows no kinds; what a block is made of was decided by who built it (`nas/compile.py`).
* Initialisation: projections and embeddings normal with standard deviation 0.02, output projections of the residual
  branches times 1/sqrt(2 * number of blocks) (Radford et al., GPT-2, section 2.3); decay parameters as published.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.context import Context
from nas.ffns.base import Ffn
from nas.layers.linear import INIT_STD, Linear
from nas.layers.norm import RMSNorm
from nas.mixers.base import Mixer, State

SHARED_FAMILY = "shared"
NO_WEIGHT_DECAY_NAMES = frozenset({"A_log", "filter"})


def no_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter of a model is kept free of weight decay.

    Free are vectors (norms, biases, decay and gate biases, skip weights D) and, though they have two axes, the decay
    rates A_log of Mamba-1 and the filters of the short convolutions. `name` is that of `named_parameters()`.
    """
    return parameter.ndim < 2 or name.rsplit(".", 1)[-1] in NO_WEIGHT_DECAY_NAMES


@dataclass
class DecodeState:
    """What a model remembers of the tokens read so far.

    Attributes:
        position: tokens read.
        max_len: tokens there is room for.
        layers: one dictionary of tensors per block, as its mixer made it.
    """

    position: int
    max_len: int
    layers: list[State]

    def check_room(self, tokens: int) -> None:
        """Raise ValueError unless `tokens` more tokens fit."""
        if self.position + tokens > self.max_len:
            raise ValueError(
                f"The decode state holds {self.position} of at most {self.max_len} tokens, but got {tokens} more: "
                "make it with a larger max_len."
            )


class ResidualBlock(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); either part may be absent."""

    def __init__(self, d_model: int, mixer: Mixer | None, ffn: Ffn | None) -> None:
        super().__init__()
        self.mixer_norm = nn.Identity() if mixer is None else RMSNorm(d_model)
        self.mixer = mixer
        self.ffn_norm = nn.Identity() if ffn is None else RMSNorm(d_model)
        self.ffn = ffn

    def forward(self, x: Tensor, state: State | None, context: Context) -> tuple[Tensor, State | None]:
        """x [B, T, d]; with a state, reads on from it."""
        if self.mixer is not None:
            y, state = self.mixer(self.mixer_norm(x), state, context)
            x = x + y
        return self._add_ffn(x, context), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        """x [B, d], one token."""
        if self.mixer is not None:
            y, state = self.mixer.step(self.mixer_norm(x), state, context)
            x = x + y
        return self._add_ffn(x, context), state

    def _add_ffn(self, x: Tensor, context: Context) -> Tensor:
        return x if self.ffn is None else x + self.ffn(self.ffn_norm(x), context)


class Model(nn.Module):
    """A causal language model over `vocab_size` tokens."""

    def __init__(self, *, d_model: int, vocab_size: int, tie_embeddings: bool, blocks: list[ResidualBlock]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model, _weight=torch.empty(vocab_size, d_model))
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        self.blocks: list[ResidualBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.norm = RMSNorm(d_model)
        self.head = None if tie_embeddings else Linear(d_model, vocab_size)
        for part in self._parts():
            part.scale_output((2 * len(blocks)) ** -0.5)

    def forward(self, tokens: Tensor, context: Context | None = None) -> Tensor:
        """Logits [B, T, V] of the token after each of tokens [B, T]; auxiliary losses are left in the context."""
        context = context or Context()
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _ = block(x, None, context)
        return self._logits(x)

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype | None = None) -> DecodeState:
        """The state before any token, with room for max_len tokens; caches in `dtype`, or that of the weights."""
        weight = self.embedding.weight
        dtype = weight.dtype if dtype is None else dtype
        layers = [
            {} if block.mixer is None else block.mixer.init_state(batch, max_len, dtype, weight.device)
            for block in self.blocks
        ]
        return DecodeState(position=0, max_len=max_len, layers=layers)

    @torch.no_grad()
    def prefill(self, tokens: Tensor, state: DecodeState | None = None) -> tuple[Tensor, DecodeState]:
        """Read tokens [B, T], from the start or on from a state; returns (logits [B, V] after the last one, the state).

        Without a state there is room for these tokens and no more. The state given is used up: keep the one returned.
        Raises ValueError when the tokens do not fit.
        """
        state = self.init_state(tokens.shape[0], tokens.shape[1]) if state is None else state
        state.check_room(tokens.shape[1])
        context, layers = Context(position=state.position), []
        x = self.embedding(tokens)
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, layer = block(x, layer, context)
            layers.append(layer)
        return self._logits(x[:, -1]), DecodeState(state.position + tokens.shape[1], state.max_len, layers)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Read one token per sequence, tokens [B]; returns (logits [B, V], the state). As `prefill` otherwise."""
        state.check_room(1)
        context, layers = Context(position=state.position), []
        x = self.embedding(tokens)
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, layer = block.step(x, layer, context)
            layers.append(layer)
        return self._logits(x), DecodeState(state.position + 1, state.max_len, layers)

    @torch.no_grad()
    def generate(self, tokens: Tensor, max_new_tokens: int, temperature: float = 0.0) -> Tensor:
        """Continue tokens [B, T] to [B, T + max_new_tokens]: the likeliest token at temperature 0, else sampled."""
        if max_new_tokens < 1:
            return tokens
        logits, state = self.prefill(tokens, self.init_state(tokens.shape[0], tokens.shape[1] + max_new_tokens))
        new = [_choose(logits, temperature)]
        while len(new) < max_new_tokens:
            logits, state = self.step(new[-1], state)
            new.append(_choose(logits, temperature))
        return torch.cat((tokens, torch.stack(new, dim=1)), dim=1)

    def parameter_families(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by the family of mixer whose learning rate they take; each parameter stands once.

        A block, its norms and its FFN with it, belongs to the family of its mixer. Where a mixer holds several mixers,
        each of these belongs to its own family and the rest of the block to "shared", as do blocks without a mixer,
        embedding, last norm and head.
        """
        family_of: dict[nn.Parameter, str] = {}
        for block in self.blocks:
            mixers = [module for module in block.modules() if isinstance(module, Mixer)]
            owners = [(block, mixers[0])] if len(mixers) == 1 else [(mixer, mixer) for mixer in mixers[1:]]
            for owner, mixer in owners:
                family_of.update(dict.fromkeys(owner.parameters(), mixer.family))
        families: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            families.setdefault(family_of.get(parameter, SHARED_FAMILY), []).append((name, parameter))
        return families

    def _parts(self) -> list[Mixer | Ffn]:
        return [part for block in self.blocks for part in (block.mixer, block.ffn) if part is not None]

    def _logits(self, x: Tensor) -> Tensor:
        head = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x), head)


def filled_state(model: Model, batch: int, context_len: int, new_tokens: int) -> DecodeState:
    """A state as if context_len tokens had been read, with random finite contents and room for new_tokens more.

    For measuring decoding at a context without the cost of reading one.
    """
    state = model.init_state(batch, context_len + new_tokens)
    for layer in state.layers:
        for tensor in layer.values():
            tensor.normal_()
    state.position = context_len
    return state


def _choose(logits: Tensor, temperature: float) -> Tensor:
    """One token per row of logits [B, V]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1).squeeze(1)
