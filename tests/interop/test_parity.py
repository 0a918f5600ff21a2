"""Models that transformers saved compute the same numbers as ours: logits, decoding, generation, loss and gradients."""

import json

import pytest

from nas.architecture import Architecture
from nas.count import count_parameters
from nas.interop import load_pretrained
from nas.model import Model
from scripts.interop_oracles import ORACLES, compare, saved
from scripts.list_families import NUMBERS, described

CLOSE = 1e-4


@pytest.fixture(scope="module", params=ORACLES, ids=list(ORACLES))
def pair(request, tmp_path_factory):
    """(their number of parameters, our architecture, ours, how far they are apart)."""
    oracle = ORACLES[request.param]
    theirs = oracle.build()
    architecture, ours = load_pretrained(saved(theirs, tmp_path_factory.mktemp("theirs")))
    compared = compare(theirs, ours)
    return sum(p.numel() for p in theirs.parameters()), architecture, ours, compared


def test_logits_of_a_whole_sequence_are_the_same(pair):
    _, architecture, ours, compared = pair
    assert compared.spread > 0.05, "an oracle whose logits are alike tells nothing"
    assert compared.logits < CLOSE
    assert isinstance(architecture, Architecture) and isinstance(ours, Model) and not ours.training


def test_logits_of_decoding_token_by_token_are_the_same(pair):
    assert pair[3].decoding < CLOSE


def test_greedy_generation_continues_with_the_same_tokens(pair):
    assert pair[3].continued


def test_loss_and_gradients_are_the_same(pair):
    assert pair[3].loss < CLOSE and pair[3].gradients < CLOSE


def test_the_methods_that_lie_in_it_are_those_of_the_page(pair, request):
    recorded = json.loads(NUMBERS.read_text())[request.node.callspec.params["pair"]]
    assert described(pair[1]).items() <= recorded.items(), "run scripts/list_families.py"


def test_every_parameter_is_taken_and_counted(pair):
    theirs, architecture, ours, _ = pair
    assert count_parameters(architecture) == sum(p.numel() for p in ours.parameters()) == theirs
