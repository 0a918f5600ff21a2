"""The benchmark of signal: exact shares and flips, a tiny real run that goes on, and the budget's line."""

import json

import numpy as np
import pytest

from nas.study.bars import Bars
from nas.study.events import Observer
from scripts import benchmark_signal
from scripts.benchmark_signal import page, scores_of, signal, silent_scores, tell_budget
from scripts.command_line import UserError
from scripts.exit_codes import UNFINISHED
from scripts.search_job import announce
from scripts.settings import SearchSettings
from scripts.variance_shares import (
    flips,
    flips_between_rates,
    flips_between_seeds,
    reliability,
    reliability_interval,
    variance_shares,
)
from tests.commands import call
from tests.test_command_line import mistake

EFFECT = np.array([0.0, 1.0, 3.0])
NOTHING = np.zeros((3, 3, 3))


@pytest.mark.parametrize(
    ("scores", "source"),
    [
        (NOTHING + EFFECT[:, None, None], "design"),
        (NOTHING + EFFECT[None, :, None], "rate"),
        (NOTHING + EFFECT[None, None, :], "seed"),
        (NOTHING + np.array([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]])[:, :, None], "interaction"),
    ],
)
def test_variance_from_one_source_is_that_source(scores, source):
    shares = variance_shares(scores)
    assert getattr(shares, source) == pytest.approx(1.0)


def test_shares_of_known_variances_are_found():
    rng = np.random.default_rng(0)
    design, rate = rng.normal(0, 2.0, (60, 1, 1)), rng.normal(0, 1.0, (1, 60, 1))
    scores = design + rate + rng.normal(0, 1.0, (60, 60, 1)) + rng.normal(0, 2**0.5, (60, 60, 4))
    shares = variance_shares(scores)
    assert shares is not None
    found = [shares.design, shares.rate, shares.interaction, shares.seed]
    assert found == pytest.approx([0.5, 0.125, 0.125, 0.25], abs=0.08)
    assert sum(found) == pytest.approx(1.0)


def test_scores_that_are_all_the_same_have_no_shares_and_are_not_trusted():
    assert variance_shares(NOTHING) is None
    assert reliability(NOTHING[0]) == 0.0


def test_reliability_is_the_intraclass_correlation():
    # Means 1 and 5: variance 8; within a design 2, so between designs 8 - 2 / 2 = 7.
    assert reliability(np.array([[0.0, 2.0], [4.0, 6.0]])) == pytest.approx(7 / 9)
    assert reliability(np.array([[0.0, 2.0], [2.0, 0.0]])) == 0.0


def test_the_interval_of_reliability_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.0, (400, 8, 1)) + rng.normal(0, 1.0, (400, 8, 3))  # designs make half of the variance
    ends = [reliability_interval(one) for one in scores]
    assert np.mean([low <= 0.5 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.03)
    assert all(low <= reliability(one) <= high for one, (low, high) in zip(scores, ends, strict=True))
    assert reliability_interval(NOTHING[0]) == (0.0, 0.0)
    assert reliability_interval(EFFECT[:, None] + NOTHING[0]) == (1.0, 1.0)


def test_a_verdict_is_only_likely_where_the_interval_holds_the_other():
    assert signal(0.9, 0.7, 0.95) == "yes" and signal(0.9, 0.3, 0.95) == "likely yes"
    assert signal(0.1, 0.0, 0.4) == "**no**" and signal(0.1, 0.0, 0.6) == "**likely no**"


def test_flips_count_pairs_of_designs_that_swap_and_ties_half():
    assert flips(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])) == 0.0
    assert flips(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])) == 1.0
    assert flips(np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 2.0]])) == pytest.approx(1 / 3)
    assert flips(np.array([[1.0, 1.0], [1.0, 2.0]])) == 0.5
    swapped_by_rate = np.array([[[1.0, 1.0], [2.0, 2.0]], [[2.0, 2.0], [1.0, 1.0]]])
    assert flips_between_seeds(swapped_by_rate) == 0.0
    assert flips_between_rates(swapped_by_rate) == 1.0


def section(values: dict[str, list[list[float | None]]]) -> dict:
    """A budget's record: per score its values by design and seed at the table's rate."""
    ((metric, designs),) = values.items()
    runs = [
        {"design": f"d{d}", "scale": 1.0, "seed": s, "scores": None if v is None else {metric: v}, "seconds": 1.0}
        for d, seeds in enumerate(designs)
        for s, v in enumerate(seeds)
    ]
    task = {"definition": {}, "metrics": {metric: "maximize"}, "runs": runs}
    environment = {"name": "a CPU", "threads": 2, "torch": "2.13"}
    return {"environment": environment, "designs": {f"d{d}": "a" for d in range(len(designs))}, "tasks": {"t": task}}


