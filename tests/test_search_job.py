"""What a search does when its files cannot be written."""

import errno
from types import SimpleNamespace

import pytest

from nas.study.errors import StudyError
from scripts import search_result
from scripts.search_job import without_password
from scripts.search_result import TrialsTable, writing

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
