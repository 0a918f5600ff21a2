"""Prints what a search space offers: its size, every choice with the condition under which it is asked, ten samples.

    python scripts/show_space.py search_space=hybrid
    python scripts/show_space.py search_space=pattern 'search_space.alphabet=agm' --samples 20

The overrides are those of search.py.
"""

import argparse
from collections.abc import Sequence

from nas.architecture import Architecture, diagram
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.settings import SearchSettings
from search_spaces import RandomTrial, SearchSpace
from search_spaces.overview import Question, Size, questions, random_walks, size_of

WALKS = 1_000
"""Random walks from which choices, conditions and the size of a large space are known."""
MOST_SHOWN = 3
MOST_SHOWN = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as search_space=pattern")
    parser.add_argument("--samples", type=int, default=10, help="random architectures to draw (default: 10)")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Nothing was written."):
        if arguments.samples < 0:
            raise UserError(f"--samples must be at least 0, but got {arguments.samples}.")
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides(arguments.overrides)
        show(settings.space, settings.designs, arguments.samples)


def show(space: SearchSpace, designs: Sequence[Architecture], samples: int) -> None:
    walks = random_walks(space, WALKS)
    print(f"Size: {told(size_of(space, walks))}")
    print("\nChoices:")
    for question in questions(walks):
        print(f"  {line(question)}")
    placed = [(name, space.at(params)) for name, params in space.references(designs)]
    print(f"\nReference designs in it: {len(placed)} of {len(designs)}")
    for name, architecture in placed:
        print(f"  {diagram(architecture):<{width(architecture)}}  {name}")
    print("\nRandom samples:" if samples else "")
    for seed in range(samples):
        architecture = space(RandomTrial(seed))
        print(f"  {diagram(architecture):<{width(architecture)}}  d_model {architecture.d_model}")


def told(size: Size) -> str:
    """The number of points in words."""
    if size.relative_error == 0:
        return f"{size.points:,.0f} points"
    return f"about {size.points:.2g} points (estimated from {WALKS:,} random walks, ±{size.relative_error:.0%})"


def line(question: Question) -> str:
    """One question, with the places that ask it and the condition."""
    places = f" (x{question.places})" if question.places > 1 else ""
    text = f"{question.name}{places}: {', '.join(map(str, question.choices))}"
    if question.always:
        return text
    if not question.conditions:
        return f"{text}   [depends on several choices]"
    conditions = (f"{name} is {alternatives(choices)}" for name, choices in question.conditions)
    return f"{text}   [if {' and '.join(conditions)}]"


def alternatives(choices: tuple[object, ...]) -> str:
    """The choices, or the first few of many."""
    shown = " or ".join(map(str, choices[:MOST_SHOWN]))
    return shown if len(choices) <= MOST_SHOWN else f"{shown} or {len(choices) - MOST_SHOWN} others"


def width(architecture: Architecture) -> int:
    """Of the column of diagrams: enough for four signs a layer, as in `(AM)e`."""
    return max(24, 5 * len(architecture.blocks))


if __name__ == "__main__":
    main()
