"""Confirming as a user does it: at the end of a search, and by the command, killed and taken up again."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nas.study.confirmation.retrained import FIRST_SEED, TRAINING
from nas.study.storage.studies import close_study, load_study
from scripts import recommend
from scripts.command_line import UserError
from scripts.confirm import main
from scripts.settings import SearchSettings
from tests.ending_itself import run_until
from tests.test_end_to_end import environment, search
from tests.warm_process import run_script

ONLY_ONE = "references=[all-attention]"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, str]:
    """The folder of a search of two trials that was confirmed at its end, and what it said."""
    folder = tmp_path_factory.mktemp("search")
    overrides = ("study=tiny", "budget.trials=2", "budget.confirm_seeds=2", "tracker=none", ONLY_ONE)
    done = search(folder, *overrides, cache=cache)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "tiny", done.stdout


def confirm(study: Path, *fields: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return run_script("scripts/confirm.py", str(study), *fields, cwd=study, environment=environment(cache))


def trainings(study: Path) -> list[str]:
    """The attributes of the trainings that the study holds."""
    opened = load_study(study, "tiny")
    try:
        return [name for name in opened.user_attrs if name.startswith(TRAINING)]
    finally:
        close_study(opened)


def test_a_search_confirms_its_front_at_its_end(finished):
    study, said = finished
    assert (study / "confirmation.md").read_text() in said
    data = json.loads((study / "confirmation.json").read_text())
    assert data["plan"]["seeds"] == [FIRST_SEED + 1, FIRST_SEED + 2] and data["plan"]["tuning_seed"] == FIRST_SEED
    assert data["front"] and {one["number"] for one in data["designs"]} >= set(data["front"])
    for design in data["designs"]:
        assert len(design["tuned"]["text_loss"]["values"]) == len(design["fixed"]["recall"]["values"]) == 2
        assert design["values"]["text_loss"]["source"] == "confirmed"
    assert set(data["scores"]) >= {"text_loss", "recall"}
    assert not (study / "checkpoints").exists()


def test_the_command_goes_on_with_what_the_search_began_and_trains_nothing_twice(finished, cache):
    study, _ = finished
    page, before = (study / "confirmation.md").read_text(), trainings(study)
    done = confirm(study, "seeds=2", cache=cache)
    assert done.returncode == 0, done.stderr
    assert page in done.stdout and (study / "confirmation.md").read_text() == page
    assert trainings(study) == before


def test_another_number_of_seeds_is_refused_in_one_sentence(finished, cache):
    done = confirm(finished[0], "seeds=3", cache=cache)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "error: This study is being confirmed with seeds=2 tune=true, and that is fixed beforehand" in done.stderr


def test_a_confirmation_that_is_killed_goes_on_where_it_was(finished, cache):
    study, _ = finished
    before = set(trainings(study))
    fields = ("seeds=2", "tune=false", "anew=true")
    killed = run_until(
        signal.SIGKILL,
        "scripts/confirm.py",
        *(str(study), *fields),
        training=2,
        step=2,
        cwd=study,
        environment=environment(cache),
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = set(trainings(study)) - before
    assert len(kept) == killed.stdout.count(" on seed ") == 1, "what was told is stored"
    done = confirm(study, "seeds=2", "tune=false", cache=cache)
    assert done.returncode == 0, done.stderr
    new = set(trainings(study)) - before
    data = json.loads((study / "confirmation.json").read_text())
    assert kept < new and len(new) == 2 * 2 * len(data["designs"]), "two tasks on two seeds"
    assert done.stdout.count(" on seed ") == len(new - kept)
    assert min(data["plan"]["seeds"]) > FIRST_SEED + 2 and data["plan"]["tuning_seed"] is None
    assert Counter(len(one["fixed"]["recall"]["values"]) for one in data["designs"]) == {2: len(data["designs"])}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["seeds=1"], "seeds must be a whole number of at least 2, but got 1"),
        (["seeds=many"], "seeds must be a whole number of at least 2, but got 'many'"),
        (["tune=perhaps"], "tune must be true or false, but got 'perhaps'"),
        (["seds=3"], "There is no field 'seds'. Did you mean 'seeds'"),
        (["device=["], "The argument 'device=[' has a value that cannot be read"),
        (["3"], "The argument '3' must be field=value, such as seeds=5"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(fields, message, tmp_path, monkeypatch, capsys: Any):
    monkeypatch.setattr("sys.argv", ["confirm.py", str(tmp_path), *fields])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_without_a_study_is_one_sentence(tmp_path, monkeypatch, capsys: Any):
    monkeypatch.setattr("sys.argv", ["confirm.py", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "There is no study in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", "cannot be read"),
        ("- 1", "must hold the fields of a search"),
        ("", "must hold the fields of a search"),
        ("study: toy", "lacks the field"),
    ],
)
@pytest.mark.parametrize("command", [main, recommend.main])
def test_a_torn_configuration_is_one_sentence(command, text, message, tmp_path, monkeypatch, capsys: Any):
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr("sys.argv", ["command", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        command()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    if message != "lacks the field":
        with pytest.raises(UserError, match=message):
            SearchSettings.from_overrides([f"warm_start=[{tmp_path}]"])


def test_a_database_of_an_earlier_study_needs_the_password_that_no_file_keeps(tmp_path):
    (tmp_path / "config.yaml").write_text("study: toy\nstorage: postgresql+psycopg://me:***@host/name\n")
    with pytest.raises(UserError, match=r"is kept at postgresql.psycopg://me:...@host/name, but no password is kept"):
        SearchSettings.from_overrides([f"warm_start=[{tmp_path}]"])
    storage = "postgresql+psycopg://me:secret@host/name"
    (earlier,) = SearchSettings.from_overrides([f"warm_start=[{tmp_path}]", f"storage={storage}"]).earlier
    assert earlier.storage == storage


def test_help_names_every_field(capsys: Any, monkeypatch):
    monkeypatch.setattr("sys.argv", ["confirm.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and all(
        f"{name}=" in said for name in ("seeds", "tune", "anew", "device", "storage")
    )


@pytest.mark.parametrize(
    ("value", "message"), [("1", "must be 0 for no confirmation or at least 2"), ("some", "at least 0, but got 'some'")]
)
def test_the_searchs_own_number_of_seeds_is_checked(value, message):
    assert SearchSettings.from_overrides([]).confirm_seeds == 0
    with pytest.raises(ValueError, match=message):
        SearchSettings.from_overrides([f"budget.confirm_seeds={value}"])
