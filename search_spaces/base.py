"""What every search space shares: its fields, the walk from choices to an architecture, and the way back.

A space decides three things: which mixers it offers (`mixer_options`), what form its stack has (`form`: a period, or
stages), and under which name a choice of a layer is asked (`name_of`). Layers that ask under one name share the choice;
that alone makes a layout free, tiled or staged.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from nas.architecture import Architecture, ArchitectureError, Attention, Block, Loss, canonical, turned, with_loss
from search_spaces.fields import check_keys, integer, integers, kv_heads, shares, switch, word, words
from search_spaces.kinds import (
    HEAD_MIX,
    KINDS,
    Kind,
    Sources,
    agree,
    describe_ffn,
    describe_mixer,
    pattern_name,
    sources_after,
)
from search_spaces.layer import Layer, sizes
from search_spaces.picks import Choice, Draw, Given, Match, OutsideSpaceError, Pick, Trial

UNASKED = {"kv_from": "own"}
"""What a design wants where only the sizes of this space make a question of it."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace(ABC):
    """`space(trial)` makes an architecture. The fields are those of a file in `conf/search_space`, explained there.

    Every list also takes a scalar. Raises ArchitectureError for a field that is unknown, missing or not valid.
    """

    vocab_size: int = integer()
    loss: Loss = word("causal", "masked_diffusion")
    match_params: bool = switch()
    params: int = integer()
    num_layers: tuple[int, ...] = integers()
    d_model: tuple[int, ...] = integers()
    head_dim: int = integer()
    position: tuple[str, ...] = words("rope", "none")
    num_kv_heads: tuple[str | int, ...] = shares()
    window: tuple[int, ...] = integers()
    block_size: tuple[int, ...] = integers()
    top_k_blocks: tuple[int, ...] = integers()
    key_dim: tuple[int, ...] = integers()
    state_dim: tuple[int, ...] = integers()
    mamba1_state_dim: tuple[int, ...] = integers()
    ffns: tuple[str, ...] = words("glu", "mlp", "moe", "none", "rwkv_channel_mix", "mixture_of_depths")
    num_experts: tuple[int, ...] = integers(minimum=2)
    top_k: tuple[int, ...] = integers()
    num_shared: tuple[int, ...] = integers(minimum=0)

    def __new__(cls, **given: object) -> "SearchSpace":
        # Before the generated constructor, whose TypeError is no sentence for a user. Copying passes no fields.
        if given:
            settings = {name: value for name, value in given.items() if name != "vocab_size"}
            check_keys("The search space", settings, [f.name for f in fields(cls) if f.name != "vocab_size"])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, f.metadata["parse"](f.name, getattr(self, f.name)))
        self.check()

    @property
    @abstractmethod
    def mixer_options(self) -> dict[Choice, str]:
        """Choices of a layer's mixer and the kinds they stand for."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The table of the kinds that the choices stand for."""
        return KINDS

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Choices of a layer's mixer that stand for several kinds, which is asked next under the name of the group."""
        return {}

    @property
    def offered(self) -> tuple[str, ...]:
        """Every kind that a layer may be, or have as a part."""
        chosen = [kind for name in self.mixer_options.values() for kind in self.groups.get(name, (name,))]
        return tuple(dict.fromkeys([*chosen, *(kind for pair in self.pairs for kind in pair.split("+"))]))

    @property
    def weighed_as(self) -> Mapping[Choice, str]:
        """By which kind priors know each choice of a layer's mixer: `attention` is all that attends to everything."""
        return self.mixer_options

    @property
    def moe_options(self) -> Mapping[str, str]:
        """Further fields of the space that choose options of mixtures of experts, and these options."""
        return {}

    @property
    def pairs(self) -> tuple[str, ...]:
        """Pairs of kinds, `x+y`, that a head_mix may have; empty where the space offers none."""
        return ()

    @property
    def fuses(self) -> tuple[str, ...]:
        """Ways in which a head_mix may be fused."""
        return ()

    @property
    def periods(self) -> tuple[int, ...]:
        """Choices of the length of a repeated pattern; empty where nothing is repeated."""
        return ()

    @abstractmethod
    def name_of(self, key: str, layer: int, num_layers: int, form: Any) -> str:
        """The parameter under which a layer asks for `key`, such as `layers.3.window`."""

    def form(self, pick: Pick, num_layers: int) -> Any:
        """What `name_of` must know of a stack of so many layers: here the period of what is repeated, 0 without one."""
        fits_always = max(self.periods, default=0) <= min(self.num_layers)
        return pick("period", self._periods(num_layers), total=None if fits_always else num_layers)

    def forms(self, num_layers: int) -> Iterable[dict[str, object]]:
        """What must be wanted for each form, those that repeat most first."""
        return [{"period": period} for period in sorted(self._periods(num_layers).values())]

    def depth(self, pick: Pick, num_layers: int) -> int:
        """How many layers are asked for their choices, the first ones of the network."""
        return num_layers

    def whole(self, pick: Pick, architecture: Architecture, num_layers: int) -> Architecture:
        """The network of so many layers, of which the first ones are known."""
        return architecture

    def describe(self, block: Block, sources: Sources) -> dict[str, object]:
        """What a layer must choose to be this canonical block behind layers with these keys and values."""
        mixer = describe_mixer(block.mixer, self.head_dim, self.kinds, sources)
        return mixer | describe_ffn(block.ffn, self.moe_options)

    def describe_whole(self, architecture: Architecture) -> dict[str, object]:
        """What must be chosen beside the layers to make this canonical network."""
        return {}

    def check(self) -> None:
        """Rules between fields. Raises ArchitectureError."""
        offered = set(self.offered)
        attends = any("num_kv_heads" in self.kinds[kind].options for kind in offered - {HEAD_MIX})
        if attends:
            Attention(num_heads=1, head_dim=self.head_dim)
        for d_model in self.d_model:
            heads, rest = divmod(d_model, self.head_dim)
            if rest:
                raise ArchitectureError(
                    f"d_model must be a multiple of head_dim, but got d_model={d_model}, head_dim={self.head_dim}."
                )
            if HEAD_MIX in offered and heads < 2:
                raise ArchitectureError(
                    f"head_mix needs at least 2 heads, but d_model={d_model} has {heads} with head_dim={self.head_dim}."
                )
            for share in self.num_kv_heads if attends else ():
                asked = kv_heads(share, heads)
                if asked.denominator != 1 or heads % asked.numerator:
                    raise ArchitectureError(
                        f"num_kv_heads must divide the {heads} heads of d_model={d_model}, but got {share}; "
                        "1 and full always do."
                    )
        if "moe" in self.ffns and max(self.top_k) > min(self.num_experts):
            raise ArchitectureError(
                f"top_k must be at most num_experts, but got top_k={max(self.top_k)}, "
                f"num_experts={min(self.num_experts)}."
            )

    def __call__(self, trial: Trial) -> Architecture:
        """The architecture of a trial. The same parameters give the same architecture."""
        return self._walk(Draw(trial))

    def at(self, params: Mapping[str, Choice]) -> Architecture:
        """The architecture of known parameters, such as `encode` and `references` give."""
        return self(Given(params))

    def encode(self, architecture: Architecture) -> dict[str, Choice] | None:
        """The parameters of the point nearest to an architecture, or None where it cannot be placed.

        A point of this space comes back exactly, whatever its FFN widths. Another design has its states, windows and
        shares moved to the nearest choice, its width to one that its depth can afford, and its blocks repeated to the
        smallest depth that they divide; its kinds and the options without a choice must be those of the space. Mixers
        read as the loss of the space has it.
        """
        try:
            architecture = canonical(with_loss(architecture, self.loss))
        except ArchitectureError:
            return None
        depths = [n for n in self.num_layers if n % len(architecture.blocks) == 0]
        if not depths:
            return None
        num_layers = min(depths)
        blocks = architecture.blocks * (num_layers // len(architecture.blocks))
        wanted: dict[str, object] = {
            "num_layers": num_layers,
            "d_model": self.width_for(architecture.d_model, num_layers),
        }
        whole = replace(architecture, blocks=blocks)
        return self._encode(whole, wanted | self.describe_whole(whole))

    def references(self, designs: Iterable[Architecture]) -> list[tuple[str, dict[str, Choice]]]:
        """Names and parameters of the designs that lie in this space, the first of those that share a point."""
        found: list[tuple[str, dict[str, Choice]]] = []
        for design in designs:
            params = self.encode(design)
            if params is not None and all(params != known for _, known in found):
                found.append((design.name, params))
        return found

    def width_for(self, d_model: int, num_layers: int) -> float:
        """The width itself where it is a choice, else the one that keeps width² × depth, and so the parameters of the
        mixers, at those of the widest and shallowest network of the space."""
        if d_model in self.d_model:
            return d_model
        return max(self.d_model) * math.sqrt(min(self.num_layers) / num_layers)

    def _encode(self, architecture: Architecture, wanted: dict[str, object]) -> dict[str, Choice] | None:
        try:
            depth = self.depth(Match(wanted), len(architecture.blocks))
            described = self._described(architecture.blocks[:depth])
        except OutsideSpaceError:
            return None
        for of_form in self.forms(depth):
            try:
                form = self.form(Match(of_form), depth)
                named = self._named(described, form)
                match = Match(wanted | of_form | named, otherwise=UNASKED)
                found = canonical(self._walk(match))
            except OutsideSpaceError:
                continue
            if agree(found, architecture):
                return match.params
        return None

    def _described(self, blocks: Iterable[Block]) -> list[dict[str, object]]:
        """What each layer must choose."""
        found: list[dict[str, object]] = []
        sources: Sources = {}
        for block in (turned(block, "forward") for block in blocks):
            found.append(self.describe(block, sources))
            sources = sources_after(block.mixer, sources)
        return found

    def _named(self, described: Sequence[Mapping[str, object]], form: Any) -> dict[str, object]:
        """What is wanted, by the names under which the layers ask. Raises OutsideSpaceError where they disagree."""
        wanted: dict[str, object] = {}
        for layer, choices in enumerate(described):
            for key, value in choices.items():
                name = self.name_of(key, layer, len(described), form)
                if wanted.setdefault(name, value) != value:
                    raise OutsideSpaceError(f"Layers that share {name} want {wanted[name]!r} and {value!r}.")
        return wanted

    def _periods(self, num_layers: int) -> dict[Choice, int]:
        """Periods that fit into a depth: longer ones would be the same architecture again. 0 where nothing repeats."""
        periods = self.periods or (0,)
        return sizes([p for p in periods if p <= num_layers] or [min(periods)])

    def _walk(self, pick: Pick) -> Architecture:
        num_layers = pick("num_layers", sizes(self.num_layers))
        d_model = pick("d_model", sizes(self.d_model))
        depth = self.depth(pick, num_layers)
        form = self.form(pick, depth)
        blocks: list[Block] = []
        sources: Sources = {}
        for i in range(depth):
            name = partial(self.name_of, layer=i, num_layers=depth, form=form)
            layer = Layer(space=self, pick=pick, name=name, d_model=d_model, sources=sources)
            blocks.append(layer.block())
            sources = sources_after(blocks[-1].mixer, sources)
        network = Architecture(
            name=pattern_name(blocks, self.kinds),
            d_model=d_model,
            vocab_size=self.vocab_size,
            loss=self.loss,
            blocks=tuple(blocks),
        )
        return with_loss(self.whole(pick, network, num_layers), self.loss)
