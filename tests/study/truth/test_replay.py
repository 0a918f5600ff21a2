"""Searches on a table: the real run loop, real samplers, numbers looked up."""

import pytest

from nas.architecture import canonical_id
from nas.measurement import Measurement
from nas.study.candidate import Rejected
from nas.study.truth.replay import OracleEvaluator, memory_study, seed_for
from search_spaces.picks import Given
from tests.study.oracles import SEEDS, toy_oracle
from tests.study.toys import ALL_ATTENTION, OBJECTIVES, Silent, run_toy, space


def test_the_evaluator_gives_what_the_table_says_and_rejects_what_it_lacks():
    oracle = toy_oracle()
    evaluator = OracleEvaluator(oracle=oracle)
    architecture = space(Given(ALL_ATTENTION))
    candidate = evaluator.admit(architecture)
    evaluator.count(candidate)
    evaluator.measure(candidate)
    evaluator.train(candidate, 0, Silent())  # type: ignore[arg-type]
    entry = oracle.entries[canonical_id(architecture)]
    assert candidate.counts.sequence_bytes == 401
    assert candidate.measurements["decode_latency_ms"] == Measurement.exact(5.0, "ms")
    assert candidate.scores in [rungs[-1] for rungs in entry.scores.values()]
    assert not evaluator.confirm(candidate)
    entry.scores.clear()
    with pytest.raises(Rejected, match="the table lacks aaaa"):
        evaluator.admit(architecture)


def test_a_searchs_seed_draws_a_seed_of_the_table_for_each_architecture():
    entries = list(toy_oracle().entries.values())
    drawn = {seed: [seed_for(entry, seed) for entry in entries] for seed in range(5)}
    assert drawn[0] == [seed_for(entry, 0) for entry in entries]
    assert all(set(seeds) <= set(SEEDS) for seeds in drawn.values())
    assert len({tuple(seeds) for seeds in drawn.values()}) > 1


def test_a_study_in_memory_knows_its_objectives():
    study = memory_study(OBJECTIVES)
    assert study.metric_names == [objective.name for objective in OBJECTIVES]
    assert study.trials == []


def test_a_search_on_the_table_trains_every_architecture_once(tmp_path):
    oracle = toy_oracle()
    loop = run_toy(tmp_path, trials=16, evaluator=OracleEvaluator(oracle=oracle), sampler="brute_force")  # type: ignore[arg-type]
    assert {row.id for row in loop.rows if row.state == "complete"} == set(oracle.entries)
