"""A hash of what the compiled code of a kernel follows from: its source, what it calls, the constants that it reads.

Triton has such a hash, but the line where a function begins is part of it, and comments are.
"""

import ast
import hashlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType
from typing import Any


@cache
def source_hash(kernel: Any) -> str:
    """Of a Triton kernel with everything that it reaches outside Triton.

    Comments, docstrings, blank lines and where a function stands do not count, and no version of Python changes it.
    Whoever keeps a hash has to keep the version of Triton beside it.
    """
    return _hash_of(kernel.fn, {})


def _hash_of(function: FunctionType, known: dict[FunctionType, str]) -> str:
    if function not in known:
        known[function] = "itself"  # where it calls itself
        text = textwrap.dedent(inspect.getsource(function))
        definition = ast.parse(text).body[0]
        assert isinstance(definition, ast.FunctionDef)
        read = {name: described for name, value in _values(function, definition)
                if (described := _described(value, known)) is not None}  # fmt: skip
        content = "\n".join([_bare(text, definition), *(f"{name} is {read[name]}" for name in sorted(read))])
        known[function] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return known[function]


def _bare(text: str, definition: ast.FunctionDef) -> str:
    """The lines that are no comment, docstring or blank. Not parsed and written anew, which versions of Python do
    differently."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    if ast.get_docstring(definition) is not None:
        docstring = definition.body[0]
        lines[docstring.lineno - 1 : docstring.end_lineno] = []
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _values(function: FunctionType, definition: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    """What a function reads from outside by its name there, `helper` or `module.helper`; decorators read, too."""
    scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    own = {node.arg for node in ast.walk(definition) if isinstance(node, ast.arg)}
    own |= {node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}

    def value_of(node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            return None if node.id in own else scope.get(node.id)
        if isinstance(node, ast.Attribute):
            base = value_of(node.value)
            if isinstance(base, ModuleType | type) and not _is_tritons(base.__name__):
                return getattr(base, node.attr, None)
        return None

    for node in ast.walk(definition):
        if (value := value_of(node)) is not None:
            yield ast.unparse(node), value


def _described(value: Any, known: dict[FunctionType, str]) -> str | None:
    """A function of ours as its hash, a constant as it is written, nothing of a module, a class or what is Triton's."""
    function = getattr(value, "fn", value)
    if isinstance(function, FunctionType):
        return None if _is_tritons(function.__module__) else _hash_of(function, known)
    return None if isinstance(value, ModuleType | type) else repr(value)


def _is_tritons(module: str) -> bool:
    return module.partition(".")[0] == "triton"
