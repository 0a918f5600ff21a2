"""The search as a user runs it: processes, real files, real training, only smaller."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from nas.architecture import canonical_id, read_architecture
from nas.checkpoint import load_weights
from nas.compile import compile_architecture
from nas.tasks import make_task
from nas.training import Recipe, evaluate
from tests.ending_itself import run_until
from tests.test_command_line import mistake
from tests.warm_process import run_script

ROOT = Path(__file__).resolve().parents[1]
TEXT = {"max_bytes": 200_000, "score_tokens": 4096, "sequence_length": 64}
SMALL = [
    "search_space.num_layers=[2,3]",
    "search_space.d_model=64",
    "search_space.params=160000",
    "search_space.num_kv_heads=[1,full]",
    *(f"task.runs.text.{name}={value}" for name, value in TEXT.items()),
    "task.runs.recall.sequence_length=32",
    "task.runs.recall.num_pairs=4",
    "task.runs.recall.score_sequences=16",
    "budget.train.text.tokens=4096",
    "budget.train.text.batch_size=8",
    "budget.train.recall.tokens=2048",
    "budget.train.recall.batch_size=8",
    "budget.noise_seeds=2",
    "measure.parameters=600000",
    "measure.depth=1",
    "measure.vocab_size=256",
    "measure.context=256",
    "measure.prompt=64",
    "measure.seconds=0.2",
]


def environment(cache: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "WANDB_API_KEY", "WANDB_MODE")}
    return {**kept, "HYBRID_NAS_CACHE": str(cache), "OMP_NUM_THREADS": "1", "NETRC": str(cache / "netrc")}


def search(folder: Path, *overrides: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "search.py"), *SMALL, *overrides]
    return subprocess.run(command, cwd=folder, env=environment(cache), capture_output=True, text=True, timeout=550)


def rows(study: Path) -> list[dict[str, str]]:
    with (study / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A search of three trials, run once for all tests of this file."""
    folder = tmp_path_factory.mktemp("search")
    done = search(folder, "study=small", "budget.trials=3", cache=cache)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_search_of_three_trials_writes_everything_a_user_needs(finished):
    folder, done = finished
    study = folder / "outputs" / "small"
    assert [path.name for path in folder.iterdir()] == ["outputs"]
    for name in ("journal.log", "trials.csv", "front.csv", "front.png", "front.html", "config.yaml"):
        assert (study / name).stat().st_size > 0, name
    # One run for the study and one for each trained trial.
    runs = list(study.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 4 and all(run.stat().st_size > 0 for run in runs)
    assert (study / "front.png").read_bytes().startswith(b"\x89PNG")
    assert sum(row["state"] == "complete" for row in rows(study)) == 3
    with (study / "front.csv").open() as file:
        members = [row["id"] for row in csv.DictReader(file)]
    assert members
    for member in members:
        assert canonical_id(read_architecture(study / "architectures" / f"{member}.yaml")) == member
        assert (study / "architectures" / f"{member}.safetensors").exists()
    assert "Front of 3 trained designs" in done.stdout
    assert "trial 0 complete, on the front" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_journal_holds_the_study_for_any_optuna_program(finished):
    study_folder = finished[0] / "outputs" / "small"
    backend = optuna.storages.journal.JournalFileBackend(str(study_folder / "journal.log"))
    study = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(backend))
    assert sum(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials) == 3
    assert study.best_trials


def test_an_exported_member_scores_what_its_row_says(finished, cache, monkeypatch):
    monkeypatch.setenv("HYBRID_NAS_CACHE", str(cache))
    study = finished[0] / "outputs" / "small"
    task = make_task("text", TEXT)
    task.prepare()
    recipe = Recipe(tokens=4096, batch_size=8)
    files = sorted((study / "architectures").glob("*.yaml"))
    assert files
    for path in files:
        model = compile_architecture(read_architecture(path), seed=99)
        assert load_weights(path.with_suffix(".safetensors"), model)["task"] == "text"
        row = next(row for row in rows(study) if row["id"] == path.stem and row["state"] == "complete")
        score = evaluate(model, task, recipe)["text_loss"].value
        assert score == pytest.approx(float(row["text_loss [bits/byte]"]), abs=1e-4)


def test_the_same_command_again_changes_nothing(finished, cache):
    study = finished[0] / "outputs" / "small"
    before = rows(study)
    assert search(finished[0], "study=small", "budget.trials=3", cache=cache).returncode == 0
    assert rows(study) == before


def test_a_changed_space_is_refused_and_nothing_is_lost(finished, cache, monkeypatch):
    study = finished[0] / "outputs" / "small"
    before = (study / "journal.log").read_bytes()
    others = {p: p.read_bytes() for p in study.rglob("*") if p.is_file() and not p.name.startswith("journal.log")}
    monkeypatch.setenv("HYBRID_NAS_CACHE", str(cache))
    overrides = [*SMALL, "study=small", "search_space.num_layers=[2]"]
    sentence = mistake(*overrides, cwd=finished[0])
    assert "search_space.num_layers was [2, 3] and is now [2]" in sentence
    assert "study=NAME" in sentence
    # Optuna notes the attempt to open; what was there stays as it was.
    assert (study / "journal.log").read_bytes().startswith(before)
    assert others == {p: p.read_bytes() for p in others}
    assert search(finished[0], "study=small", "budget.trials=3", cache=cache).returncode == 0


def test_kill_9_in_the_middle_loses_no_finished_trial_and_repeats_none(tmp_path, cache):
    killed = run_until(
        signal.SIGKILL,
        "search.py",
        *(*SMALL, "study=killed", "budget.trials=4", "tracker=none"),
        training=5,  # the third trial, of two tasks each
        step=2,
        cwd=tmp_path,
        environment=environment(cache),
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    study = tmp_path / "outputs" / "killed"
    finished_before = {row["id"]: row for row in rows(study) if row["state"] == "complete"}
    assert len(finished_before) == 2
    overrides = ("study=killed", "budget.trials=4", "tracker=none")
    done = run_script("search.py", *SMALL, *overrides, cwd=tmp_path, environment=environment(cache))
    assert done.returncode == 0, done.stderr
    assert "1 interrupted trials are taken up again" in done.stdout
    complete = [row for row in rows(study) if row["state"] == "complete"]
    assert len(complete) == 4
    assert len({row["id"] for row in complete}) == 4
    for row in complete:
        assert row["id"] not in finished_before or row == finished_before[row["id"]]
    assert [row["reason"] for row in rows(study) if row["state"] == "failed"] == ["interrupted"]


def test_control_c_ends_with_a_sentence_and_exit_code_130(tmp_path, cache):
    done = run_until(
        signal.SIGINT,
        "search.py",
        *(*SMALL, "tracker=none"),
        training=1,
        step=3,
        cwd=tmp_path,
        environment=environment(cache),
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "Interrupted. The same command goes on from here."
    assert "trial 0 started" in done.stdout and "trial 0 complete" not in done.stdout


def test_a_member_of_the_front_trains_further_and_improves(finished, cache):
    folder = finished[0]
    path = sorted((folder / "outputs" / "small" / "architectures").glob("*.yaml"))[0]
    command = [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        f"architecture={path}",
        "train.tokens=16384",
    ]
    done = subprocess.run(command, cwd=folder, env=environment(cache), capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((folder / "outputs" / "train" / f"{path.stem}.json").read_text())
    assert numbers["after"]["text_loss"]["value"] < numbers["before"]["text_loss"]
