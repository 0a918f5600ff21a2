"""Options check themselves."""

import dataclasses

import pytest

from nas.architecture import FFNS, MIXERS, ROPE_SCALINGS, Architecture, ArchitectureError, Attention, Block
from nas.architecture.options import _rules, check_value

KINDS = [*MIXERS.values(), *FFNS.values(), *ROPE_SCALINGS.values(), Architecture, Block]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_default_keeps_the_rules_of_its_option_and_need_not_be_checked_each_time(kind):
    for name, default, hint, minimum, maximum in _rules(kind):
        if default is not dataclasses.MISSING:
            check_value(name, default, hint, minimum, maximum)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_is_finite(value):
    with pytest.raises(ArchitectureError, match="score_scale must be a finite number, but got"):
        Attention(num_heads=2, score_scale=value)


def test_a_whole_number_beyond_every_float_is_compared_as_it_is():
    with pytest.raises(ArchitectureError, match="head_share must be at most 1, but got 1000"):
        Attention(num_heads=2, head_share=10**400)
    with pytest.raises(ArchitectureError, match="window must be at least 1, but got -1000"):
        Attention(num_heads=2, window=-(10**400))
