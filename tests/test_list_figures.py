"""The figures of docs/kernels.md are those of the records beside it."""

import copy

import pytest

from scripts.list_figures import END, PAGE, records, rewritten


def test_the_page_shows_what_the_records_say_and_nothing_else_of_it_is_touched():
    page, found = PAGE.read_text(encoding="utf-8"), records()
    assert rewritten(page, found) == page, "run scripts/list_figures.py"
    other = copy.deepcopy(found)
    other["scans"]["rows"][0]["ours"]["value"] /= 2
    changed = rewritten(page, other)
    ((before, after),) = [(a, b) for a, b in zip(page.splitlines(), changed.splitlines(), strict=True) if a != b]
    assert "scans.md" in before and "scans.md" in after


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="between which figures are written"):
        rewritten(PAGE.read_text(encoding="utf-8").replace(END, ""), records())
