"""The naive functions of flash-linear-attention, without importing the package: that compiles its kernels, which takes
long and does not go together with the interpreter. Each file is plain PyTorch and stands alone."""

import importlib.util
from pathlib import Path
from types import ModuleType


def naive(operation: str, file: str = "naive") -> ModuleType:
    """fla.ops.OPERATION.FILE; fails where fla is not installed, as an oracle that cannot run tells nothing."""
    package = importlib.util.find_spec("fla")
    assert package is not None and package.submodule_search_locations, "the tests need flash-linear-attention"
    path = Path(next(iter(package.submodule_search_locations))) / "ops" / operation / f"{file}.py"
    found = importlib.util.spec_from_file_location(f"fla_{operation}_{file}", path)
    assert found is not None and found.loader is not None, path
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
