import pytest

from nas.study.storage.journal import mend_journal
from nas.study.storage.studies import StudyError, differences, load_study, make_folder
from tests.study.toys import run_toy


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (b'{"a":1}\n{"b":2}\n', b'{"a":1}\n{"b":2}\n'),
        (b'{"a":1}\n{"b":2}', b'{"a":1}\n'),
        (b'{"a":1}\n{"b":', b'{"a":1}\n'),
        (b'{"a":1}\n{"b"\n', b'{"a":1}\n'),
        (b'{"a', b""),
        (b"", b""),
    ],
)
def test_a_torn_last_line_is_cut_off_and_nothing_else(tmp_path, text, sound):
    path = tmp_path / "journal.log"
    path.write_bytes(text)
    assert mend_journal(path) == len(text) - len(sound)
    assert path.read_bytes() == sound


def test_a_study_with_another_space_is_refused_and_told_what_changed(tmp_path):
    run_toy(tmp_path, trials=2)
    with pytest.raises(StudyError, match=r'search_space.mixers was \["a", "m"\] and is now \["a"\].*study=NAME'):
        run_toy(tmp_path, trials=3, definition={"search_space": {"mixers": ["a"]}})
    assert run_toy(tmp_path, trials=2).done == 2


def test_differences_name_added_and_removed_fields():
    assert differences({"a": {"x": 1}, "b": 2}, {"a": {"x": 1, "y": 3}}) == [
        "a.y was null and is now 3",
        "b was 2 and is now null",
    ]


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StudyError, match="must be writable"):
        make_folder(blocked / "study")


def test_a_journal_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "journal.log").write_text("not json\nat all\n{}\n")
    with pytest.raises(StudyError, match="cannot be read"):
        run_toy(tmp_path, trials=1)


def test_a_study_that_exists_is_loaded_whatever_its_definition_and_none_is_made(tmp_path):
    done = run_toy(tmp_path, trials=2)
    assert [trial.number for trial in load_study(tmp_path, "toy").trials] == [t.number for t in done.study.trials]
    with pytest.raises(StudyError, match=r"There is no study 'other' in .*journal\.log"):
        load_study(tmp_path, "other")
    with pytest.raises(StudyError, match="There is no study 'toy'"):
        load_study(tmp_path / "nowhere", "toy")
    assert not (tmp_path / "nowhere").exists()
