"""The one error of this room, and the sentence that offers the nearest valid name."""

from collections.abc import Iterable
from difflib import get_close_matches


class ArchitectureError(ValueError):
    """An architecture, or a file that describes one, breaks a rule. The message is one sentence for a user."""


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """`Did you mean 'x'? Valid: a, b, x.` for a name that is not valid; only the list when nothing is near."""
    names = sorted(valid)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Valid: {', '.join(names)}."
