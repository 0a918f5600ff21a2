import builtins
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from nas.report import ready
from nas.report.errors import ReportError
from nas.report.ready import check_ready


def test_a_good_directory_is_left_as_it_was(tmp_path):
    check_ready(tmp_path / "study", {"mode": "disabled"})
    assert not list((tmp_path / "study").iterdir())


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "study").write_text("a file")
    with pytest.raises(ReportError, match=r"^The report is written into .*study, but that is not possible"):
        check_ready(tmp_path / "study", {"mode": "disabled"})


@pytest.mark.parametrize(
    ("missing", "mode"), [("matplotlib", "disabled"), ("plotly", "disabled"), ("wandb", "offline")]
)
def test_a_library_that_cannot_be_imported_is_one_sentence(tmp_path, monkeypatch, missing, mode):
    def import_module(name: str) -> object:
        if name == missing:
            raise ImportError(f"No module named {name!r}")
        return importlib.import_module(name)

    monkeypatch.setattr(ready, "import_module", import_module)
    with pytest.raises(ReportError, match=rf"^{missing} is needed .*No module named '{missing}'"):
        check_ready(tmp_path, {"mode": mode})


def test_without_tracking_wandb_need_not_be_there(tmp_path, monkeypatch):
    original = builtins.__import__
    monkeypatch.setattr(ready, "import_module", lambda name: original(name) if name != "wandb" else pytest.fail(name))
    check_ready(tmp_path, {"mode": "disabled"})


def test_the_report_needs_neither_torch_nor_optuna():
    code = "import sys, nas.report; print(sorted({'torch', 'optuna', 'wandb', 'lightning'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=550, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "[]\n", done.stderr
