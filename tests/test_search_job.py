"""What a search does when its files cannot be written, and what it says of requirements before they cost anything."""

import errno
from types import SimpleNamespace

import pytest

from nas.objectives import parse_limits, parse_requirements
from nas.study.bars import Bars
from nas.study.errors import StudyError
from nas.study.events import Watchers
from scripts import search_result
from scripts.baseline import OutOfReach, refuse_excluded_baseline, tell_of_baseline
from scripts.search_job import without_password
from scripts.search_result import TrialsTable, writing
from scripts.settings import SearchSettings
from tests.study.toys import ALL_ATTENTION, OBJECTIVES, FreeEvaluator, Silent, run_toy, space

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_table_that_cannot_be_written_is_told_and_the_search_goes_on(tmp_path, monkeypatch):
    def write(*_):
        raise FULL

    said = []
    loop = SimpleNamespace(rows=[], observer=SimpleNamespace(message=said.append))
    monkeypatch.setattr(search_result, "write_trials", write)
    TrialsTable(tmp_path / "trials.csv", (), loop).row_finished(SimpleNamespace(number=3), (), 1, 2)
    assert said == [f"{tmp_path}/trials.csv could not be brought up to date (No space left on device); trial 3 is kept"]


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(StudyError, match=r"could not be written into .* \(No space left on device\); every finished"):
        with writing(tmp_path):
            raise FULL


def test_the_configuration_is_written_without_a_password():
    config = {"storage": "postgresql+psycopg://me:secret@host/db", "seed": 1}
    assert without_password(config) == {"storage": "postgresql+psycopg://me:***@host/db", "seed": 1}
    assert without_password({"storage": None}) == {"storage": None}


def bars_of(require, limits=None, reference="all-attention"):
    requirements = parse_requirements(require, reference)
    return Bars(objectives=OBJECTIVES, requirements=requirements, limits=parse_limits(limits), reference=reference)


def test_the_baseline_is_the_first_reference_of_the_space_and_one_outside_is_told_before_the_first_trial():
    settings = SearchSettings.from_overrides(["search_space=head_mix"])
    assert settings.baseline == settings.config["baseline"] == "head-mix"
    assert "head-mix" in str(settings.requirements[0])
    assert SearchSettings.from_overrides(["search_space=linear"]).baseline == "all-attention"
    said = Silent()
    tell_of_baseline(bars_of({"recall": 0.9}), "all-attention", ["all-attention"], said)
    tell_of_baseline(bars_of({"decode_latency_ms": 9}), "all-attention", ["head-mix"], said)
    assert said.messages == [], "nothing to say where all is well, or where nothing is relative"
    tell_of_baseline(bars_of({"recall": 0.9}, reference="head-mix"), "all-attention", ["head-mix"], said)
    tell_of_baseline(bars_of({"recall": 0.9}), "all-attention", ["head-mix"], said)
    assert said.messages == [
        "all-attention does not lie in this space: requirements are relative to head-mix",
        "require.recall is relative to all-attention, which does not lie in this space: no design will be said to meet "
        "it; choose baseline=head-mix, or set require.recall=null",
    ]


def test_limits_that_leave_out_the_baseline_of_a_requirement_are_refused_before_anything_is_trained():
    placed = [("all-attention", ALL_ATTENTION)]
    tight = {"sequence_bytes": 400}  # all-attention has 401 bytes
    with pytest.raises(
        StudyError, match=r"limits\.sequence_bytes=400 leaves out all-attention, which require\.recall is"
    ):
        refuse_excluded_baseline(bars_of({"recall": 0.9}, tight), FreeEvaluator(), space, placed)
    for bars, references in (
        (bars_of({"recall": 0.9}, {"sequence_bytes": 401}), placed),
        (bars_of({"decode_latency_ms": 9}, tight), placed),
        (bars_of({"recall": 0.9}, tight), []),
    ):
        refuse_excluded_baseline(bars, FreeEvaluator(), space, references)


def test_a_share_above_one_is_told_as_soon_as_the_baseline_is_trained(tmp_path):
    said = Silent()
    loop = run_toy(tmp_path, trials=2)
    bars = bars_of({"recall": 5, "text_loss": 1.5})
    watchers = Watchers([OutOfReach(bars, (), said)])
    for row in loop.rows[::-1]:
        watchers.row_finished(row, (), 1, 2)
    sentence = (
        "require.recall=5 asks for 5, since all-attention reaches 1, but a share is at most 1: no design can meet it; "
        "lower it to 1 or less"
    )
    assert said.messages == [sentence], "the baseline alone, and the share alone"
    OutOfReach(bars, loop.rows, said)
    assert said.messages == [sentence] * 2, "the baseline was trained in an earlier run"
    OutOfReach(bars_of({"recall": 1}), loop.rows, said)
    assert len(said.messages) == 2
