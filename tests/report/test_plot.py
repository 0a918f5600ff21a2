from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.image import imread
from matplotlib.text import Annotation

from nas.objectives import parse_objectives, parse_requirements
from nas.report.plot import RING, caption_text, draw, write_plot
from tests.report.examples import DELTA, OBJECTIVES, REQUIREMENTS, from_source, result, rows, trained_row


def test_the_picture_is_written_and_nothing_else(tmp_path):
    write_plot(tmp_path / "front.png", result(), OBJECTIVES, REQUIREMENTS)
    assert [p.name for p in tmp_path.iterdir()] == ["front.png"]
    assert imread(tmp_path / "front.png").std() > 0.05


def test_no_two_labels_of_a_panel_overlap():
    figure = draw(result(), OBJECTIVES, REQUIREMENTS)
    renderer = figure.canvas.get_renderer()
    panels = [axes for part in figure.subfigs for axes in part.axes if axes.get_xlabel()]
    assert len(panels) == 4
    for axes in panels:
        boxes = [t.get_window_extent(renderer) for t in axes.texts if isinstance(t, Annotation) and t.get_text()]
        assert len(boxes) == 10
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_caption_has_device_versions_spread_and_n():
    text = caption_text(result(), OBJECTIVES)
    for wanted in (
        "device CPU, 2 cores",
        "torch 2.13.0",
        "text loss 0.0056 bits/byte (n=3 seeds)",
        "time per output token n=16",
    ):
        assert wanted in text


@pytest.mark.parametrize("objectives", [["text_loss"], ["text_loss", "recall", "parameters"]])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_small_studies_of_any_number_of_objectives_have_a_picture(tmp_path, objectives, count):
    parsed = parse_objectives(objectives)
    write_plot(tmp_path / "front.png", result(rows()[:count], objectives=parsed), parsed, ())
    assert (tmp_path / "front.png").stat().st_size > 5000


def test_a_deep_design_has_its_strip_without_letters(tmp_path):
    deep = (trained_row(0, [DELTA] * 96, (2.1, 0.9, 10.0, 8.0)),)
    figure = draw(result(deep), OBJECTIVES, parse_requirements({"parameters": 1e9}))
    (axes,) = figure.subfigs[1].axes
    assert "G" not in [text.get_text() for text in axes.texts]
    assert len(axes.patches) == 3 * 96


def test_a_crowded_front_has_its_first_strips_and_says_where_the_others_are():
    crowd = tuple(trained_row(i, [DELTA], (2.2 - 0.003 * i, 0.9, 10.0 + i, 8.0 + i)) for i in range(30))
    study = replace(result(crowd), reference=None)
    assert len(study.front) == 30
    assert "The layers of 6 more members are in front.csv." in caption_text(study, OBJECTIVES)
    (axes,) = draw(study, OBJECTIVES, ()).subfigs[1].axes
    assert len(axes.patches) == 3 * 24


def panels_of(figure):
    return [axes for part in figure.subfigs for axes in part.axes if axes.get_xlabel()]


def test_robust_members_have_a_ring_in_every_panel_and_the_caption_says_what_it_is():
    study = result()
    figure = draw(study, OBJECTIVES, REQUIREMENTS)
    for axes in panels_of(figure):
        rings = [line for line in axes.lines if line.get_markersize() == RING]
        assert len(rings) == len(study.robust or ()) == len(study.front) - 1
    (legend,) = figure.subfigs[0].legends
    assert "robust" in [text.get_text() for text in legend.get_texts()]
    sentence = "Robust (ringed): on the front under our own kernels, the fastest at hand and the roofline."
    assert sentence in caption_text(study, OBJECTIVES)


def test_where_the_cost_models_are_not_known_there_is_no_ring():
    study = replace(result(), robust=None)
    figure = draw(study, OBJECTIVES, REQUIREMENTS)
    assert not [line for axes in panels_of(figure) for line in axes.lines if line.get_markersize() == RING]
    assert "robust" not in [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert "obust" not in caption_text(study, OBJECTIVES)


@pytest.mark.parametrize(("source", "label"), [("estimate", "estimate"), ("table", "predicted")])
def test_axes_and_numbers_of_the_picture_say_what_was_not_measured(source, label):
    figure = draw(result(tuple(from_source(row, source) for row in rows())), OBJECTIVES, REQUIREMENTS)
    title = f"time per output token [ms] ({label}), less is better"
    assert [axes.get_xlabel() for axes in panels_of(figure)].count(title) == 2
    (strips,) = figure.subfigs[1].axes
    texts = [text.get_text() for text in strips.texts]
    assert f"time per\noutput token\nms ↓\n({label})" in texts
    assert len([text for text in texts if text.startswith("~")]) == 7


def test_no_head_beside_the_strips_covers_another():
    figure = draw(result(tuple(from_source(row, "estimate") for row in rows())), OBJECTIVES, REQUIREMENTS)
    (strips,) = figure.subfigs[1].axes
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in strips.texts if "\n" in text.get_text()]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_caption_says_how_many_times_were_disturbed():
    assert "3 of 11 measured times were taken while other processes used the CPU." in caption_text(result(), OBJECTIVES)
