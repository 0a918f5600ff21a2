"""What every search space shares: its fields, the walk from choices to an architecture, and the way back.

A space decides three things: which mixers it offers (`mixer_options`), how long its period is (`periods`), and under
which name a choice of a layer is asked (`name_of`). Layers that ask under one name share the choice; that alone makes
a layout free, tiled or staged.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    FfnOptions,
    Glu,
    HeadMix,
    MixerOptions,
    Moe,
    NoFfn,
    RwkvChannelMix,
    canonical,
)
from search_spaces.fields import check_keys, integer, integers, kv_heads, shares, switch, words
from search_spaces.kinds import HEAD_MIX, KINDS, Kind, agree, describe_ffn, describe_mixer, pattern_name
from search_spaces.picks import Choice, Draw, Given, Match, OutsideSpaceError, Pick, Trial

# FFN width over model width before parameters are matched: near the 8/3 of Llama (arXiv 2302.13971, section 2.2).
FFN_FACTOR = 3


@dataclass(frozen=True, kw_only=True)
class SearchSpace(ABC):
    """`space(trial)` makes an architecture. The fields are those of a file in `conf/search_space`, explained there.

    Every list also takes a scalar. Raises ArchitectureError for a field that is unknown, missing or not valid.
    """

    vocab_size: int = integer()
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
    ffns: tuple[str, ...] = words("glu", "moe", "none", "rwkv_channel_mix")
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
    def name_of(self, key: str, layer: int, num_layers: int, period: int) -> str:
        """The parameter under which a layer asks for `key`, such as `layers.3.window`."""

    def check(self) -> None:
        """Rules between fields. Raises ArchitectureError."""
        kinds = {kind for pair in self.pairs for kind in pair.split("+")} | set(self.mixer_options.values())
        attends = any("num_kv_heads" in self.kinds[kind].options for kind in kinds - {HEAD_MIX})
        if attends:
            Attention(num_heads=1, head_dim=self.head_dim)
        for d_model in self.d_model:
            heads, rest = divmod(d_model, self.head_dim)
            if rest:
                raise ArchitectureError(
                    f"d_model must be a multiple of head_dim, but got d_model={d_model}, head_dim={self.head_dim}."
                )
            if HEAD_MIX in kinds and heads < 2:
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
        smallest depth that they divide; its kinds and the options without a choice must be those of the space.
        """
        architecture = canonical(architecture)
        depths = [n for n in self.num_layers if n % len(architecture.blocks) == 0]
        if not depths:
            return None
        num_layers = min(depths)
        for period in sorted(self._periods(num_layers).values()):
            try:
                return self._encode(architecture, num_layers, period)
            except OutsideSpaceError:
                continue
        return None

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

    def _encode(self, architecture: Architecture, num_layers: int, period: int) -> dict[str, Choice]:
        blocks = architecture.blocks * (num_layers // len(architecture.blocks))
        d_model = self.width_for(architecture.d_model, num_layers)
        wanted: dict[str, object] = {"num_layers": num_layers, "d_model": d_model, "period": period}
        for layer, block in enumerate(blocks):
            for key, value in (
                describe_mixer(block.mixer, self.head_dim, self.kinds) | describe_ffn(block.ffn, self.moe_options)
            ).items():
                name = self.name_of(key, layer, num_layers, period)
                if wanted.setdefault(name, value) != value:
                    raise OutsideSpaceError(f"Layers that share {name} want {wanted[name]!r} and {value!r}.")
        match = Match(wanted)
        found = self._walk(match)
        if not agree(canonical(found), replace(architecture, blocks=blocks)):
            raise OutsideSpaceError("An option that is no choice of this space differs.")
        return match.params

    def _periods(self, num_layers: int) -> dict[Choice, int]:
        """Periods that fit into a depth: longer ones would be the same architecture again. 0 where nothing repeats."""
        periods = self.periods or (0,)
        return _sizes([p for p in periods if p <= num_layers] or [min(periods)])

    def _walk(self, pick: Pick) -> Architecture:
        num_layers = pick("num_layers", _sizes(self.num_layers))
        d_model = pick("d_model", _sizes(self.d_model))
        fits_always = max(self.periods, default=0) <= min(self.num_layers)
        period = pick("period", self._periods(num_layers), total=None if fits_always else num_layers)
        blocks = tuple(
            Layer(space=self, pick=pick, layer=layer, num_layers=num_layers, period=period, d_model=d_model).block()
            for layer in range(num_layers)
        )
        return Architecture(
            name=pattern_name(blocks, self.kinds),
            d_model=d_model,
            vocab_size=self.vocab_size,
            loss="causal",
            blocks=blocks,
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Asks for the choices of one layer and makes its block."""

    space: SearchSpace
    pick: Pick
    layer: int
    num_layers: int
    period: int
    d_model: int

    def block(self) -> Block:
        kind = self.pick(self.name("mixer"), self.space.mixer_options)
        num_heads = self.d_model // self.space.head_dim
        if kind == HEAD_MIX:
            return Block(mixer=self.head_mix(num_heads), ffn=self.ffn())
        mixer = self.mixer(kind, num_heads * self.space.kinds[kind].expand)
        return Block(mixer=mixer, ffn=self.ffn())

    def name(self, key: str) -> str:
        return self.space.name_of(key, self.layer, self.num_layers, self.period)

    def mixer(self, name: str, num_heads: int, prefix: str = "") -> MixerOptions:
        kind = self.space.kinds[name]

        def ask(key: str, choices: Iterable[Choice]) -> Choice:
            return self.pick(self.name(prefix + key), {choice: choice for choice in choices})

        chosen: dict[str, object] = {} if kind.choose is None else kind.choose(ask, self.space)
        for key, option in kind.options.items():
            if key == "num_kv_heads":
                chosen[option] = self.kv_heads(num_heads, prefix)
            else:
                chosen[option] = ask(key, getattr(self.space, key))
        return kind.make(num_heads=num_heads, head_dim=self.space.head_dim, **chosen)

    def kv_heads(self, num_heads: int, prefix: str) -> int:
        # A part of a head_mix has any number of heads; there a share goes to the next smaller number that divides it.
        counts = {share: kv_heads(share, num_heads) for share in self.space.num_kv_heads}
        divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        options = {s: Fraction(max([n for n in divisors if n <= c] or [1]), num_heads) for s, c in counts.items()}
        return int(self.pick(self.name(f"{prefix}num_kv_heads"), options) * num_heads)

    def head_mix(self, num_heads: int) -> HeadMix:
        """Two kinds share the heads of the layer by integer counts, at least one each."""
        pairs: dict[Choice, frozenset[str]] = {pair: frozenset(pair.split("+")) for pair in self.space.pairs}
        chosen = self.pick(self.name("parts"), pairs)
        first, second = next(pair for pair in self.space.pairs if pairs[pair] == chosen).split("+")
        shares_of_first: dict[Choice, Fraction] = {n: Fraction(n, num_heads) for n in range(1, num_heads)}
        share = self.pick(self.name(f"{first}.heads"), shares_of_first, total=num_heads)
        heads = int(share * num_heads)
        parts = (
            self.mixer(first, heads, f"{first}."),
            self.mixer(second, num_heads - heads, f"{second}."),
        )
        fuse = self.pick(self.name("fuse"), {choice: choice for choice in self.space.fuses})
        return HeadMix(parts=parts, fuse=fuse)  # type: ignore[arg-type]

    def ffn(self) -> FfnOptions:
        """Widths are a start: parameter matching later scales all of them by one factor."""
        space = self.space
        kind = self.pick(self.name("ffn"), {choice: choice for choice in space.ffns})
        d_ff = FFN_FACTOR * self.d_model
        if kind == "none":
            return NoFfn()
        if kind == "glu":
            return Glu(d_ff=d_ff)
        if kind == "rwkv_channel_mix":
            return RwkvChannelMix(d_ff=d_ff)
        num_experts = self.pick(self.name("num_experts"), _sizes(space.num_experts))
        return Moe(
            num_experts=num_experts,
            top_k=self.pick(self.name("top_k"), _sizes(space.top_k)),
            num_shared=self.pick(self.name("num_shared"), _sizes(space.num_shared)),
            d_ff=max(1, round(2 * d_ff / num_experts)),
            **{
                option: self.pick(self.name(key), {choice: choice for choice in getattr(space, key)})
                for key, option in space.moe_options.items()
            },
        )


def _sizes(choices: Iterable[int]) -> dict[Choice, int]:
    return {choice: choice for choice in choices}
