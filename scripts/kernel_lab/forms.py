"""What a caller can switch on in each recurrence and each fused neighbour of a mixer, in one place: their forms.

The problems that check launches on a GPU, those that are captured or compiled as one graph and those that are tuned are
these forms at sizes of their own. `tests/kernels/test_forms.py` holds the doors of the kernels, and what is compiled
ahead of time, against them.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from scripts.kernel_lab.operations import Gate, Operation, Setting

Form = Mapping[str, Any]  # fields of an operation that differ from its defaults
Named = list[tuple[str, Operation]]

# The published layer of each setting that has one.
LAYERS: dict[str, Setting] = {
    "simple_gla": Setting("head"),
    "gated_delta_rule": Setting("head", delta=True),
    "gla": Setting("channel"),
    "kda": Setting("channel", delta=True),
    "rwkv7": Setting("channel", erase=True),
    "rwkv6": Setting("channel", bonus=True),
    "linear_attention": Setting("none"),
    "retention": Setting("fixed"),
    "delta_rule": Setting("none", delta=True),
}


def _settings() -> dict[str, Setting]:
    """All that the door takes, those of layers first."""
    gates: tuple[Gate, ...] = ("none", "fixed", "head", "channel")
    writes: tuple[dict[str, bool], ...] = ({}, {"delta": True}, {"erase": True})
    named = {setting: name for name, setting in LAYERS.items()} | {Setting("head", erase=True): "comba"}
    every = [Setting(gate, bonus=bonus, **write) for bonus, write, gate in product((False, True), writes, gates)]
    return LAYERS | {named.get(one, _described(one)): one for one in every}


def _described(one: Setting) -> str:
    decay = {"none": "no decay", "fixed": "fixed decay", "head": "decay per head", "channel": "decay per channel"}
    return decay[one.gate] + ", delta" * one.delta + ", erase" * one.erase + ", bonus" * one.bonus


SETTINGS = _settings()


Choice = tuple[str, Form]


def _each_of(*choices: Choice) -> dict[str, Form]:
    """Every combination of what may be chosen beside the defaults."""
    forms: dict[str, Form] = {}
    for chosen in product((False, True), repeat=len(choices)):
        taken = [choice for choice, is_chosen in zip(choices, chosen, strict=True) if is_chosen]
        forms[", ".join(name for name, _ in taken)] = {
            field: value for _, form in taken for field, value in form.items()
        }
    return forms


_STATE: Choice = ("from a state", {"state": True})
_NO_SKIP: Choice = ("no skip", {"skip": False})
_NO_GATE: Choice = ("no gate", {"gate": False})
_REVERSE: Choice = ("backwards", {"reverse": True})
_HALF_DECAY: Choice = ("decays as short as inputs", {"half_decay": True})
_NO_BIAS: Choice = ("no bias", {"bias": False})
_NO_ACTIVATION: Choice = ("no activation", {"activation": None})
_IN_GROUPS: dict[str, Form] = {"in groups": {"groups": 2}}
_NORMS: dict[str, Form] = {
    "": {},
    "of a sum": {"residual": True},
    **{
        f"{place} a {activation} gate": {"gate": gate, "gate_activation": activation}
        for place, gate in (("before", "behind"), ("behind", "front"))
        for activation in ("silu", "sigmoid")
    },
}

# By public function and name; the form of all defaults, if it is one, has none.
FORMS: dict[str, dict[str, Form]] = {
    "matrix_recurrence": {name: asdict(setting) for name, setting in SETTINGS.items()},
    "matrix_recurrence_step": {name: asdict(setting) for name, setting in SETTINGS.items()},
    "mlstm": _each_of(_STATE),
    "mlstm_step": _each_of(),
    "selective_scan": _each_of(_NO_SKIP, _NO_GATE, _STATE) | _IN_GROUPS,
    "selective_scan_step": _each_of(_NO_SKIP, _NO_GATE) | _IN_GROUPS,
    "vector_recurrence": _each_of(_REVERSE, _HALF_DECAY, _STATE),
    "vector_recurrence_step": _each_of(_HALF_DECAY),
    "wkv": _each_of(_STATE),
    "wkv_step": _each_of(),
    "short_convolution": _each_of(_NO_BIAS, _NO_ACTIVATION, _STATE),
    "short_convolution_step": _each_of(_NO_BIAS, _NO_ACTIVATION),
    "rms_norm": {
        **_NORMS,
        **{", ".join(filter(None, (name, "no weight"))): {**form, "weight": False} for name, form in _NORMS.items()},
        "of groups": {"groups": 4},
        "of groups, behind a silu gate": {"groups": 4, "gate": "front"},
    },
    "l2_norm": _each_of(),
    "glu": {one: {"activation": one} for one in ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid")},
}


def in_all_forms(name: str, one: Operation, *, but: tuple[str, ...] = ()) -> Named:
    """An operation in every form, each named after what differs; but: fields that stay as they are."""
    forms = {form: fields for form, fields in FORMS[one.function].items() if not set(but) & set(fields)}
    return [(", ".join(filter(None, (name, form))), replace(one, **fields)) for form, fields in forms.items()]
