"""Which code a part's cost comes from, as a hash for each operation: a block is stale when one of its own changed.

Hashed is the syntax tree without docstrings, so that a comment or a sentence invalidates nothing.
"""

import ast
import hashlib
from functools import cache, lru_cache
from pathlib import Path

from torch import nn

from kernels import fingerprint
from nas.architecture.architecture import Loss
from nas.measure.stacks import bare_ends, bare_stack
from nas.measure.table_parts import Ends, Part

ROOT = Path(__file__).resolve().parents[2]
HASH_LENGTH = 12
ROOMS = ("nas.mixers.", "nas.ffns.", "nas.layers.")
MODEL = ("nas.model", "nas.residual")
LOSSES: dict[Loss, frozenset[str]] = {
    "causal": frozenset({"nas.losses.causal"}),
    "masked_diffusion": frozenset({"nas.losses.causal", "nas.losses.masked_diffusion"}),
}
"""What a training step runs after the last norm."""
NEVER_TIMED = ("generate", "parameter_families")
"""Methods of a model."""


@lru_cache(maxsize=4096)
def operations_of_part(part: Part, d_model: int, device: str) -> dict[str, str]:
    """Operation -> hash for one block of a table, by the code at hand."""
    if isinstance(part, Ends):
        own = operations_of(bare_ends(part, d_model), device) | operations_of_files(LOSSES[part.loss], device)
        return own | {"ends": hash_of_class("Model")}
    return operations_of(bare_stack(part, d_model).blocks[-1], device) | {"residual": hash_of_class("ResidualBlock")}


def operations_of(module: nn.Module, device: str) -> dict[str, str]:
    """Operation -> hash for everything that a module runs: the files of its layers, and the kernels that these import.

    device: `cpu` or the name of a GPU; of a kernel only what runs there counts, its tuned launches included.
    """
    names = {type(m).__module__ for m in module.modules()}
    return operations_of_files(frozenset(name for name in names if name.startswith(ROOMS)), device)


def operations_of_files(modules: frozenset[str], device: str) -> dict[str, str]:
    """Operation -> hash for these modules, the layers that they import, and the kernels of all of them."""
    files = closure(modules)
    kernels = with_borrowed(frozenset(kernel for name in files for kernel in kernels_of(name)), device)
    hashes = {name: hash_of_files((path_of(name),)) for name in files}
    return dict(sorted((hashes | {kernel: hash_of_kernel(kernel, device) for kernel in kernels}).items()))


@cache
def hash_of_class(name: str) -> str:
    """A class of the files of a model, with the functions of these that it uses, and without what is never timed."""
    nodes = [node for file in MODEL for node in without_docstrings(ast.parse(path_of(file).read_text())).body]
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    found = next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)
    found.body = [node for node in found.body if getattr(node, "name", None) not in NEVER_TIMED]
    parts, waiting = {name: dumped(found)}, list[ast.AST]([found])
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Name) and node.id in functions and node.id not in parts:
                parts[node.id] = dumped(functions[node.id])
                waiting.append(functions[node.id])
    return hashlib.sha256("".join(parts[key] for key in sorted(parts)).encode()).hexdigest()[:HASH_LENGTH]


@cache
def closure(names: frozenset[str]) -> frozenset[str]:
    """The modules of the layers' rooms that are reached by imports from these."""
    found, open_ends = set(names), list(names)
    while open_ends:
        for name in imports_of(open_ends.pop()):
            if name.startswith(ROOMS) and name not in found:
                found.add(name)
                open_ends.append(name)
    return frozenset(found)


def kernels_of(module: str) -> frozenset[str]:
    """The kernels, such as `attention`, whose public functions a module imports."""
    return frozenset(name.removeprefix("kernels.") for name in imports_of(module) if name.startswith("kernels."))


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules that a module imports; a function of the kernels' door counts as `kernels.<operation>`."""
    names = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "kernels":
            names |= {f"kernels.{door()[alias.name]}" for alias in node.names if alias.name in door()}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(names)


@cache
def door() -> dict[str, str]:
    """Public function -> kernel, from the door's imports: `attention_step` -> `attention`."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "kernels" / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kernels._"):
            found |= {alias.name: (node.module or "").removeprefix("kernels._") for alias in node.names}
    return found


@cache
def with_borrowed(kernels: frozenset[str], device: str) -> frozenset[str]:
    """These kernels and those whose code they use on the device, as mixtures of experts use grouped products."""
    found, waiting = set(kernels), list(kernels)
    while waiting:
        for path in files_of_kernel(waiting.pop(), device):
            for name in imports_of(f"kernels.{path.parent.name}.{path.stem}"):
                other = name.split(".")[1].removeprefix("_") if name.startswith("kernels._") else ""
                if other and other not in found:
                    found.add(other)
                    waiting.append(other)
    return frozenset(found)


def files_of_kernel(kernel: str, device: str) -> tuple[Path, ...]:
    """The kernel's files but for its definition and for what runs on the other kind of device."""
    elsewhere = ("gpu", "launch", "plan") if device == "cpu" else ("portable",)
    paths = sorted((ROOT / "kernels" / f"_{kernel}").glob("*.py"))
    return tuple(path for path in paths if not path.stem.startswith(("reference", "cases", *elsewhere)))


@cache
def hash_of_kernel(kernel: str, device: str) -> str:
    """Of what runs on the device, its tuned launches included."""
    code = hash_of_files(files_of_kernel(kernel, device))
    return code if device == "cpu" else f"{code}-{fingerprint(kernel, device)}"


@cache
def hash_of_files(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(dumped(without_docstrings(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()[:HASH_LENGTH]


def dumped(node: object) -> str:
    """A tree as text that is the same under every Python: `ast.dump` shows empty fields under some versions only."""
    if isinstance(node, ast.AST):
        given = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(f'{name}={dumped(value)}' for name, value in given)})"
    return f"[{', '.join(map(dumped, node))}]" if isinstance(node, list) else repr(node)


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree with every bare string that is a statement taken out."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]  # type: ignore[attr-defined]
    return tree


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
