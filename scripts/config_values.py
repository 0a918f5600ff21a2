"""Single values of a configuration, each as it should be or refused in one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from nas.architecture import did_you_mean
from scripts.command_line import UserError


def whole(name: str, value: object, *, minimum: int = 1) -> int:
    """`value` if it is a whole number of at least `minimum`; raises UserError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise UserError(f"{name} must be a whole number of at least {minimum}, but got {value!r}.")
    return value


def fresh_seeds(name: str, value: object) -> int:
    """0 for none, or at least 2; raises UserError otherwise."""
    if value == 1:
        raise UserError(f"{name} must be 0 for no confirmation or at least 2, because one seed tells no spread; got 1.")
    return whole(name, value, minimum=0)


def minutes(name: str, value: object) -> float | None:
    """A number above zero, or None; raises UserError otherwise."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise UserError(f"{name} must be a number of minutes above zero, or null for no limit, but got {value!r}.")
    return float(value)


def time_limit(name: str, value: float | None) -> float | None:
    """A number of seconds from zero, or None; raises UserError otherwise."""
    if value is not None and not value >= 0:
        raise UserError(f"{name} must be a number of seconds from zero, but got {value!r}.")
    return value


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """`value` if it is one of the known words; raises UserError otherwise."""
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, but got {value!r}. {did_you_mean(value, known)}")
    return str(value)


def worker_number(value: object) -> int:
    """The number of this worker; raises UserError, also for several numbers in a run without `-m`."""
    if isinstance(value, str | list):
        raise UserError(f"worker is one number in a run of its own; several workers need -m, but got worker={value!r}.")
    return whole("worker", value, minimum=0)


def word(name: str, value: object) -> str:
    """`value` if it is a string; raises UserError otherwise."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be a word, but got {value!r}.")
    return value


def as_list(name: str, value: object) -> list[Any]:
    """A list, or a scalar as a list of one; raises UserError for a mapping."""
    if isinstance(value, Mapping):
        raise UserError(f"{name} must be a list, but got {value!r}.")
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def refuse_unknown(section: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise UserError for a field that `+field=value` added and nothing reads."""
    for name in given:
        if name not in known:
            place = f"{section} has no field" if section else "There is no field"
            raise UserError(f"{place} {name!r}. {did_you_mean(name, known)}")
