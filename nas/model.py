"""A language model as a stack of residual blocks: embedding, blocks, norm, head, and decoding from a state.

* Where norms stand and what is scaled is the wiring of a block (`nas/residual.py`); by default x + mixer(norm(x)),
  then x + ffn(norm(x)).
* The model knows no kinds; what a block is made of was decided by who built it (`nas/compile.py`).
* Initialisation: projections and embeddings normal with standard deviation 0.02, output projections of the residual
  branches times 1/sqrt(2 * number of layers) (Radford et al., GPT-2, section 2.3); decay parameters as published.
"""

from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.context import Context
from nas.denoising import choose, continued
from nas.ffns.base import Ffn
from nas.layers.linear import INIT_STD, Linear
from nas.layers.norm import RMSNorm
from nas.mixers.base import Mixer, State
from nas.residual import ResidualBlock, times, with_aside

SHARED_FAMILY = "shared"
NO_WEIGHT_DECAY_NAMES = frozenset({"A_log", "filter", "shares", "own", "bonus", "input_bias", "recurrent_bias"})


def no_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter of a model is kept free of weight decay.

    Free are vectors (norms, biases, decay and gate biases, skip weights D) and, though they have two axes, the decay
    rates A_log of Mamba-1, the filters of the short convolutions, the shares and bonuses of RWKV, and biases by head.
    `name` is that of `named_parameters()`.
    """
    return parameter.ndim < 2 or name.rsplit(".", 1)[-1] in NO_WEIGHT_DECAY_NAMES


@dataclass
class DecodeState:
    """What a model remembers of the tokens read so far.

    Attributes:
        position: tokens read, without meta tokens.
        max_len: tokens there is room for.
        layers: one dictionary of tensors per layer, as its mixer made it.
        clock: tokens read, meta tokens among them, where the device reads it: [] int64.
    """

    position: int
    max_len: int
    layers: list[State]
    clock: Tensor

    def check_room(self, tokens: int) -> None:
        """Raise ValueError unless `tokens` more tokens fit."""
        if self.position + tokens > self.max_len:
            raise ValueError(
                f"The decode state holds {self.position} of at most {self.max_len} tokens, but got {tokens} more: "
                "make it with a larger max_len."
            )


class Model(nn.Module):
    """A language model over `vocab_size` tokens.

    `meta_tokens` [M, d] are read before every text, at positions 0 to M - 1; states count them, tokens and logits do
    not. `order` names the block of each layer where a block is that of several; unless given, layers are blocks.
    Unless `causal`, tokens see later ones too: sequences are read whole, a token more, `mask_token`, stands for one
    that is not known, and texts are continued by denoising.
    """

    def __init__(
        self,
        *,
        d_model: int,
        vocab_size: int,
        tie_embeddings: bool,
        blocks: list[ResidualBlock],
        order: tuple[int, ...] | None = None,
        norm: nn.Module | None = None,
        embedding_norm: nn.Module | None = None,
        embedding_scale: float = 1.0,
        logits_scale: float = 1.0,
        logits_soft_cap: float | None = None,
        num_meta_tokens: int = 0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.vocab_size, self.causal = vocab_size, causal
        self.embedding_scale, self.logits_scale, self.logits_soft_cap = embedding_scale, logits_scale, logits_soft_cap
        rows = vocab_size if causal else vocab_size + 1
        self.embedding = nn.Embedding(rows, d_model, _weight=torch.empty(rows, d_model))
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        self.embedding_norm = embedding_norm
        self.num_meta_tokens = num_meta_tokens
        meta = nn.Parameter(torch.empty(num_meta_tokens, d_model).normal_(std=INIT_STD)) if num_meta_tokens else None
        self.meta_tokens = meta
        self.blocks: list[ResidualBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.order = order
        self.norm = RMSNorm(d_model) if norm is None else norm
        self.head = None if tie_embeddings else Linear(d_model, vocab_size)
        for part in self._parts():
            part.scale_output((2 * len(self.layers)) ** -0.5)

    @property
    def layers(self) -> list[ResidualBlock]:
        """The block of each layer, from first to last."""
        return list(self.blocks) if self.order is None else [self.blocks[i] for i in self.order]

    @property
    def uses(self) -> list[int]:
        """How often the block of each layer ran before in the same pass."""
        if self.order is None:
            return [0] * len(self.blocks)
        before: Counter[int] = Counter()
        found = []
        for i in self.order:
            found.append(before[i])
            before[i] += 1
        return found

    @property
    def mask_token(self) -> int | None:
        """The id behind those of the vocabulary that stands for a token that is not known; None in a causal model."""
        return None if self.causal else self.vocab_size

    def forward(self, tokens: Tensor, context: Context | None = None, *, last: int | None = None) -> Tensor:
        """Logits [B, T, V] for tokens [B, T]; auxiliary losses are left in the context.

        Of the token after each of them where the model is causal, else of the token at each place itself.
        last: only those of so many tokens at the end.
        """
        x = self._read(tokens, context or Context())
        return self._logits(x if last is None else x[:, -last:])

    def before_head(self, tokens: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """What a loss needs that makes no logits: x [B, T, d] and the head's weight [V, d].

        Logits are x times the weight, then capped at `logits_soft_cap`; their scale lies in x.
        """
        x = self.norm(self._read(tokens, context or Context()))
        return times(x, self.logits_scale), self._head_weight()

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype | None = None) -> DecodeState:
        """The state before any token, with room for max_len tokens; caches in `dtype`, or that of the weights."""
        weight = self.embedding.weight
        dtype = weight.dtype if dtype is None else dtype
        room = max_len + self.num_meta_tokens
        layers = [block.init_state(batch, room, dtype, weight.device) if self.causal else {} for block in self.layers]
        clock = torch.zeros((), dtype=torch.int64, device=weight.device)
        return DecodeState(position=0, max_len=max_len, layers=layers, clock=clock)

    @torch.no_grad()
    def prefill(self, tokens: Tensor, state: DecodeState | None = None) -> tuple[Tensor, DecodeState]:
        """Read tokens [B, T], from the start or on from a state; returns (logits [B, V] after the last one, the state).

        Without a state there is room for these tokens and no more. The state given is used up: keep the one returned.
        Raises ValueError when the tokens do not fit, and where a model that is not causal is to read on from others.
        """
        state = self.init_state(tokens.shape[0], tokens.shape[1]) if state is None else state
        state.check_room(tokens.shape[1])
        if not self.causal:
            if state.position:
                self._check_causal()
            return self(tokens, last=1)[:, 0], self._after(state, tokens.shape[1], state.layers)
        context, layers = Context(self._read_before(state), state.clock, tokens=tokens), []
        x = self._embed(tokens) if state.position else self._behind_meta(self._embed(tokens))
        self._keep_embedding(x, context)
        for block, use, layer in zip(self.layers, self.uses, state.layers, strict=True):
            x, layer = block(x, layer, context, use)
            layers.append(layer)
        return self._logits(with_aside(x, context)[:, -1]), self._after(state, tokens.shape[1], layers)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Read one token per sequence, tokens [B]; returns (logits [B, V], the state). As `prefill` otherwise.

        Raises ValueError for a model that is not causal.
        """
        self._check_causal()
        if self.num_meta_tokens and state.position == 0:
            return self.prefill(tokens.unsqueeze(1), state)
        state.check_room(1)
        context, layers = Context(self._read_before(state), state.clock, tokens=tokens), []
        x = self._embed(tokens)
        self._keep_embedding(x, context)
        for block, use, layer in zip(self.layers, self.uses, state.layers, strict=True):
            x, layer = block.step(x, layer, context, use)
            layers.append(layer)
        return self._logits(with_aside(x, context)), self._after(state, 1, layers)

    @torch.no_grad()
    def generate(self, tokens: Tensor, max_new_tokens: int, temperature: float = 0.0) -> Tensor:
        """Continue tokens [B, T] to [B, T + max_new_tokens]: the likeliest token at temperature 0, else sampled.

        A model that is not causal denoises: `nas.denoising.continued`, where more can be asked for.
        """
        if max_new_tokens < 1:
            return tokens
        if self.mask_token is not None:
            return continued(self, self.mask_token, tokens, max_new_tokens, temperature=temperature)
        logits, state = self.prefill(tokens, self.init_state(tokens.shape[0], tokens.shape[1] + max_new_tokens))
        new = [choose(logits, temperature)]
        while len(new) < max_new_tokens:
            logits, state = self.step(new[-1], state)
            new.append(choose(logits, temperature))
        return torch.cat((tokens, torch.stack(new, dim=1)), dim=1)

    def parameter_families(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by the family of mixer whose learning rate they take; each parameter stands once.

        A block, its norms and its FFN with it, belongs to the family of its mixer. Where a mixer holds several mixers,
        each of these belongs to its own family and the rest of the block to "shared", as do blocks without a mixer,
        embedding, last norm and head.
        """
        family_of: dict[nn.Parameter, str] = {}
        for block in self.blocks:
            mixers = [module for module in block.modules() if isinstance(module, Mixer) and not _holds_mixers(module)]
            owners = [(block, mixers[0])] if len(mixers) == 1 else [(mixer, mixer) for mixer in mixers]
            for owner, mixer in owners:
                family_of.update(dict.fromkeys(owner.parameters(), mixer.family))
        families: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            families.setdefault(family_of.get(parameter, SHARED_FAMILY), []).append((name, parameter))
        return families

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError(
                "A model that is not causal reads sequences whole, because each token changes what those before it "
                "see: it does not read on from a state; call it on all tokens, or generate."
            )

    def _after(self, state: DecodeState, tokens: int, layers: list[State]) -> DecodeState:
        read = tokens if state.position else tokens + self.num_meta_tokens
        return DecodeState(state.position + tokens, state.max_len, layers, state.clock + read)

    def _read_before(self, state: DecodeState) -> int:
        """Tokens read, the meta tokens among them."""
        return state.position + self.num_meta_tokens if state.position else 0

    def _behind_meta(self, x: Tensor) -> Tensor:
        """x [B, T, d] -> [B, M + T, d]."""
        if self.meta_tokens is None:
            return x
        return torch.cat((self.meta_tokens.to(x.dtype).expand(x.shape[0], -1, -1), x), dim=1)

    def _parts(self) -> list[Mixer | Ffn]:
        return [part for block in self.blocks for part in (block.mixer, block.ffn) if part is not None]

    def _read(self, tokens: Tensor, context: Context) -> Tensor:
        """Tokens [B, T] from the start through all blocks, [B, T, d]."""
        context.tokens = tokens
        x = self._behind_meta(self._embed(tokens))
        self._keep_embedding(x, context)
        for block, use in zip(self.layers, self.uses, strict=True):
            x, _ = block(x, None, context, use)
        x = with_aside(x, context)
        return x[:, self.num_meta_tokens :] if self.num_meta_tokens else x

    def _keep_embedding(self, x: Tensor, context: Context) -> None:
        """For blocks that read it beside the stream; where there are none, its memory is free after the first block."""
        if any(block.wide for block in self.blocks):
            context.embedding = x

    def _head_weight(self) -> Tensor:
        if self.head is not None:
            return self.head.weight
        return self.embedding.weight if self.causal else self.embedding.weight[: self.vocab_size]

    def _embed(self, tokens: Tensor) -> Tensor:
        x = times(self.embedding(tokens), self.embedding_scale)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def _logits(self, x: Tensor) -> Tensor:
        logits = times(F.linear(self.norm(x), self._head_weight()), self.logits_scale)
        if self.logits_soft_cap is None:
            return logits
        return self.logits_soft_cap * torch.tanh(logits / self.logits_soft_cap)


def filled_state(model: Model, batch: int, context_len: int, new_tokens: int) -> DecodeState:
    """A state as if context_len tokens had been read, with random finite contents and room for new_tokens more.

    For measuring decoding at a context without the cost of reading one.
    """
    state = model.init_state(batch, context_len + new_tokens)
    for layer in state.layers:
        for tensor in layer.values():
            tensor.normal_()
    state.position = context_len
    state.clock.fill_(context_len + model.num_meta_tokens)
    return state


def _holds_mixers(mixer: Mixer) -> bool:
    return any(isinstance(module, Mixer) for module in mixer.modules() if module is not mixer)
