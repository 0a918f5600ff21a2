"""One layer of a network: asks for its choices and makes its block."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from nas.architecture import (
    Block,
    FfnOptions,
    Glu,
    HeadMix,
    MixerOptions,
    MixtureOfDepths,
    Mlp,
    Moe,
    NoFfn,
    RwkvChannelMix,
)
from search_spaces.fields import kv_heads
from search_spaces.kinds import HEAD_MIX, Sources, may_share
from search_spaces.picks import Choice, Pick

# FFN width over model width before parameters are matched: near the 8/3 of Llama (arXiv 2302.13971, section 2.2).
FFN_FACTOR = 3


@dataclass(frozen=True, kw_only=True)
class Layer:
    """space: lists the choices. name: under which parameter this layer asks for a key. sources: of keys and values that
    earlier layers have."""

    space: Any
    pick: Pick
    name: Callable[[str], str]
    d_model: int
    sources: Sources

    def block(self) -> Block:
        kind = self.pick(self.name("mixer"), self.space.mixer_options)
        if kind in self.space.groups:
            kind = self.pick(self.name(kind), {member: member for member in self.space.groups[kind]})
        num_heads = self.d_model // self.space.head_dim
        if kind == HEAD_MIX:
            return Block(mixer=self.head_mix(num_heads), ffn=self.ffn())
        mixer = self.mixer(kind, num_heads * self.space.kinds[kind].expand)
        return Block(mixer=mixer, ffn=self.ffn())

    def mixer(self, name: str, num_heads: int, prefix: str = "") -> MixerOptions:
        kind = self.space.kinds[name]

        def ask(key: str, choices: Iterable[Choice]) -> Choice:
            return self.pick(self.name(prefix + key), {choice: choice for choice in choices})

        chosen: dict[str, object] = {} if kind.choose is None else kind.choose(ask, self.space)
        for key, option in kind.options.items():
            if key == "num_kv_heads":
                chosen[option] = self.kv_heads(num_heads, prefix)
            elif key == "active_heads":
                shares = {share: kv_heads(share, 1) for share in self.space.active_heads}
                chosen[option] = float(self.pick(self.name(prefix + key), shares))
            elif key != "kv_from":
                chosen[option] = ask(key, getattr(self.space, key))
        mixer = kind.make(num_heads=num_heads, head_dim=self.space.head_dim, **chosen)
        if "kv_from" in kind.options and not prefix and may_share(mixer, self.sources):
            return replace(mixer, kv_from=ask("kv_from", self.space.kv_from))
        return mixer

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
        match kind:
            case "none":
                return NoFfn()
            case "glu":
                return Glu(d_ff=d_ff)
            case "mlp":
                return Mlp(d_ff=d_ff)
            case "rwkv_channel_mix":
                return RwkvChannelMix(d_ff=d_ff)
            case "mixture_of_depths":
                return MixtureOfDepths(d_ff=d_ff, told_by="predictor")
        num_experts = self.pick(self.name("num_experts"), sizes(space.num_experts))
        return Moe(
            num_experts=num_experts,
            top_k=self.pick(self.name("top_k"), sizes(space.top_k)),
            num_shared=self.pick(self.name("num_shared"), sizes(space.num_shared)),
            d_ff=max(1, round(2 * d_ff / num_experts)),
            **{
                option: self.pick(self.name(key), {choice: choice for choice in getattr(space, key)})
                for key, option in space.moe_options.items()
            },
        )


def sizes(choices: Iterable[int]) -> dict[Choice, int]:
    """Sizes that stand for themselves."""
    return {choice: choice for choice in choices}
