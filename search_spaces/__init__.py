"""What may be chosen: search spaces turn a trial into an architecture. One file per space, its fields in `conf/`."""

from collections.abc import Mapping

from nas.architecture import ArchitectureError, did_you_mean
from search_spaces.attention import AttentionSpace
from search_spaces.base import SearchSpace as SearchSpace
from search_spaces.head_mix import HeadMixSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.linear import LinearSpace
from search_spaces.moe import MoeSpace
from search_spaces.pattern import PatternSpace
from search_spaces.picks import Trial as Trial
from search_spaces.random_trial import RandomTrial as RandomTrial
from search_spaces.staged import StagedSpace

SPACES: dict[str, type[SearchSpace]] = {
    "hybrid": HybridSpace,
    "pattern": PatternSpace,
    "head_mix": HeadMixSpace,
    "linear": LinearSpace,
    "attention": AttentionSpace,
    "moe": MoeSpace,
    "staged": StagedSpace,
    "oracle": PatternSpace,  # the one that docs/benchmarks/oracle.json enumerates
}


def build_space(name: str, settings: Mapping[str, object], *, vocab_size: int) -> SearchSpace:
    """The space of a name from the fields of its file in `conf/search_space`.

    Raises ArchitectureError, one sentence, for an unknown name and for fields that are unknown, missing or not valid.
    """
    if name not in SPACES:
        raise ArchitectureError(f"There is no search space {name!r}. {did_you_mean(name, SPACES)}")
    if "vocab_size" in settings:
        raise ArchitectureError(f"vocab_size is that of the task ({vocab_size}); the search space must not set it.")
    return SPACES[name](**{**settings, "vocab_size": vocab_size})
