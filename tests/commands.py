"""Commands of scripts/ in the process of the test: without seconds of imports for each call."""

import sys
from types import ModuleType

import pytest
import torch


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command; the number of threads is what it was before."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    threads = torch.get_num_threads()
    try:
        module.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        torch.set_num_threads(threads)
    return 0
