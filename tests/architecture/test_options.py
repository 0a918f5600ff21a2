"""Options check themselves."""

import dataclasses

import pytest

from nas.architecture import FFNS, MIXERS, ROPE_SCALINGS, Architecture, Block
from nas.architecture.options import _rules, check_value

KINDS = [*MIXERS.values(), *FFNS.values(), *ROPE_SCALINGS.values(), Architecture, Block]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_default_keeps_the_rules_of_its_option_and_need_not_be_checked_each_time(kind):
    for name, default, hint, minimum, maximum in _rules(kind):
        if default is not dataclasses.MISSING:
            check_value(name, default, hint, minimum, maximum)
