"""The table of a space that is known: whole through its file, means and noise by hand."""

from dataclasses import replace

import pytest

from nas.objectives import OBJECTIVES
from nas.study.truth.oracle import Oracle, OracleError
from search_spaces.picks import Given
from tests.study.oracles import SPREAD, toy_oracle
from tests.study.toys import space


def test_a_table_comes_back_from_its_file_as_it_was(tmp_path):
    oracle = toy_oracle()
    path = tmp_path / "oracle.json"
    path.write_text(oracle.to_text())
    found = Oracle.read(path)
    assert found.to_text() == oracle.to_text()
    assert found.shares == oracle.shares
    for key, entry in oracle.entries.items():
        assert found.entries[key].counts == entry.counts
        assert found.entries[key].measurements == entry.measurements
        for seed, rungs in entry.scores.items():
            for rung, scores in enumerate(rungs):
                for name, score in scores.items():
                    again = found.entries[key].scores[seed][rung][name]
                    assert (again.value, again.low, again.n) == pytest.approx((score.value, score.low, score.n))
                    assert (again.unit, again.source) == (OBJECTIVES[name].unit, "scored")


def test_a_file_that_is_no_table_is_one_sentence(tmp_path):
    for text in ("", "[]", '{"format": 1}', '{"format": 99}'):
        path = tmp_path / "bad.json"
        path.write_text(text)
        with pytest.raises(OracleError) as error:
            Oracle.read(path)
        assert "bad.json" in str(error.value) and "\n" not in str(error.value)


def test_a_score_is_the_mean_over_seeds_and_its_noise_their_spread():
    oracle = toy_oracle()
    entry = next(entry for entry in oracle.entries.values() if entry.name == "aaaa")
    assert entry.mean(OBJECTIVES["text_loss"]) == pytest.approx(2.6)
    assert entry.mean(OBJECTIVES["decode_latency_ms"]) == 5.0
    assert entry.mean(OBJECTIVES["sequence_bytes"]) == 401
    assert oracle.noise(OBJECTIVES["text_loss"]) == pytest.approx(SPREAD / 2**0.5)
    assert oracle.noise(OBJECTIVES["decode_latency_ms"]) == 0.0


def test_what_is_not_known_yet_is_left_out():
    oracle = toy_oracle()
    first, second, *_ = oracle.entries.values()
    first.scores.clear()
    second.measurements.clear()
    quality, cost = [OBJECTIVES["text_loss"]], [OBJECTIVES["decode_latency_ms"]]
    assert set(oracle.entries) - set(oracle.known(quality)) == {first.id}
    assert set(oracle.entries) - set(oracle.known(cost)) == {second.id}
    assert set(oracle.entries) - set(oracle.known([*quality, *cost])) == {first.id, second.id}


def test_a_training_that_broke_is_kept_with_its_reason(tmp_path):
    oracle = toy_oracle()
    first = next(iter(oracle.entries.values()))
    first.failed[2] = "NonFiniteLoss: the loss is nan"
    path = tmp_path / "oracle.json"
    path.write_text(oracle.to_text())
    assert Oracle.read(path).entries[first.id].failed == {2: "NonFiniteLoss: the loss is nan"}


def test_a_table_from_before_ids_changed_is_known_by_the_ids_of_today():
    oracle = toy_oracle()
    old = replace(oracle, entries={f"old-{k}": replace(entry, id=f"old-{k}") for k, entry in oracle.entries.items()})
    found = old.identified(lambda params: space(Given(params)))
    assert found.to_text() == oracle.to_text()
