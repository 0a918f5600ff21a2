"""The benchmark of the default budget: two spreads, told apart, from real trainings that are only smaller."""

import json

import pytest

from scripts.benchmark_default import spreads, verdict
from tests.test_command_line import run
from tests.test_end_to_end import SMALL


def test_spreads_of_two_designs_over_two_seeds_are_exact():
    found = spreads({"a": [1.0, 3.0], "b": [5.0, 7.0]})
    assert found["sd_between_designs"] == pytest.approx(8**0.5)
    assert found["sd_over_seeds"] == pytest.approx(2**0.5)
    assert found["range_of_designs"] == 4.0


def test_one_design_and_one_seed_have_no_spread():
    assert spreads({"a": [2.0]}) == {"sd_between_designs": 0.0, "sd_over_seeds": 0.0, "range_of_designs": 0.0}


@pytest.mark.parametrize(("between", "word"), [(2.0, "exceed"), (0.5, "do not exceed")])
def test_a_verdict_says_whether_designs_are_told_apart(between, word):
    sentence = verdict("text_loss", {"sd_between_designs": between, "sd_over_seeds": 1.0})
    assert f"between designs {word} the seed spread ({between:.3f} against 1.000)" in sentence
    assert "from about 2.828" in sentence


def test_the_benchmark_writes_every_value_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    designs = "references=[all-attention,mamba2-attention-7-1]"
    arguments = ["--seeds", "2", "--out", "numbers.json", designs, *SMALL]
    done = run(*arguments, cwd=tmp_path, script="scripts/benchmark_default.py")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "numbers.json", "numbers.md"}
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert set(record["values"]) >= {"text_loss", "text_loss_late", "recall", "recall_bits"}
    assert record["seconds_per_training"]["n"] >= 2
    for values in record["values"].values():
        assert values and all(len(seeds) == 2 for seeds in values.values())
    page = (tmp_path / "numbers.md").read_text()
    assert "| all-attention |" in page and "sd over seeds (pooled)" in page
