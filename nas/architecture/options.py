"""What the options of every kind of part have in common: typed fields that check themselves, free of torch.

A kind is one frozen dataclass. Each field carries, beside its default, what holds for it and the role it plays when
the network is resized (see resize.py):

* `heads`: a number of heads; shares between parts are kept.
* `groups`: a number that must divide the number of heads; stays, as near as that allows.
* `width`: a number of channels that grows with the width of the model.
* `head_dim`: the size of one head; set by the deployment.
* `state`: the size of a recurrent state; grows with the size of a head.
* `tokens`: a number of tokens (window, block); absolute on text, scaled with the length on synthetic tasks.
* `share`: a count whose ratio to another count matters (experts active of all); never resized alone.
* `fixed`: everything else.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from nas.architecture.errors import ArchitectureError, did_you_mean

DEFAULT_NORM_EPS = 1e-6
_HASH = "_hash"
Role = Literal["heads", "groups", "width", "head_dim", "state", "tokens", "share", "fixed"]


def option(
    default: Any = dataclasses.MISSING,
    *,
    role: Role = "fixed",
    minimum: float | None = None,
    maximum: float | None = None,
    rare: bool = False,
    kinds: Mapping[str, "type[Options]"] | None = None,
) -> Any:
    """A dataclass field with its role in resizing, its smallest valid value, and its largest where it has one.

    rare: files leave the option out while it is at its default; most designs never set it. kinds: of options that are
    options themselves, what a file may name.
    """
    rules = {"role": role, "minimum": minimum, "maximum": maximum, "rare": rare, "kinds": kinds}
    return field(default=default, metadata=rules)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of mixers and FFNs. `kind` is the name in the architecture file."""

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__hash__ = Options.__hash__  # in place of the one that `dataclass` would make, which keeps nothing

    def __post_init__(self) -> None:
        for name, default, hint, minimum, maximum in _rules(type(self)):
            value = getattr(self, name)
            if value is not default:
                check_value(name, value, hint, minimum, maximum)
        self.check()

    def __hash__(self) -> int:
        """Of the data, taken once: what is known of blocks is looked up by them, thousands of times a second."""
        known = self.__dict__.get(_HASH)
        if known is None:
            known = hash((type(self), *_values(type(self))(self)))
            object.__setattr__(self, _HASH, known)
        return known

    def __getstate__(self) -> dict[str, Any]:
        """Without the hash, which is another one in another process."""
        return {name: value for name, value in self.__dict__.items() if name != _HASH}

    def check(self) -> None:
        """Rules that hold between several options; raises ArchitectureError."""

    def canonical(self, d_model: int) -> "Options":
        """The same function in a network of this width, with implied options written out and idle ones at defaults."""
        return self


@cache
def _values(kind: type[Options]) -> Callable[[Options], tuple[Any, ...]]:
    """What reads the values of all options of a kind that count where two are compared."""
    names = [f.name for f in dataclasses.fields(kind) if f.compare]
    return attrgetter(*names) if len(names) > 1 else lambda options: tuple(getattr(options, name) for name in names)


@cache
def _rules(kind: type[Options]) -> tuple[tuple[str, Any, Any, float | None, float | None], ...]:
    """(name, default, type, smallest, largest value) of every option of a kind. Reading annotations anew each time
    costs most, and after that checking what is at its default, as most options are.

    None stands for no bound.
    """
    hints = get_type_hints(kind)
    ruled = (f for f in dataclasses.fields(kind) if f.metadata)
    return tuple((f.name, f.default, hints[f.name], f.metadata["minimum"], f.metadata["maximum"]) for f in ruled)


def check_value(name: str, value: object, hint: Any, minimum: float | None, maximum: float | None = None) -> None:
    """Raise ArchitectureError unless `value` has the annotated type, is finite and lies from `minimum` to `maximum`."""
    allowed = _allowed(hint)
    if value is None and any(kind is type(None) for kind, _ in allowed):
        return
    for kind, words in allowed:
        if words:
            if value in words:
                return
            raise ArchitectureError(f"{name} is {value!r}. {did_you_mean(value, map(str, words))}")
        if isinstance(kind, type) and (kind is bool or issubclass(kind, Options)) and isinstance(value, kind):
            return
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            break
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            break
    else:
        wanted = " or ".join("null" if t is type(None) else getattr(t, "__name__", str(t)) for t, _ in allowed)
        raise ArchitectureError(f"{name} must be of type {wanted}, but got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ArchitectureError(f"{name} must be a finite number, but got {value!r}.")
    if minimum is not None and not value >= minimum:  # type: ignore[arg-type]
        raise ArchitectureError(f"{name} must be at least {minimum:g}, but got {value!r}.")
    if maximum is not None and not value <= maximum:  # type: ignore[arg-type]
        raise ArchitectureError(f"{name} must be at most {maximum:g}, but got {value!r}.")


@cache
def _allowed(hint: Any) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
    """The types of which a value may be one, and of a Literal its words."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple((kind, get_args(kind) if get_origin(kind) is Literal else ()) for kind in kinds)


@cache
def role_of(kind: type[Options], name: str) -> Role:
    """The role in resizing of one option of a kind."""
    for f in dataclasses.fields(kind):
        if f.name == name:
            return f.metadata.get("role", "fixed")
    raise KeyError(name)
