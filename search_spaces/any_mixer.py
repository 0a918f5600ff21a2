"""What the spaces share that offer every kind of mixer: the kinds, groups of them, head_mix, and how layers are wired.

Kinds that most searches leave aside stand in groups, one choice of a layer's mixer each, so that they do not crowd out
the others: which of a group it is, is asked next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

from nas.architecture import Architecture, ArchitectureError, Block
from search_spaces.attention_kinds import ALL_HEADED, FULL, OTHER_ATTENTIONS, AttentionFields
from search_spaces.fields import integers, word_pairs, words
from search_spaces.kinds import HEAD_MIX, KINDS, Kind, Sources, kind_of
from search_spaces.layer import sizes
from search_spaces.picks import Choice, Pick

SHARING = {"kv_from": "kv_from"}
ALL_KINDS: Mapping[str, Kind] = {
    **KINDS,
    **{n: replace(KINDS[n], options={**KINDS[n].options, **SHARING}) for n in ("attention", "sliding_window")},
    **OTHER_ATTENTIONS,
}
SPARSE = ("sliding_window", "block_sparse_attention", *(name for name in OTHER_ATTENTIONS if name not in FULL))
RECURRENCES = tuple(name for name in KINDS if name not in FULL + SPARSE)
GROUPS = {
    "attention_variant": "attention_variants",
    "sparse_attention": "sparse_attentions",
    "recurrence": "recurrences",
}
"""Groups, and the fields that list their kinds."""


@dataclass(frozen=True, kw_only=True)
class AnyMixerSpace(AttentionFields):
    """Mixers of all kinds. What is chosen of the whole network: meta tokens, loops over depth, shared attention."""

    mixers: tuple[str, ...] = words(*ALL_KINDS, HEAD_MIX, *GROUPS)
    attention_variants: tuple[str, ...] = words(*FULL[1:])
    sparse_attentions: tuple[str, ...] = words(*SPARSE)
    recurrences: tuple[str, ...] = words(*RECURRENCES)
    head_mix_pairs: tuple[str, ...] = word_pairs(ALL_HEADED)
    fuse: tuple[str, ...] = words("norm_mean", "concat")
    kv_from: tuple[str, ...] = words("own", "earlier")
    attention_weights: tuple[str, ...] = words("own", "shared")
    loops: tuple[int, ...] = integers()
    num_meta_tokens: tuple[int, ...] = integers(minimum=0)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return ALL_KINDS

    @property
    def mixer_options(self) -> dict[Choice, str]:
        return {name: name for name in self.mixers}

    @cached_property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Without the kinds that are choices of their own already."""
        listed = {name: getattr(self, GROUPS[name]) for name in self.mixers if name in GROUPS}
        return {name: tuple(kind for kind in kinds if kind not in self.mixers) for name, kinds in listed.items()}

    @property
    def weighed_as(self) -> Mapping[Choice, str]:
        return {**super().weighed_as, **{name: "attention" for name in self.groups if name == "attention_variant"}}

    @property
    def pairs(self) -> tuple[str, ...]:
        if HEAD_MIX not in self.mixers:
            return ()
        if self.head_mix_pairs != ("all",):
            return self.head_mix_pairs
        return tuple("+".join(pair) for pair in combinations([kind for kind in self.mixers if kind in ALL_HEADED], 2))

    @property
    def fuses(self) -> tuple[str, ...]:
        return self.fuse

    def check(self) -> None:
        for name, kinds in self.groups.items():
            if not kinds:
                raise ArchitectureError(
                    f"The mixer {name} stands for kinds of {GROUPS[name]} that are no mixers of their own, but all of "
                    f"[{', '.join(getattr(self, GROUPS[name]))}] are: leave one of the two out."
                )
        if HEAD_MIX in self.mixers and not self.pairs:
            raise ArchitectureError(
                f"head_mix needs two other mixers to mix, but mixers is [{', '.join(self.mixers)}]; "
                "add mixers or name head_mix_pairs."
            )
        super().check()

    def describe(self, block: Block, sources: Sources) -> dict[str, object]:
        wanted = super().describe(block, sources)
        for name, kinds in self.groups.items():
            if wanted["mixer"] in kinds:
                return {**wanted, "mixer": name, name: wanted["mixer"]}
        return wanted

    def depth(self, pick: Pick, num_layers: int) -> int:
        return num_layers // self._loops(pick, num_layers)

    def whole(self, pick: Pick, architecture: Architecture, num_layers: int) -> Architecture:
        blocks = architecture.blocks
        loops = num_layers // len(blocks)
        if loops > 1:
            blocks += (loops - 1) * tuple(replace(block, weights_of=len(blocks)) for block in blocks)
        elif (shared := with_shared_attention(blocks)) != blocks:
            chosen = pick("attention_weights", {choice: choice for choice in self.attention_weights})
            blocks = shared if chosen == "shared" else blocks
        meta_tokens = pick("num_meta_tokens", sizes(self.num_meta_tokens))
        return replace(architecture, blocks=blocks, num_meta_tokens=meta_tokens)

    def describe_whole(self, architecture: Architecture) -> dict[str, object]:
        tied = any(block.weights_of is not None for block in architecture.blocks)
        return {
            "loops": loops_in(architecture.blocks),
            "attention_weights": "shared" if tied else "own",
            "num_meta_tokens": architecture.num_meta_tokens,
        }

    def _loops(self, pick: Pick, num_layers: int) -> int:
        """Loops over layers of which the depth is a multiple."""

        def dividing(number: int) -> tuple[int, ...]:
            return tuple(loops for loops in self.loops if number % loops == 0) or (1,)

        always = all(dividing(number) == dividing(num_layers) for number in self.num_layers)
        return pick("loops", sizes(dividing(num_layers)), total=None if always else num_layers)


def loops_in(blocks: tuple[Block, ...]) -> int:
    """How often the first layers of a canonical network follow themselves with their weights; 1 where they do not."""
    first = next((i for i, block in enumerate(blocks) if block.weights_of is not None), len(blocks))
    looped = all(block.weights_of == (i // first * first or None) for i, block in enumerate(blocks))
    return len(blocks) // first if looped and len(blocks) % first == 0 else 1


def with_shared_attention(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Layers that attend to everything have the weights of the first that is like them (Zamba, arXiv 2405.16712)."""
    first: dict[Block, int] = {}
    found: list[Block] = []
    for i, block in enumerate(blocks):
        known = first.setdefault(block, i) if kind_of(block.mixer) in FULL else i
        found.append(block if known == i else replace(block, weights_of=i - known))
    return tuple(found)
