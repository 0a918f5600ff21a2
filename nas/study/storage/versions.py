"""Versions of a study: a space that has grown goes on with all that is known, a space that has changed does not.

Optuna fixes the choices of a name for the life of a study, so a wider space is another study of the same storage, named
`<study>@2`, to which the rows of the earlier one are brought over (nas.study.beginning.bring_over).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

SPACE = "search_space"
MARK = "@"


def version_name(name: str, version: int) -> str:
    """The first version bears the study's own name."""
    return name if version == 1 else f"{name}{MARK}{version}"


def latest_version(name: str, known: Iterable[str]) -> int:
    """The highest version of a study among the names of a storage; 0 where there is none."""
    found = [int(other.removeprefix(f"{name}{MARK}")) for other in known if is_later(name, other)]
    return max([*found, 1 if name in known else 0])


def is_later(name: str, other: str) -> bool:
    return other.startswith(f"{name}{MARK}") and other.removeprefix(f"{name}{MARK}").isdigit()


def is_widened(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether one definition differs from another in nothing but more choices of its search space."""
    new = json.loads(json.dumps(new))
    rest = {key for key in (*old, *new) if key != SPACE}
    before, after = old.get(SPACE, {}), new.get(SPACE, {})
    if before == after or any(old.get(key) != new.get(key) for key in rest):
        return False
    return before.keys() == after.keys() and all(
        choices(key, before[key]) <= choices(key, after[key]) for key in before
    )


def choices(field: str, value: Any) -> set[str]:
    """What a field of a space allows: the letters of an alphabet, the items of a list, or one value."""
    if field == "alphabet":
        return set(value)
    return {json.dumps(item) for item in (value if isinstance(value, list) else [value])}
