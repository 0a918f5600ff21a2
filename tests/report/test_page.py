import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nas.objectives import parse_objectives
from nas.report.page import page, write_page
from tests.report.examples import OBJECTIVES, REQUIREMENTS, result, rows

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
    assert found["start"] == ["decode_latency_ms", "text_loss"]
    assert [axis["name"] for axis in found["axes"]] == [
        *("text_loss", "decode_latency_ms", "sequence_bytes", "recall"),
        "trial",
    ]
    hover = found["rows"][1]["hover"]
    for wanted in ("attention-mamba2-1-7", "MMMMMMMA-", "decode_latency_ms 14.00 ± 0.42 ms (n=16)", rows()[1].id):
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
