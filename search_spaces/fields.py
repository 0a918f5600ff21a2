"""Fields of a search space as a person writes them: a scalar or a list, checked once, kept as a tuple of choices.

Every reader takes the name of the field and what came, and raises one sentence that says what holds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from fractions import Fraction
from typing import Any

from nas.architecture import ArchitectureError, did_you_mean


def integers(*, minimum: int = 1) -> Any:
    """A field that holds one or more integers."""
    return _field(lambda name, value: tuple(dict.fromkeys(_integer(name, v, minimum) for v in _items(name, value))))


def integer(*, minimum: int = 1) -> Any:
    """A field that holds one integer."""
    return _field(lambda name, value: _integer(name, value, minimum))


def words(*valid: str) -> Any:
    """A field that holds one or more of the valid words."""
    return _field(lambda name, value: tuple(dict.fromkeys(_word(name, v, valid) for v in _items(name, value))))


def word(*valid: str) -> Any:
    """A field that holds one of the valid words."""
    return _field(lambda name, value: _word(name, value, valid))


def letters(valid: Sequence[str]) -> Any:
    """A field that holds letters, written as one string or as a list."""
    return _field(lambda name, value: tuple(dict.fromkeys(_word(name, v, valid) for v in _letters(name, value))))


def word_pairs(valid: Sequence[str]) -> Any:
    """A field that holds pairs of words written `x+y`, the same in either order, or `all`."""
    return _field(lambda name, value: _pairs(name, value, valid))


def shares() -> Any:
    """A field that holds numbers of KV heads: an integer, a share such as `1/2`, or `full` for one per head."""
    return _field(lambda name, value: tuple(dict.fromkeys(_share(name, v) for v in _items(name, value))))


def proportions(parts: int) -> Any:
    """A field that holds proportions of so many parts, written `1-2-1`."""
    return _field(lambda name, value: tuple(dict.fromkeys(_proportion(name, v, parts) for v in _items(name, value))))


def fractions() -> Any:
    """A field that holds shares of the heads such as `3/4`, or `full`."""
    return _field(lambda name, value: tuple(dict.fromkeys(_word_of_share(name, v) for v in _items(name, value))))


def switch() -> Any:
    """A field that is true or false."""
    return _field(_switch)


def check_keys(what: str, given: Mapping[str, object], valid: Sequence[str]) -> None:
    """Raise ArchitectureError unless the given names are exactly the valid ones."""
    for name in given:
        if name not in valid:
            raise ArchitectureError(f"{what} has no field {name!r}. {did_you_mean(name, valid)}")
    missing = [name for name in valid if name not in given]
    if missing:
        raise ArchitectureError(f"{what} needs a value for {', '.join(missing)}, but got none.")


def kv_heads(share: str | int, num_heads: int) -> Fraction:
    """KV heads that a choice asks for among `num_heads`; a fraction where the heads cannot be shared out that way."""
    return Fraction(share) if isinstance(share, int) else _fraction(share) * num_heads


def _field(parse: Callable[[str, object], object]) -> Any:
    return field(metadata={"parse": parse})


def _items(name: str, value: object) -> list[object]:
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not items:
        raise ArchitectureError(f"{name} needs at least one value, but got an empty list.")
    return items


def _integer(name: str, value: object, minimum: int) -> int:
    # 6e5 on a command line arrives as a float and means a whole number.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise ArchitectureError(f"{name} must be a whole number of at least {minimum}, but got {value!r}.")
    number = int(value)  # type: ignore[arg-type]
    if number < minimum:
        raise ArchitectureError(f"{name} must be at least {minimum}, but got {number}.")
    return number


def _word(name: str, value: object, valid: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in valid:
        raise ArchitectureError(f"{name} does not know {value!r}. {did_you_mean(value, valid)}")
    return value


def _letters(name: str, value: object) -> list[object]:
    return _items(name, list(value) if isinstance(value, str) else value)


def _pairs(name: str, value: object, valid: Sequence[str]) -> tuple[str, ...]:
    found: dict[frozenset[str], str] = {}
    for item in _items(name, value):
        if item == "all":
            return ("all",)
        kinds = str(item).split("+")
        if len(kinds) != 2 or kinds[0] == kinds[1]:
            raise ArchitectureError(f"{name} holds pairs of two different mixers such as x+y, but got {item!r}.")
        found.setdefault(frozenset(_word(name, kind, valid) for kind in kinds), str(item))
    return tuple(found.values())


def _word_of_share(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ArchitectureError(f"{name} must be a share such as 1/2, or full, but got {value!r}.")
    _fraction(value, name)
    return value


def _share(name: str, value: object) -> str | int:
    if isinstance(value, str):
        _fraction(value, name, "number of KV heads, a ")
        return value
    return _integer(name, value, 1)


def _fraction(share: str, name: str = "share", numbers: str = "") -> Fraction:
    numerator, _, denominator = ("1", "/", "1") if share == "full" else share.partition("/")
    if not (numerator.isdecimal() and denominator.isdecimal() and 0 < int(numerator) <= int(denominator)):
        raise ArchitectureError(f"{name} must be a {numbers}share such as 1/2, or full, but got {share!r}.")
    return Fraction(int(numerator), int(denominator))


def _proportion(name: str, value: object, parts: int) -> str:
    numbers = value.split("-") if isinstance(value, str) else []
    if len(numbers) != parts or not all(number.isdecimal() and int(number) for number in numbers):
        raise ArchitectureError(f"{name} must be {parts} numbers of at least 1 such as 1-2-1, but got {value!r}.")
    return str(value)


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ArchitectureError(f"{name} must be true or false, but got {value!r}.")
    return value
