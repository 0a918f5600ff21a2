"""The refusal of numbers of things that are no whole numbers, before a mask or a shape is made of them."""

import torch


def check_whole_number(name: str, number: int) -> None:
    """Raises ValueError for 2.5, for 2.0 and for True; sizes that torch.compile leaves open pass."""
    if isinstance(number, bool) or not isinstance(number, (int, torch.SymInt)):
        raise ValueError(f"{name} must be a whole number, but got {number!r}: give an int.")
