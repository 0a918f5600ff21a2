import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from nas.architecture import MIXERS, diagram
from nas.architecture.diagram import MIXER_LETTERS
from nas.report.strips import MIXER_COLOURS, ffn_legend, ink_on, mixer_legend, strip, strip_svg, strip_text
from tests.report.examples import DELTA, FULL, MIX, WINDOW, design


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_mixer_has_a_colour_of_its_own():
    letters = {*MIXER_LETTERS.values(), "S"}
    assert letters <= set(MIXER_COLOURS)
    assert len({MIXER_COLOURS[letter] for letter in letters}) == len(letters)
    assert set(MIXERS) - {"head_mix"} == set(MIXER_LETTERS)


@pytest.mark.parametrize("colour", MIXER_COLOURS.values())
def test_letters_can_be_read_on_their_colour(colour):
    light, dark = sorted((luminance(colour), luminance(ink_on(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_layer_of_mixed_heads_is_divided_in_their_shares():
    (cell,) = strip(design([MIX]))
    assert [(part.letter, part.share) for part in cell.parts] == [("A", 0.25), ("M", 0.75)]


def test_a_window_has_its_own_name_and_colour():
    full, window = strip(design([FULL, WINDOW]))
    assert window.parts[0].name == "sliding-window attention"
    assert window.parts[0].colour != full.parts[0].colour


def test_the_terminal_strip_is_the_diagram():
    architecture = design([DELTA, DELTA, MIX, FULL, WINDOW, DELTA], experts=True)
    assert strip_text(architecture).plain == diagram(architecture)
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
    console.print(strip_text(architecture))


def test_the_svg_is_well_formed_and_has_one_frame_a_layer():
    architecture = design([DELTA, MIX, FULL])
    tree = ElementTree.fromstring(strip_svg(architecture))
    assert len(tree.findall(".//rect[@class='cell']")) == 3
    assert len(tree.findall(".//text")) == 4


def test_the_legend_names_each_kind_once_in_a_fixed_order():
    one, two = design([DELTA, FULL, MIX]), design([FULL, WINDOW, DELTA, DELTA, DELTA, DELTA], experts=True)
    assert [part.letter for part in mixer_legend([one, two])] == ["A", "S", "M", "G"]
    assert [name for name, _ in ffn_legend([two, one])] == ["FFN: GLU", "FFN: experts", "no FFN"]
