"""What is no tensor, number or switch at the doors of the recurrences: one sentence that names it."""

from typing import Any

import pytest
import torch

import kernels

HEADS = {name: torch.zeros(1, 3, 2, 16) for name in ("q", "k", "v")}
TOKEN = {name: tensor[:, 0] for name, tensor in HEADS.items()}
CHANNELS = torch.zeros(1, 3, 4)
GATES = {"input_gate": torch.zeros(1, 3, 2), "forget_gate": torch.zeros(1, 3, 2)}
SCAN = {"u": CHANNELS, "delta": CHANNELS, "A": torch.zeros(4, 2), "B": torch.zeros(1, 3, 2), "C": torch.zeros(1, 3, 2)}
WKV = {"k": CHANNELS, "v": CHANNELS, "w": torch.zeros(4), "u": torch.zeros(4)}
FILTER = {"x": CHANNELS, "weight": torch.zeros(4, 3)}
DOORS: dict[str, dict[str, Any]] = {
    "matrix_recurrence": HEADS,
    "matrix_recurrence_step": {**TOKEN, "state": torch.zeros(1, 2, 16, 16)},
    "mlstm": {**HEADS, **GATES},
    "selective_scan": SCAN,
    "vector_recurrence": {"x": CHANNELS, "log_decay": CHANNELS},
    "wkv": WKV,
    "short_convolution": FILTER,
}
WRONG = [
    *(
        (door, name, None, f"{name} must be a tensor, but got None")
        for door in DOORS
        for name in DOORS[door]
        if name != "state"
    ),
    *(
        (door, "initial_state", 0, "initial_state must be a tensor or None, but got 0")
        for door in ("matrix_recurrence", "selective_scan", "vector_recurrence", "wkv", "short_convolution")
    ),
    *((door, "return_state", None, "return_state must be True or False") for door in DOORS if "step" not in door),
    ("matrix_recurrence", "log_decay", -0.1, "log_decay must be a tensor or None, but got -0.1"),
    ("matrix_recurrence", "bonus", 1.0, "bonus must be a tensor or None, but got 1.0"),
    ("matrix_recurrence", "scale", "x", "scale must be a finite number, but got 'x'"),
    ("matrix_recurrence_step", "scale", float("nan"), "scale must be a finite number, but got nan"),
    ("mlstm", "scale", torch.ones(()), "scale must be a finite number, but got a tensor"),
    ("selective_scan", "D", 1.0, "D must be a tensor or None, but got 1.0"),
    ("vector_recurrence", "reverse", "false", "reverse must be True or False, but got 'false'"),
    ("short_convolution", "bias", 0.0, "bias must be a tensor or None, but got 0.0"),
]


@pytest.mark.parametrize(("door", "name", "value", "sentence"), WRONG, ids=lambda value: str(value)[:20])
def test_what_is_no_tensor_number_or_switch_is_one_sentence(door: str, name: str, value: object, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        getattr(kernels, door)(**{**DOORS[door], name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_what_they_are_given_besides_is_right(door: str) -> None:
    getattr(kernels, door)(**DOORS[door])
