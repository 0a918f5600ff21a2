"""The command that shows a search space."""

import sys

import pytest

from scripts import show_space


def test_a_space_is_shown_with_size_choices_conditions_designs_and_samples(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["show_space", "search_space=oracle", "--samples", "3"])
    show_space.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Size: 256 points"
    assert "  pattern.* (x4): a, s, g, m" in lines
    assert any(line.endswith("all-attention") for line in lines)
    assert len(lines) - lines.index("Random samples:") == 4


def test_fewer_than_no_samples_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["show_space", "--samples", "-1"])
    with pytest.raises(SystemExit) as stop:
        show_space.main()
    assert stop.value.code == 2
    assert "--samples must be at least 0" in capsys.readouterr().err
