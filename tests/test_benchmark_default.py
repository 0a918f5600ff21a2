"""The benchmark of the default budget: two spreads, told apart, from real trainings that are only smaller."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from nas.measurement import Measurement
from nas.study.confirmation.retrained import Training
from scripts import benchmark_default
from scripts.benchmark_default import OUT, fill, matched_designs, open_record, spreads, summary, table, verdict, write
from scripts.command_line import UserError
from scripts.exit_codes import UNFINISHED
from scripts.settings import SearchSettings
from tests.commands import call
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


def test_the_benchmark_writes_every_value_and_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYBRID_NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    designs = "references=[all-attention,mamba2-attention-7-1]"
    arguments = ["--seeds", "2", "--out", "numbers.json", designs, *SMALL]
    monkeypatch.chdir(tmp_path)
    assert call(benchmark_default, monkeypatch, "--limit", "0", *arguments) == UNFINISHED
    assert "4 trainings are missing" in capsys.readouterr().out
    assert json.loads((tmp_path / "numbers.json").read_text())["trainings"] == {}
    assert call(benchmark_default, monkeypatch, *arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "numbers.json", "numbers.md"}
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert set(record["values"]) >= {"text_loss", "text_loss_late", "recall", "recall_bits"}
    assert record["seconds_per_training"]["n"] >= 2
    for values in record["values"].values():
        assert values and all(len(seeds) == 2 for seeds in values.values())
    page = (tmp_path / "numbers.md").read_text()
    assert "| all-attention |" in page and "sd over seeds (pooled)" in page


class Told:
    """Trains in no time, the tasks in turn as on a GPU; may break in a task, or be interrupted before it."""

    workers = None

    def __init__(self, *, breaks: str = "", interrupted: str = "") -> None:
        self.breaks, self.interrupted = breaks, interrupted
        self.trained: list[tuple[str, int, str]] = []

    def __call__(self, design, seed, factors, observer):
        for task in factors:
            if task == self.interrupted:
                raise KeyboardInterrupt
            self.trained.append((design, seed, task))
            score = Measurement(value=float(seed), unit="bits", low=0.0, high=9.0, n=1, source="scored")
            failed = "NonFiniteLoss: the loss is nan" if task == self.breaks else None
            scores = {} if failed else {f"{task}_loss": score}
            yield Training(task=task, seed=seed, factor=1.0, scores=scores, failed=failed, seconds=1.0)


DESIGNS: dict[str, Any] = {"a": "design a", "b": "design b"}


def filled(record, path, trainer, *, seeds=2, deadline=math.inf):
    """Trains into the record, which is written to the path."""
    return fill(record, DESIGNS, ["text", "recall"], range(seeds), trainer, deadline, lambda: write(path, record))


def test_each_training_is_written_as_it_ends_and_only_what_is_missing_is_trained(tmp_path):
    path = tmp_path / "numbers.json"
    with pytest.raises(KeyboardInterrupt):
        filled({"trainings": {}, "seconds": {}}, path, Told(interrupted="recall"))
    record = json.loads(path.read_text())
    assert record["trainings"] == {"a": {"0": {"text": {"text_loss": 0.0}}}}
    later = Told()
    assert filled(record, path, later) == []
    assert later.trained[0] == ("design a", 0, "recall") and len(later.trained) == 7
    assert json.loads(path.read_text()) == record
    again = Told()
    assert filled(record, path, again) == [] and again.trained == [], "nothing is trained twice"
    filled(record, path, again, seeds=3)
    assert {seed for _, seed, _ in again.trained} == {2}, "more seeds add to what is there"


def test_the_seconds_of_a_design_count_where_it_was_trained_in_one_go(tmp_path):
    record, path = {"trainings": {}, "seconds": {}}, tmp_path / "numbers.json"
    with pytest.raises(KeyboardInterrupt):
        filled(record, path, Told(interrupted="recall"))
    filled(record, path, Told())
    made = summary(record, DESIGNS, ["text", "recall"], range(2))
    assert record["seconds"]["a"]["0"] is None
    assert made["seconds_per_training"]["n"] == 3
    assert made["values"] == {m: {"a": [0.0, 1.0], "b": [0.0, 1.0]} for m in ("text_loss", "recall_loss")}


def test_a_training_that_breaks_is_named_and_tried_again_and_the_others_are_kept(tmp_path):
    record, path = {"trainings": {}, "seconds": {}}, tmp_path / "numbers.json"
    broke = filled(record, path, Told(breaks="text"), seeds=1)
    assert broke == [f"{name}, seed 0, text broke: NonFiniteLoss: the loss is nan" for name in DESIGNS]
    again = Told()
    assert filled(record, path, again, seeds=1) == []
    assert again.trained == [("design a", 0, "text"), ("design b", 0, "text")]


def test_after_the_limit_no_training_is_begun(tmp_path):
    record, trainer = {"trainings": {}, "seconds": {}}, Told()
    assert filled(record, tmp_path / "numbers.json", trainer, deadline=-math.inf) == []
    assert trainer.trained == []


def test_a_record_of_other_settings_is_refused_and_one_of_other_measuring_is_not(tmp_path):
    path = tmp_path / "numbers.json"
    settings = SearchSettings.from_overrides(["budget=smoke"])
    write(path, open_record(path, settings, matched_designs(settings)))
    same = SearchSettings.from_overrides(["budget=smoke", "measure.context=512"])
    assert open_record(path, same, matched_designs(same))["trainings"] == {}
    other = SearchSettings.from_overrides(["budget=smoke", "seed=1"])
    with pytest.raises(UserError, match=r"other settings \(definition\.seed differ\); .* with --out"):
        open_record(path, other, matched_designs(other))
    fewer = dict(list(matched_designs(settings).items())[1:])
    with pytest.raises(UserError, match=r"\(designs differ\)"):
        open_record(path, settings, fewer)


def test_the_shipped_numbers_give_the_shipped_page():
    record = json.loads(Path(OUT).read_text())
    assert Path(OUT).with_suffix(".md").read_text().endswith(f"\n\n{table(record)}\n")


def test_one_seed_is_no_verdict():
    record = json.loads(Path(OUT).read_text()) | {"seeds": 1}
    assert "told apart" not in table(record) and "One seed tells no spread" in table(record)
