import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nas.objectives import parse_objectives
from nas.report.page import page, write_page
from tests.report.examples import BUSY, OBJECTIVES, REQUIREMENTS, from_source, result, rows

VOID = {"meta", "input", "br", "rect"}


class Reader(HTMLParser):
    """Checks that elements close in order, and keeps text, attributes and the script with the data."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes, self.scripts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def read(text) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def data(reader: Reader) -> dict:
    found = re.match(r"const DATA = (.*);\n", reader.scripts[1])
    assert found
    return json.loads(found[1])


def test_the_page_is_well_formed_and_loads_nothing():
    reader = read(page(result(), OBJECTIVES, REQUIREMENTS))
    assert not [a for a in reader.attributes if a[1] in ("src", "href", "onload", "onclick")]
    assert len(reader.scripts) == 2
    policy = next(value for _, name, value in reader.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_the_page_shows_both_fronts_files_noise_settings_and_environment():
    text = " ".join(read(page(result(), OBJECTIVES, REQUIREMENTS)).text)
    for wanted in (
        "Front without the requirements",
        "reach recall at least 0.9 of what all-attention reaches (0.8829 share)",
        "kind: gated_deltanet",
        "Differences in text_loss below 0.011 bits/byte",
        "setting: budget.trials",
        "environment: versions.torch",
        "mamba2",
    ):
        assert wanted in text


def test_every_trained_design_is_a_point_with_its_numbers_and_their_spread():
    found = data(read(page(result(), OBJECTIVES, REQUIREMENTS)))
    assert [row["number"] for row in found["rows"]] == [r.number for r in rows() if r.state == "complete"]
    assert found["start"] == ["time_per_output_token_ms", "text_loss"]
    assert [axis["name"] for axis in found["axes"]] == [
        *("text_loss", "time_per_output_token_ms", "sequence_bytes", "recall"),
        "trial",
    ]
    hover = found["rows"][1]["hover"]
    for wanted in (
        "attention-mamba2-1-7",
        "MMMMMMMA-",
        "time_per_output_token_ms 14.00 ± 0.42 ms (n=16)",
        rows()[1].id,
    ):
        assert wanted in hover
    assert found["axes"][3]["bar"] == pytest.approx(0.8829)


def test_text_from_a_stranger_stays_text():
    evil = "</script><script>alert(1)</script><b>"
    given = rows()
    mine = (replace(given[0], origin=f"reference: {evil}", architecture=replace(given[0].architecture, name=evil)),)
    study = replace(result(mine), study=evil, environment={evil: evil}, settings={"a": evil})
    reader = read(page(study, OBJECTIVES, ()))
    assert len(reader.scripts) == 2
    assert not [a for a in reader.attributes if a[0] == "b"]
    assert "".join(reader.text).count("alert(1)") >= 5
    assert "&lt;b&gt;" in data(reader)["rows"][0]["label"]


@pytest.mark.parametrize("objectives", [["text_loss"], ["text_loss", "recall", "parameters"]])
@pytest.mark.parametrize("count", [0, 1])
def test_small_studies_have_a_page(tmp_path, objectives, count):
    parsed = parse_objectives(objectives)
    write_page(tmp_path / "front.html", replace(result(rows()[:count], objectives=parsed), noise=()), parsed, ())
    assert len(data(read((tmp_path / "front.html").read_text(encoding="utf-8")))["rows"]) == count


def test_a_number_that_is_none_is_an_error():
    row = rows()[0]
    broken = replace(row, values={**row.values, "text_loss": replace(row.values["text_loss"], value=float("nan"))})
    with pytest.raises(ValueError):
        page(result((broken,), objectives=OBJECTIVES[1:]), OBJECTIVES, ())


def test_robust_members_are_marked_on_the_page_and_said_what_they_are():
    study = result()
    reader = read(page(study, OBJECTIVES, REQUIREMENTS))
    found = data(reader)["rows"]
    assert {row["number"] for row in found if row["robust"]} == set(study.robust or ()) == set(study.front) - {13}
    assert all(row["hover"].endswith("<br>robust") == row["robust"] for row in found)
    assert {"#12*", "#13"} <= set(reader.text)
    assert "Robust (*): on the front under our own kernels, the fastest at hand and the roofline." in reader.text


def test_where_the_cost_models_are_not_known_the_page_says_nothing_of_robust_members():
    reader = read(page(replace(result(), robust=None), OBJECTIVES, REQUIREMENTS))
    assert not any(row["robust"] for row in data(reader)["rows"])
    assert "obust" not in " ".join(reader.text)


@pytest.mark.parametrize(("source", "label"), [("estimate", "estimate"), ("table", "predicted")])
def test_axes_heads_numbers_and_hover_say_what_was_not_measured(source, label):
    reader = read(page(result(tuple(from_source(row, source) for row in rows())), OBJECTIVES, REQUIREMENTS))
    found = data(reader)
    assert found["axes"][1]["title"] == f"time per output token [ms] ({label}), less is better"
    assert "time_per_output_token_ms ~14" in found["rows"][1]["hover"]
    assert f"({label}" in found["rows"][1]["hover"]
    assert [text for text in reader.text if text.startswith(f"ms, {label}")]
    assert [text for text in reader.text if text.startswith("~14.00")]


def test_hover_says_what_disturbed_a_time_and_each_member_has_its_notes():
    reader = read(page(result(), OBJECTIVES, REQUIREMENTS))
    hover = {row["number"]: row["hover"] for row in data(reader)["rows"]}
    assert {number for number, text in hover.items() if BUSY in text} == {3, 7, 9}
    assert "median known" not in "".join(hover.values())
    assert f"time per output token: median known to 1 %; {BUSY}" in reader.text
    assert "3 of 11 measured times were taken while other processes used the CPU." in reader.text


def test_the_page_says_where_costs_come_from_and_what_device_was_described():
    text = " ".join(read(page(result(), OBJECTIVES, REQUIREMENTS)).text)
    for wanted in ("whole networks, measured", "NVIDIA H200: 989 TFLOP/s in bfloat16", "environment: measured on"):
        assert wanted in text
