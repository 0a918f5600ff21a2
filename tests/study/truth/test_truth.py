"""What a search has found, judged by the truth of a toy space whose front is known."""

from dataclasses import replace

import numpy as np
import pytest

from nas.objectives import parse_objectives, parse_requirements
from nas.study.truth.oracle import OracleError
from nas.study.truth.truth import Truth
from tests.study.oracles import toy_oracle

OBJECTIVES = parse_objectives(["text_loss", "decode_latency_ms"])


def by_name(oracle, *names):
    return [next(e.id for e in oracle.entries.values() if e.name == name) for name in names]


def test_the_front_has_one_member_for_each_number_of_attention_layers():
    oracle = toy_oracle()
    truth = Truth.of(oracle, OBJECTIVES, (), None)
    names = [oracle.entries[identity].name for identity in truth.front]
    assert sorted(name.count("a") for name in names) == [0, 1, 2, 3, 4]
    assert truth.able.all()


def test_requirements_leave_out_what_does_not_meet_them():
    oracle = toy_oracle()
    (reference,) = by_name(oracle, "aaaa")
    truth = Truth.of(oracle, OBJECTIVES, parse_requirements({"recall": 0.7}), reference)
    assert truth.able.sum() == 5  # three or four attention layers
    (poor,) = by_name(oracle, "mmmm")
    assert truth.volume([poor]) == 0.0
    assert truth.volume([reference]) > 0.0


def test_a_requirement_without_its_reference_or_that_nobody_meets_is_one_sentence():
    oracle = toy_oracle()
    with pytest.raises(OracleError, match=r"lacks all-attention, which recall at least 0\.7"):
        Truth.of(oracle, OBJECTIVES, parse_requirements({"recall": 0.7}), None)
    with pytest.raises(OracleError, match="0 architectures of the table meet the requirements"):
        Truth.of(oracle, OBJECTIVES, parse_requirements({"decode_latency_ms": 0.5}), None)


def test_volumes_grow_to_one_and_agree_with_the_volume_of_what_was_found_so_far():
    oracle = toy_oracle()
    truth = Truth.of(oracle, OBJECTIVES, (), None)
    order = np.random.default_rng(0).permutation(list(truth.ids)).tolist()
    volumes = truth.volumes(order)
    assert (np.diff(volumes) >= 0).all()
    assert volumes[-1] == pytest.approx(1.0)
    for n in (1, 4, 9):
        assert volumes[n - 1] == pytest.approx(truth.volume(order[:n]))


def test_the_front_is_recovered_by_its_members_and_within_noise_by_what_seeds_cannot_tell_apart():
    oracle = toy_oracle()
    truth = Truth.of(oracle, OBJECTIVES, (), None)
    assert truth.recovered(truth.front, within_noise=False) == 1.0
    assert truth.recovered(truth.front[:1], within_noise=False) == pytest.approx(0.2)
    assert truth.recovered([], within_noise=True) == 0.0
    middle = [entry for entry in oracle.entries.values() if entry.name.count("a") == 2]
    (member,) = (entry for entry in middle if entry.id in truth.front)
    twins = [entry for entry in middle if entry is not member]
    for entry in twins:  # worse, by less than the noise
        entry.scores = {seed: [*rungs[:-1], worse(rungs[-1])] for seed, rungs in entry.scores.items()}
    truth = Truth.of(oracle, OBJECTIVES, (), None)
    assert truth.recovered([entry.id for entry in twins], within_noise=False) == 0.0
    assert truth.recovered([entry.id for entry in twins], within_noise=True) == pytest.approx(0.2)


def worse(scores):
    return scores | {"text_loss": replace(scores["text_loss"], value=scores["text_loss"].value + 0.003)}