def test_scores_by_which_seeds_differ_more_than_designs_are_silent():
    loud, quiet = section({"recall": [[0.1, 0.2], [0.8, 0.9]]}), section({"recall": [[0.1, 0.9], [0.8, 0.2]]})
    assert silent_scores(loud) == []
    assert silent_scores(quiet) == ["recall"]
    assert "| recall | 2 x 1 x 2 |" in page({"budgets": {"cpu": loud}})
    assert "Without a signal at this budget: recall." in page({"budgets": {"cpu": quiet}})


def test_a_score_of_one_seed_is_not_judged_yet():
    early = section({"recall": [[0.1], [0.8]]})
    assert silent_scores(early) == []
    assert "not judged yet" in page({"budgets": {"cpu": early}})


def test_a_run_that_diverged_counts_as_the_worst():
    found = scores_of(section({"recall": [[0.1, None], [0.8, 0.9]]})["tasks"]["t"], "recall", ["d0", "d1"])
    assert found is not None
    assert found[0][:, 0].tolist() == [[0.1, 0.1], [0.8, 0.9]]


def test_the_budget_names_what_carries_no_signal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_signal, "CONF", tmp_path)
    file = tmp_path / "budget" / "tiny.yaml"
    file.parent.mkdir()
    file.write_text("budget:\n  trials: 4\n  no_signal: []  # a comment\n")
    silent = section({"recall": [[0.1, 0.9], [0.8, 0.2]]})
    tell_budget(silent, "tiny", update=False)
    assert "no_signal: [recall]" in capsys.readouterr().out and "[]" in file.read_text()
    tell_budget(silent, "tiny", update=True)
    assert file.read_text() == "budget:\n  trials: 4\n  no_signal: [recall]  # a comment\n"
    file.write_text("budget: {}\n")
    with pytest.raises(UserError, match=r"must have one line `no_signal: \[\.\.\.\]`, but it has 0"):
        tell_budget(silent, "tiny", update=True)


def test_a_search_warns_in_one_sentence_of_a_score_without_signal():
    said: list[str] = []

    class Listening(Observer):
        def message(self, text: str) -> None:
            said.append(text)

    settings = SearchSettings.from_overrides(["budget.no_signal=[text_loss]"])
    bars = Bars(
        objectives=settings.objectives,
        requirements=settings.requirements,
        limits=settings.limits,
        reference=settings.baseline,
    )
    announce(settings, bars, [design.name for design in settings.designs], 0, Listening())
    (warning,) = [text for text in said if "text_loss" in text]
    assert warning.startswith("text_loss does not tell designs apart at this budget")


TINY = [
    *("--tasks", "parity,compression", "--designs", "2", "--rates", "2", "--seeds", "2", "--out", "signal.json"),
    *("budget.train.parity.tokens=640", "budget.train.parity.batch_size=8"),
    *("budget.train.compression.tokens=512", "budget.train.compression.batch_size=8"),
    *("search_space.num_layers=2", "search_space.d_model=64", "search_space.params=120000"),
    *("search_space.num_kv_heads=[1,full]",),
]


def test_a_tiny_run_is_judged_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    assert call(benchmark_signal, monkeypatch, "--limit", "0", *TINY) == UNFINISHED
    assert "with 16 trainings left; the same command goes on" in capsys.readouterr().out
    assert call(benchmark_signal, monkeypatch, *TINY) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"signal.json", "signal.md"}
    budget = json.loads((tmp_path / "signal.json").read_text())["budgets"]["cpu"]
    assert set(budget["tasks"]) == {"parity", "compression"} and len(budget["designs"]) == 2
    assert all(len(task["runs"]) == 8 for task in budget["tasks"].values())
    assert set(budget["tasks"]["parity"]["runs"][0]["scores"]) == {"parity", "parity_bits", "parity_long"}
    text = (tmp_path / "signal.md").read_text()
    assert "| parity_long | 2 x 2 x 2 |" in text and "not judged yet" not in text
    capsys.readouterr()
    assert call(benchmark_signal, monkeypatch, *TINY) == 0
    assert " of 16: " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "recal"], "--tasks must name tasks of text, recall,"),
        (["--seeds", "1"], "--designs and --seeds must be at least 2"),
        (["budget=cpux"], "There is no budget 'cpux'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, arguments, sentence):
    assert sentence in mistake(*arguments, cwd=tmp_path, script="scripts/benchmark_signal.py")
    assert list(tmp_path.iterdir()) == []
