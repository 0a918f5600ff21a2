"""The order of imports, held by walking the syntax trees: a room imports only rooms before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "nas.architecture": set(),
    "nas.measurement": set(),
    "nas.context": set(),
    "search_spaces": {"nas.architecture"},
    "nas.workload": {"nas.architecture"},
    "nas.devices": {"nas.architecture"},
    "nas.deployment": {"nas.architecture", "nas.devices", "nas.workload"},
    "nas.layers": {"kernels", "nas.architecture", "nas.context"},
    "nas.mixers": {"kernels", "nas.architecture", "nas.context", "nas.layers"},
    "nas.ffns": {"kernels", "nas.architecture", "nas.context", "nas.layers"},
    "nas.residual": {"nas.architecture", "nas.context", "nas.layers", "nas.mixers", "nas.ffns"},
    "nas.denoising": {"nas.workload"},
    "nas.model": {"nas.context", "nas.denoising", "nas.layers", "nas.mixers", "nas.ffns", "nas.residual"},
    "nas.compile": {"nas.architecture", "nas.layers", "nas.model", "nas.mixers", "nas.ffns", "nas.residual"},
    "nas.parts": {"nas.architecture", "nas.compile", "nas.ffns", "nas.mixers"},
    "nas.count": {"nas.architecture", "nas.deployment", "nas.parts", "nas.workload"},
    "nas.interop": {"nas.architecture", "nas.compile", "nas.model"},
    "nas.checkpoint": set(),
    "nas.losses": {"kernels"},
    "nas.tasks": {"nas.architecture"},
    "nas.training": {"nas.architecture", "nas.context", "nas.losses", "nas.model", "nas.tasks"},
    "nas.measure": {
        "kernels",
        "nas.architecture",
        "nas.workload",
        "nas.devices",
        "nas.deployment",
        "nas.measurement",
        "nas.context",
        "nas.losses",
        "nas.mixers",
        "nas.ffns",
        "nas.model",
        "nas.compile",
        "nas.parts",
        "nas.count",
    },
    "nas.objectives": {"nas.architecture", "nas.measurement", "nas.tasks"},
    "nas.study": {
        "nas.architecture",
        "nas.deployment",
        "nas.measurement",
        "nas.checkpoint",
        "nas.compile",
        "nas.count",
        "nas.measure",
        "nas.objectives",
        "nas.tasks",
        "nas.training",
    },
    "nas.report": {"nas.architecture", "nas.measurement", "nas.objectives", "nas.study"},
}

OWNERS: dict[str, set[str]] = {
    "optuna": {"nas.study"},
    "lightning": {"nas.training"},
    "hydra": {"search", "scripts"},
    "omegaconf": {"search", "scripts"},
    "wandb": {"nas.report"},
    "matplotlib": {"nas.report"},
    "plotly": {"nas.report"},
    "rich": {"nas.report"},
    "datasets": {"nas.tasks"},
    "tokenizers": {"nas.tasks"},
    "triton": {"kernels"},
    "safetensors": {"nas.checkpoint", "nas.interop"},
    "transformers": {"scripts"},  # what benchmark_recurrences compares with
    "fla": {"nas.measure"},
}

WITHOUT_TORCH = (
    *("nas.architecture", "nas.measurement", "nas.workload", "nas.devices", "nas.deployment", "nas.objectives"),
    *("nas.report", "search_spaces"),
)


def room_of(module: str) -> str:
    """`nas.mixers.attention` lies in the room `nas.mixers`; `kernels._attention` in `kernels`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "nas" else parts[0]


def sources() -> list[Path]:
    folders = ("nas", "kernels", "search_spaces", "scripts")
    return [ROOT / "search.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            names.add(node.module or "")
            if node.module == "nas":
                names.update(f"nas.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_room_imports_only_rooms_before_it(path):
    room = room_of(module_name(path))
    own = {room_of(name) for name in imported(path) if name.split(".")[0] in ("nas", "kernels", "search_spaces")}
    if room in ("search", "scripts", "nas"):
        return
    assert room in ALLOWED, f"{room} is a new room: say in this test what it may import"
    assert own - {room, "nas"} <= ALLOWED[room]


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_library_is_known_only_to_its_room(path):
    room = room_of(module_name(path))
    for name in imported(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or room in owners, f"{room} may not import {name}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_plain_data_knows_no_torch(path):
    if room_of(module_name(path)) in WITHOUT_TORCH:
        assert not {name for name in imported(path) if name.split(".")[0] == "torch"}


def test_the_allowed_imports_have_no_cycle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {room for room, needs in ALLOWED.items() if needs <= done} - done
        assert ready, f"a cycle among {sorted(set(ALLOWED) - done)}"
        done |= ready
    assert done == set(ALLOWED)


def test_nobody_outside_imports_the_inside_of_a_kernel():
    for path in sources():
        if room_of(module_name(path)) not in ("kernels", "scripts"):
            inner = {name for name in imported(path) if name.startswith("kernels._")}
            assert not inner, f"{path} imports {inner}; use the door, `kernels`"
