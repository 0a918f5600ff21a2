"""Triton's interpreter, made ready once for a launch instead of once for each function that a kernel calls."""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import triton.language as tl
from triton.runtime import interpreter


class NothingToRestore:
    def restore(self) -> None:
        pass


def make_ready_once_a_launch() -> None:
    """Leave out what changes nothing, and takes most of the time of a small kernel.

    Before a launch the interpreter looks through `triton.language` and puts its own functions there, and after it takes
    them out. It looks again at each call of a function from a kernel, `tl.sum` and `tl.zeros` among them, and finds all
    in place. A Triton without these names keeps its own way.
    """
    if not (hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_get_np_dtype")):
        return
    make_ready = interpreter._patch_lang

    @cache
    def languages_of(function: Callable[..., object]) -> set[ModuleType]:
        return {tl} | {one for one in (tl, tl.core) if any(one is value for value in function.__globals__.values())}

    def make_ready_what_is_not(function: Callable[..., object]) -> object:
        # Printing is what the interpreter puts there last but for sums and scans.
        if all(getattr(one, "static_print", None) is print for one in languages_of(function)):
            return NothingToRestore()
        return make_ready(function)

    # A table of all types, made anew for each look into it.
    look_up = interpreter._get_np_dtype
    known = cache(look_up)

    interpreter._patch_lang = make_ready_what_is_not
    interpreter._get_np_dtype = lambda kind: look_up(kind) if kind.scalar.is_ptr() else known(kind.scalar)
