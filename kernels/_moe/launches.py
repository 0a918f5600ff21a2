"""Launch configurations of the two kernels of experts: a default for each type and others worth trying."""

from torch import Tensor

from kernels._grouped_matmul.launches import Rectangle, as_configs, width_class
from kernels._moe.expert import Expert
from kernels.tuned_table import Config, Key
from kernels.tuning import key

# As in kernels/_grouped_matmul/launches.py. The kernel into the hidden layer holds two results, gate and up.
_IN: dict[tuple[int, bool], tuple[Rectangle, ...]] = {
    (2, True): (
        (128, 64, 64, 8, 4),
        (128, 128, 64, 8, 3),
        (128, 64, 64, 4, 3),
        (64, 128, 64, 8, 3),
        (64, 64, 64, 4, 4),
        (128, 128, 32, 8, 4),
    ),
    (2, False): ((64, 32, 32, 4, 2), (64, 64, 32, 8, 2), (128, 32, 32, 8, 2)),
    (4, True): ((64, 32, 32, 8, 3), (32, 32, 32, 4, 3), (64, 64, 32, 8, 2)),
    (4, False): ((32, 32, 16, 4, 2), (64, 32, 16, 8, 2)),
}
_HIDDEN_GRAD: dict[tuple[int, bool], tuple[Rectangle, ...]] = {
    (2, True): (
        (128, 64, 64, 8, 3),
        (64, 128, 64, 8, 3),
        (128, 64, 64, 8, 4),
        (64, 64, 64, 4, 4),
        (64, 128, 64, 8, 4),
        (128, 64, 128, 8, 2),
    ),
    (2, False): ((64, 32, 32, 4, 2), (64, 64, 32, 8, 2), (128, 32, 32, 8, 2)),
    (4, True): ((64, 32, 32, 8, 3), (32, 32, 32, 4, 3), (64, 64, 32, 8, 2)),
    (4, False): ((32, 32, 16, 4, 2), (64, 32, 16, 8, 2)),
}

# What passes a clamp is known beside everything else: on sm_80 the default above spills 8 bytes with it.
_CLAMPED_DEFAULT: Rectangle = (64, 64, 64, 8, 3)


def in_key(x: Tensor, columns: int, aligned: bool, tf32: bool, keep: bool, expert: Expert, biased: bool = False) -> Key:
    """Of the product into the hidden layer of `columns`; `keep` where its inputs are written for a backward pass."""
    flags = {"aligned": aligned, "tf32": tf32, "keep": keep, **_flags(expert), **({"biased": True} if biased else {})}
    return key("moe.in", x.element_size(), {"columns": width_class(columns)}, flags)


def hidden_grad_key(x: Tensor, columns: int, aligned: bool, transposed: bool, tf32: bool, expert: Expert) -> Key:
    """Of the product back out of it; `transposed` where w_out is read by columns."""
    flags = {"aligned": aligned, "transposed": transposed, "tf32": tf32, **_flags(expert)}
    return key("moe.hidden_grad", x.element_size(), {"columns": width_class(columns)}, flags)


def _flags(expert: Expert) -> dict[str, int]:
    """What of an expert changes the code, by names that are part of a key only where they hold."""
    held = {expert.activation: True, "ungated": not expert.gated, "clamped": expert.clamp is not None}
    return {name: 1 for name, holds in held.items() if holds}


def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    table, flags = _IN if key.kernel == "moe.in" else _HIDDEN_GRAD, dict(key.flags)
    found = table[key.element_bytes, flags["aligned"] > 0]
    if "clamped" in flags and found is _HIDDEN_GRAD[2, True]:
        found = (_CLAMPED_DEFAULT, *found[:5])
    return as_configs(found)


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]
