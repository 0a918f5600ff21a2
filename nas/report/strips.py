"""A layer pattern as a strip of coloured cells: one colour per kind of mixer, the kind of FFN in a second row.

Colours are those of Okabe and Ito (Color Universal Design, 2008), then of Tol (Colour Schemes, 2021), which people with
colour-blindness tell apart, and the letters of `nas.architecture.diagram` stand in the cells, so that no reading rests
on colour alone. A layer of mixed heads is divided in the shares of its heads. Terminal, picture and page draw the same
cells.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from rich.text import Text

from nas.architecture import Architecture, Block, HeadMix, MixerOptions
from nas.architecture.diagram import ffn_letter, mixer_letter

MIXER_COLOURS = {
    "A": "#d55e00",
    "S": "#e69f00",
    "B": "#f0e442",
    "P": "#ddcc77",
    "N": "#117733",
    "D": "#332288",
    "I": "#6699cc",
    "F": "#661100",
    "X": "#aa4499",
    "H": "#ee8866",
    "L": "#56b4e9",
    "M": "#0072b2",
    "m": "#cc79a7",
    "G": "#009e73",
    "C": "#999933",
    "R": "#44aa99",
    "V": "#882255",
    "4": "#ddaa77",
    "6": "#aa7744",
    "7": "#774411",
    "s": "#bb6677",
    "Y": "#225577",
    "T": "#888888",
    "W": "#88ccee",
    "0": "#ffffff",
}
FFN_COLOURS = {
    "glu": "#c8c8c8",
    "mlp": "#8c8c8c",
    "moe": "#555555",
    "rwkv_channel_mix": "#b0a090",
    "mixture_of_depths": "#a0a8b8",
    "none": "#ffffff",
}
OTHER_COLOUR = "#999999"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A mixer of a layer: its letter and name, its colour and its share of the layer's heads."""

    letter: str
    name: str
    colour: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer: its mixers from left to right, and its FFN."""

    parts: tuple[Part, ...]
    ffn: str
    ffn_mark: str
    ffn_colour: str


def strip(architecture: Architecture) -> tuple[Cell, ...]:
    """The cells of all layers from first to last."""
    return tuple(_cell(block) for block in architecture.blocks)


def _cell(block: Block) -> Cell:
    mixers = block.mixer.parts if isinstance(block.mixer, HeadMix) else (block.mixer,)
    heads = [getattr(mixer, "num_heads", 1) for mixer in mixers]
    parts = tuple(_part(mixer, count / sum(heads)) for mixer, count in zip(mixers, heads, strict=True))
    return Cell(
        parts=parts,
        ffn=block.ffn.kind,
        ffn_mark=ffn_letter(block.ffn),
        ffn_colour=FFN_COLOURS.get(block.ffn.kind, OTHER_COLOUR),
    )


def _part(mixer: MixerOptions, share: float) -> Part:
    letter = mixer_letter(mixer)
    name = "sliding-window attention" if letter == "S" else mixer.kind.replace("_", " ")
    name = "no mixer" if mixer.kind == "none" else name
    return Part(letter=letter, name=name, colour=MIXER_COLOURS.get(letter, OTHER_COLOUR), share=share)


def mixer_legend(architectures: Iterable[Architecture]) -> tuple[Part, ...]:
    """Each mixer of the strips once, in the order of the colours."""
    found = {part.letter: part for a in architectures for cell in strip(a) for part in cell.parts}
    order = list(MIXER_COLOURS)
    return tuple(sorted(found.values(), key=lambda p: order.index(p.letter) if p.letter in order else len(order)))


def ffn_legend(architectures: Iterable[Architecture]) -> tuple[tuple[str, str], ...]:
    """Name and colour of each FFN of the strips, once."""
    found = {cell.ffn: cell.ffn_colour for a in architectures for cell in strip(a)}
    names = {"glu": "FFN: GLU", "moe": "FFN: experts", "none": "no FFN"}
    return tuple((names.get(kind, f"FFN: {kind}"), found[kind]) for kind in sorted(found))


def ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily on `colour` (relative luminance of sRGB, Rec. 709 weights)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#000000" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.2 else "#ffffff"


def strip_text(architecture: Architecture) -> Text:
    """The strip for a terminal: the letters of the diagram on their colours."""
    text = Text()
    for cell in strip(architecture):
        brackets = len(cell.parts) > 1
        text.append("(" if brackets else "", style="dim")
        for part in cell.parts:
            text.append(part.letter, style=f"{ink_on(part.colour)} on {part.colour}")
        text.append(")" if brackets else "", style="dim")
        text.append(cell.ffn_mark, style="bold")
    return text


def strip_svg(architecture: Architecture, *, cell_width: int = 22) -> str:
    """The strip as an SVG element: mixers above, FFNs below, names as tooltips."""
    cells = strip(architecture)
    shapes = []
    for index, cell in enumerate(cells):
        x = float(index * cell_width)
        for part in cell.parts:
            width = part.share * cell_width
            shapes.append(
                f"<g><title>layer {index + 1}: {escape(part.name)}</title>"
                f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="18" fill="{part.colour}"/>'
                f'<text x="{x + width / 2:.1f}" y="13" fill="{ink_on(part.colour)}">{escape(part.letter)}</text></g>'
            )
            x += width
        shapes.append(
            f'<rect x="{index * cell_width}" y="19" width="{cell_width}" height="6" fill="{cell.ffn_colour}">'
            f"<title>layer {index + 1}: FFN {escape(cell.ffn)}</title></rect>"
            f'<rect x="{index * cell_width}" y="0" width="{cell_width}" height="25" class="cell"/>'
        )
    width = len(cells) * cell_width
    label = f"{len(cells)} layers: {''.join(part.letter for cell in cells for part in cell.parts)}"
    return (
        f'<svg class="strip" role="img" aria-label="{escape(label)}" width="{width}" height="25" '
        f'viewBox="0 0 {width} 25">{"".join(shapes)}</svg>'
    )
