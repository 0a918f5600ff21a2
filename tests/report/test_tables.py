import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.objectives import parse_objectives
from nas.report.page import write_page
from nas.report.plot import write_plot
from nas.report.tables import noise_sentence, print_summary, write_front, write_trials
from nas.study.rows import NoiseFloor, Row
from tests.report.examples import BUSY, OBJECTIVES, REQUIREMENTS, from_source, result, rows


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(study, objectives=OBJECTIVES, requirements=REQUIREMENTS) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(study, objectives, requirements, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_trials_has_every_trial_of_every_state_with_units_and_spread(tmp_path):
    write_trials(tmp_path / "trials.csv", rows(), OBJECTIVES)
    lines = read(tmp_path / "trials.csv")
    assert [int(line["number"]) for line in lines] == list(range(14))
    assert {line["state"] for line in lines} == {"complete", "rejected", "duplicate", "failed"}
    assert float(lines[1]["time_per_output_token_ms [ms]"]) == 14.0
    assert float(lines[1]["time_per_output_token_ms low"]) == pytest.approx(13.72)
    assert lines[1]["time_per_output_token_ms n"] == "16"
    assert lines[8]["text_loss [bits/byte]"] == ""
    assert lines[8]["reason"] == "computes the same as trial 6"
    assert float(lines[1]["train [s]"]) == 21.5
    assert lines[1]["seed"] == "8"


def test_numbers_survive_the_table_exactly(tmp_path):
    write_trials(tmp_path / "trials.csv", rows(), OBJECTIVES)
    for line, row in zip(read(tmp_path / "trials.csv"), rows(), strict=True):
        for name, measurement in row.values.items():
            assert float(line[f"{name} [{measurement.unit}]"]) == measurement.value


def test_front_says_who_meets_the_requirements_and_who_is_a_reference(tmp_path):
    study = result()
    write_front(tmp_path / "front.csv", study, OBJECTIVES)
    lines = {int(line["number"]): line for line in read(tmp_path / "front.csv")}
    assert set(lines) == {*study.front, *study.front_required}
    for number, line in lines.items():
        assert line["meets_requirements"] == str(number in study.front_required).lower()
        assert line["on_front"] == str(number in study.front).lower()
        assert line["is_reference"] == str(number < 5).lower()


def test_an_empty_study_gives_tables_with_a_header_alone(tmp_path):
    empty = result(())
    write_trials(tmp_path / "trials.csv", (), OBJECTIVES)
    write_front(tmp_path / "front.csv", empty, OBJECTIVES)
    assert read(tmp_path / "trials.csv") == read(tmp_path / "front.csv") == []
    assert "no design" in summary(empty)


def test_a_table_replaces_the_old_one_whole_and_leaves_no_other_file(tmp_path):
    (tmp_path / "trials.csv").write_text("old")
    write_trials(tmp_path / "trials.csv", rows(), OBJECTIVES)
    assert [p.name for p in tmp_path.iterdir()] == ["trials.csv"]
    assert (tmp_path / "trials.csv").read_text().startswith("number,id,state")


def test_the_summary_shows_both_fronts_the_noise_floor_and_the_circumstances():
    text = summary(result())
    for wanted in (
        "recall at least 0.9 of what all-attention reaches (0.8829 share)",
        "Front without the requirements",
        "Differences in text_loss below 0.011 bits/byte (two sd over 3 seeds) are none.",
        "n=16",
        "4 blocks, d_model 128, vocabulary 256 -> 16 blocks, d_model 1024, vocabulary 32000",
        "environment: device",
        "versions.torch",
        "11 complete, 1 rejected, 1 duplicate, 1 failed",
        "9.3 s (2.2%)",
    ):
        assert wanted in text


def test_without_requirements_there_is_one_front():
    text = summary(result(), requirements=())
    assert "without the requirements" not in text
    assert "Front of 11 trained designs" in text


@pytest.mark.parametrize("names", [["text_loss"], ["text_loss", "recall"], ["recall", "parameters", "sequence_bytes"]])
def test_any_number_of_objectives_can_be_summed_up(names):
    objectives = parse_objectives(names)
    assert all(name in summary(result(objectives=objectives), objectives) for name in names)


def test_a_single_row_can_be_summed_up():
    study = replace(result(rows()[:1]), noise=(), hypervolume=None)
    assert "all-attention" in summary(study)


def test_designs_that_differ_by_no_more_than_seeds_are_said_to():
    floor = NoiseFloor(name="text_loss", unit="bits/byte", values=(2.0, 2.1), sd=0.07, design_sd=0.05)
    assert noise_sentence(floor).endswith("the reference designs do not differ by more than their seeds do.")


def test_seeds_that_gave_the_same_number_are_said_to_and_not_that_differences_below_zero_are_none():
    floor = NoiseFloor(name="recall", unit="share", values=(0.75, 0.75), sd=0.0, design_sd=0.0)
    assert noise_sentence(floor) == (
        "All 2 seeds gave the same recall (0.75 share), so they do not tell which differences in it are none."
    )


def test_robust_members_are_marked_in_the_summary_and_in_front_csv(tmp_path):
    study = result()
    assert set(study.front) - set(study.robust or ()) == {13}
    text = summary(study)
    assert "Robust (*): on the front under our own kernels, the fastest at hand and the roofline." in text
    assert " 12*  " in text
    assert " 13  " in text
    write_front(tmp_path / "front.csv", study, OBJECTIVES)
    robust = {int(line["number"]): line["robust"] for line in read(tmp_path / "front.csv")}
    assert robust == {number: "no" if number == 13 else "yes" for number in study.front}


def test_where_the_cost_models_are_not_known_nothing_is_said_of_robust_members(tmp_path):
    study = replace(result(), robust=None)
    assert "obust" not in summary(study)
    assert "*" not in summary(study)
    write_front(tmp_path / "front.csv", study, OBJECTIVES)
    assert {line["robust"] for line in read(tmp_path / "front.csv")} == {""}
    assert "No design is robust: " in summary(replace(study, robust=()))


@pytest.mark.parametrize(("source", "label"), [("estimate", "(estimate)"), ("table", "(predicted)")])
def test_tables_say_of_each_number_when_it_was_not_measured(tmp_path, source, label):
    study = result(tuple(from_source(row, source) for row in rows()))
    text = summary(study)
    assert label in text
    assert "~14.00" in text
    write_trials(tmp_path / "trials.csv", study.rows, OBJECTIVES)
    write_front(tmp_path / "front.csv", study, OBJECTIVES)
    trials, front = read(tmp_path / "trials.csv"), read(tmp_path / "front.csv")
    assert {line["time_per_output_token_ms source"] for line in front} == {source}
    assert {line["time_per_output_token_ms source"] for line in trials} == {source, ""}
    assert "text_loss source" not in trials[0]


def test_a_front_of_which_only_some_were_measured_says_so_and_marks_the_others():
    given = rows()
    text = summary(result((*given[:2], *(from_source(row, "table") for row in given[2:]))))
    assert "(partly predicted)" in text or "(partly\n" in text
    assert "~16.20 ± 0.49" in text
    assert " 14.00 ± 0.42" in text


def test_notes_have_a_column_where_there_are_any(tmp_path):
    write_trials(tmp_path / "trials.csv", rows(), OBJECTIVES)
    lines = read(tmp_path / "trials.csv")
    assert lines[1]["time_per_output_token_ms notes"] == "median known to 1 %"
    assert lines[3]["time_per_output_token_ms notes"] == f"median known to 1 %; {BUSY}"
    assert not [name for name in lines[0] if name.endswith(" notes") and not name.startswith("time_per_output")]


def test_after_the_front_stands_how_many_times_were_disturbed():
    assert "3 of 11 measured times were taken while other processes used the CPU." in summary(result())


def older(row):
    """The row as a study before cost models, sources and notes stored it."""
    data = row.to_dict()
    del data["costs"]
    for number in data["values"].values():
        del number["source"], number["notes"]
    return Row.from_dict(data)


def test_rows_of_an_older_study_are_shown_and_nothing_is_said_that_they_do_not_know(tmp_path):
    study = result(tuple(map(older, rows())))
    assert study.robust is None
    text = summary(study)
    assert "~" not in text
    assert "measured times" not in text
    write_trials(tmp_path / "trials.csv", study.rows, OBJECTIVES)
    lines = read(tmp_path / "trials.csv")
    assert lines[0]["time_per_output_token_ms source"] == "measured"
    assert not [name for name in lines[0] if name.endswith(" notes")]
    write_plot(tmp_path / "front.png", study, OBJECTIVES, REQUIREMENTS)
    write_page(tmp_path / "front.html", study, OBJECTIVES, REQUIREMENTS)
