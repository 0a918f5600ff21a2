"""What an argument is, before shapes are compared: a tensor, a number or a switch, and one sentence for what is not."""

import math

import torch
from torch import Tensor


def check_tensors(**arguments: object) -> None:
    """By name. Raises ValueError for what is no tensor, such as None where one is missing."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, but got {_told(value)}.")


def check_optional_tensors(**arguments: object) -> None:
    """As `check_tensors`, of arguments that may be left out."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor or None, but got {_told(value)}.")


def check_number(name: str, number: float) -> None:
    """Raises ValueError for what is no finite number. A tensor is none: to read it would be to wait for its device."""
    is_number = isinstance(number, (int, float, torch.SymInt, torch.SymFloat)) and not isinstance(number, bool)
    if not is_number or not -math.inf < number < math.inf:
        raise ValueError(f"{name} must be a finite number, but got {_told(number)}.")


def check_switches(**arguments: object) -> None:
    """By name. Raises ValueError for what is neither True nor False, such as None, which would pass for False."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, but got {_told(value)}.")


def _told(value: object) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
