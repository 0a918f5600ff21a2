import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nas.report.errors import ReportError
from nas.report.plot import write_plot
from nas.report.tracker import Tracker, TrackerSettings, has_api_key, study_run_id
from nas.study.rows import StudyResult
from tests.report.examples import OBJECTIVES, from_source, result, rows

TRACKED = """
import sys
from pathlib import Path
from nas.report.tracker import Tracker
from tests.report.examples import result, rows

directory = Path(sys.argv[1])
with Tracker("study", directory, {"mode": "offline"}, {"budget": 3}) as tracker:
    for done, row in enumerate(rows()[:3]):
        tracker.trial_started(row.number, row.architecture, row.origin, done, 3)
        for step in range(1, 11):
            tracker.step("text", step, 10, 1 / step)
        tracker.row_finished(row, (0,), done + 1, 3)
    tracker.finish(result(rows()[:3]), [directory / "front.png"])
print("failed" if tracker.failed else "tracked")
"""


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No key of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_a_study_has_one_run_and_one_for_each_trained_trial_and_a_resumed_one_continues_it(tmp_path):
    write_plot(tmp_path / "front.png", result(rows()[:3]), OBJECTIVES, ())
    for _ in range(2):
        command = [sys.executable, "-c", TRACKED, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[2])
        assert done.stdout == "tracked\n", done.stderr
    run_id = study_run_id(tmp_path, "study")
    runs = {path.name.removeprefix("run-") for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert runs == {f"{run_id}.wandb", *(f"{run_id}-{number}.wandb" for number in range(3))}
    assert {p.name for p in tmp_path.iterdir()} == {"front.png", "wandb"}
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/front_plot*.png"))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/front*.json"))


def test_a_failure_is_reported_once_and_ends_only_the_tracking(tmp_path, monkeypatch):
    messages: list[str] = []
    tracker = Tracker("study", tmp_path, {"mode": "offline"}, {}, report=messages.append)

    def refuse(**_: object) -> None:
        raise RuntimeError("no\nspace left")

    monkeypatch.setattr(tracker, "_start", refuse)
    with tracker:
        for row in rows()[:4]:
            tracker.row_finished(row, (), 1, 4)
    assert messages == ["W&B tracking stopped: no space left"]


def test_a_disabled_tracker_starts_and_writes_nothing(tmp_path):
    threads = threading.active_count()
    with Tracker("study", tmp_path, {"mode": "disabled"}, {}) as tracker:
        tracker.row_finished(rows()[0], (), 1, 1)
        tracker.finish(result(), [])
        assert threading.active_count() == threads
    assert not list(tmp_path.iterdir())


def test_curves_keep_at_most_a_few_hundred_points_and_the_last(tmp_path):
    tracker = Tracker("study", tmp_path, {"mode": "disabled"}, {})
    for step in range(1, 100_004):
        tracker.step("text", step, 100_003, 1.0)
    assert len(tracker.curves["text"]) <= 203
    assert tracker.curves["text"][-1][0] == 100_003


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"mode": "ofline"}, "tracker.mode is 'ofline'. Did you mean 'offline'?"),
        ({"projekt": "x"}, "tracker has no field 'projekt'. Did you mean 'project'?"),
    ],
)
def test_a_wrong_setting_is_answered_with_the_nearest_valid_name(config, sentence):
    with pytest.raises(ReportError, match=sentence.replace("?", r"\?")):
        TrackerSettings.from_config(config)


def test_automatic_mode_is_online_with_a_key_and_offline_without(monkeypatch, tmp_path):
    settings = TrackerSettings.from_config({})
    assert settings.resolved_mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_api_key()
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert settings.resolved_mode() == "online"


@pytest.mark.parametrize(
    ("variable", "mode"),
    [("disabled", "disabled"), ("offline", "offline"), ("dryrun", "offline"), ("Online", "online"), ("", "online")],
)
def test_automatic_mode_does_what_wandb_mode_says_though_there_is_a_key(monkeypatch, variable, mode):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_MODE", variable)
    assert TrackerSettings.from_config({}).resolved_mode() == mode
    assert TrackerSettings.from_config({"mode": "offline"}).resolved_mode() == "offline"


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("online", "WANDB_MODE=online needs an API key"),
        ("ofline", "WANDB_MODE is 'ofline'. Did you mean 'offline'?"),
    ],
)
def test_a_wandb_mode_that_cannot_hold_is_one_sentence(monkeypatch, variable, sentence):
    monkeypatch.setenv("WANDB_MODE", variable)
    with pytest.raises(ReportError) as error:
        TrackerSettings.from_config({}).resolved_mode()
    assert sentence in str(error.value)


def test_online_without_a_key_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ReportError, match=r"WANDB_API_KEY or netrc"):
        Tracker("study", tmp_path, {"mode": "online"}, {})


class Run:
    """Stands in for a run of W&B and keeps what it is told."""

    def __init__(self) -> None:
        self.logged: dict = {}
        self.summary: dict = {}

    def log(self, data: dict) -> None:
        self.logged.update(data)

    def finish(self) -> None: ...


def front_table(tracker: Tracker, study: StudyResult) -> list[dict]:
    """The lines of the front's table as W&B gets them."""
    tracker.study_run = Run()
    tracker._log_result(study, [])
    table = tracker.study_run.logged["front"]
    return [dict(zip(table.columns, line, strict=True)) for line in table.data]


def test_the_front_table_says_who_is_robust_where_that_is_known(tmp_path):
    tracker = Tracker("study", tmp_path, {"mode": "disabled"}, {})
    lines = front_table(tracker, result())
    assert {line["number"]: line["robust"] for line in lines} == {
        line["number"]: line["number"] != 13 for line in lines
    }
    assert "robust" not in front_table(tracker, replace(result(), robust=None))[0]


@pytest.mark.parametrize(("source", "label"), [("estimate", "estimate"), ("table", "predicted")])
def test_what_was_not_measured_has_a_name_of_its_own(tmp_path, monkeypatch, source, label):
    tracker, run = Tracker("study", tmp_path, {"mode": "disabled"}, {}), Run()
    monkeypatch.setattr(tracker, "_start", lambda **_: run)
    given = tuple(from_source(row, source) for row in rows())
    tracker._log_trial(given[1], {})
    for numbers in (run.summary, front_table(tracker, result(given))[0]):
        assert numbers[f"time_per_output_token_ms ({label})"] == 14.0
        assert "time_per_output_token_ms" not in numbers
        assert "text_loss" in numbers


def test_each_worker_has_a_run_of_its_own_in_the_group_of_the_study(tmp_path, monkeypatch):
    opened = []
    for worker in ("", "1", "2.5"):
        tracker = Tracker("study", tmp_path, {"mode": "disabled"}, {}, worker=worker)
        monkeypatch.setattr(tracker, "_start", lambda **given: opened.append((given["run_id"], given["name"])))
        tracker._open_study()
    first = opened[0][0]
    assert opened == [
        (first, "study"),
        (f"{first}-worker-1", "study-worker-1"),
        (f"{first}-worker-2.5", "study-worker-2.5"),
    ]
