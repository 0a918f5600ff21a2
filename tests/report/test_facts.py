from dataclasses import replace

import pytest

from nas.report.facts import costs_facts, facts
from tests.report.examples import from_source, result, rows


def test_costs_and_the_described_device_with_its_source_are_told_in_two_lines():
    lines = dict(facts(result()))
    assert lines["costs"] == "whole networks, measured"
    assert lines["described device"] == (
        "NVIDIA H200: 989 TFLOP/s in bfloat16, 67 TFLOP/s in float32, 4,800 GB/s, 141 GB, cache 60 MB "
        "(source: the maker's data sheet)"
    )
    assert lines["environment: measured on"] == "NVIDIA H200"
    assert not [name for name in lines if name.startswith("setting: costs")]


@pytest.mark.parametrize("settings", [{}, {"seed": 0}])
def test_a_study_that_does_not_know_its_costs_says_nothing_of_them(settings):
    lines = dict(facts(replace(result(rows()[:1]), settings=settings)))
    assert "costs" not in lines
    assert "described device" not in lines


def test_what_else_is_known_of_the_costs_is_told_too():
    costs = {"costs": "predicted from 41 measured blocks", "table": "tables/cpu.json"}
    assert costs_facts(costs) == [("costs", "predicted from 41 measured blocks"), ("costs: table", "tables/cpu.json")]


@pytest.mark.parametrize(("source", "name"), [("estimate", "estimate for"), ("table", "predicted for")])
def test_a_device_whose_times_were_not_measured_is_not_said_to_be_measured_on(source, name):
    lines = dict(facts(result(tuple(from_source(row, source) for row in rows()))))
    assert lines[f"environment: {name}"] == "NVIDIA H200"
    assert "environment: measured on" not in lines
