"""The free choices of a matrix recurrence: asked one after the other, each where those before it leave room for it.

What follows from a choice is not asked: keys have length one where something is erased, convolutions are followed by
SiLU, decays per channel come from a projection of the rank of a head, and sigmoid decays are raised to 1/16 (GLA).
A question whose choices depend on an earlier one has a name of its own for each case, `write.vector` beside decays per
channel.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from nas.architecture import MatrixRecurrence
from nas.architecture.matrix_recurrence import DECAY_FORMS
from search_spaces.kinds import Ask
from search_spaces.picks import OutsideSpaceError

SIGNED = ("identity", "silu")
"""Feature maps with negative products, whose sum is no normaliser."""
GATE_CAP = 15.0
SIGMOID_SCALE = 1 / 16


def choose(ask: Ask, space: Any) -> dict[str, Any]:
    """The options of a matrix recurrence but for its heads; `space` lists the choices."""
    decay, erase, features = (ask(key, getattr(space, key)) for key in ("decay", "erase", "feature_map"))
    options: dict[str, Any] = {"decay": decay, "erase": erase, "feature_map": features}
    if decay != "none":
        options["decay_form"] = ask(f"decay_form.{decay}", allowed(space.decay_form, DECAY_FORMS[decay]))
    options["write"] = write = _write(ask, space, decay, erase)
    if erase == "none" and write in ("plain", "scalar", "vector"):
        sign = "signed" if features in SIGNED else "positive"
        sums = ("none", "max") if sign == "signed" else ("none", "max", "sum")
        options["normaliser"] = ask(f"normaliser.{sign}", allowed(space.normaliser, sums))
    if erase != "none" or write == "scalar":
        options["beta_max"] = float(ask("beta_max", space.beta_max))
    if write not in ("complement", "exponential"):
        options["inner_steps"] = ask("inner_steps", space.inner_steps)
    size = "feature_dim" if features == "taylor" else "key_dim"
    for key in (size, "conv_size", "gate", "output_norm"):
        options[key] = ask(key, getattr(space, key))
    options["position"] = ask("key_position", space.key_position)
    if options["gate"] != "none":
        options["gate_rank"] = "head_dim" if ask("gate_rank", space.gate_rank) == "head_dim" else None
    return options | implied(options)


def implied(options: dict[str, Any]) -> dict[str, Any]:
    """What follows from the choices."""
    write, given = options["write"], {}
    if options["erase"] != "none":
        given["qk_norm"] = "l2"
    if options["conv_size"]:
        given["qkv_activation"] = "silu"
    if options["decay"] == "vector" and write != "complement":
        given["decay_rank"] = "head_dim"
    if options.get("decay_form") == "sigmoid" and write not in ("complement", "exponential"):
        given["decay_scale"] = SIGMOID_SCALE
    if write == "complement":
        given["scaled"] = False
    if write == "exponential":
        given |= {"gate_cap": GATE_CAP, "normaliser": "max"}
    if options["erase"] == "scaled":
        given["correction"] = True
    return given


def describe(mixer: MatrixRecurrence, head_dim: int) -> dict[str, object]:
    """What must be chosen to make this canonical mixer, its keys scaled to heads of `head_dim`."""
    if mixer.gate_rank not in (None, "head_dim"):
        raise OutsideSpaceError(f"A gate of rank {mixer.gate_rank} is no choice.")
    wanted: dict[str, object] = {
        "decay": mixer.decay,
        f"decay_form.{mixer.decay}": mixer.decay_form,
        "erase": mixer.erase,
        "feature_map": mixer.feature_map,
        "key_dim": Fraction(mixer.key_size * head_dim, mixer.head_dim),
        "key_position": mixer.position,
        "gate_rank": "full" if mixer.gate_rank is None else mixer.gate_rank,
    }
    wanted |= {_write_key(mixer.decay, mixer.erase): mixer.write}
    wanted |= {f"normaliser.{sign}": mixer.normaliser for sign in ("signed", "positive")}
    same = ("beta_max", "inner_steps", "feature_dim", "conv_size", "gate", "output_norm")
    return wanted | {key: getattr(mixer, key) for key in same}


def allowed(offered: Iterable[str], valid: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the offered choices that are valid; the first valid one where none is."""
    return tuple(choice for choice in offered if choice in valid) or valid[:1]


def _write(ask: Ask, space: Any, decay: str, erase: str) -> str:
    if erase in ("delta", "scaled"):
        return "scalar"
    valid: tuple[str, ...] = ("plain", "scalar", "vector")
    if erase == "none":
        valid += {"vector": ("complement",), "scalar": ("exponential",)}.get(decay, ())
    return ask(_write_key(decay, erase), allowed(space.write, valid))


def _write_key(decay: str, erase: str) -> str:
    return f"write.{erase if erase in ('channel', 'separate') else decay}"
