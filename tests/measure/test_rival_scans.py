"""Adapters of the scans: what they hand over is what the other library was told to expect."""

import importlib.util
from pathlib import Path

import pytest
import torch

import kernels
from nas.measure import rival_scans, rivals
from nas.measure.rivals import RIVALS, Rival, refused_rivals

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_verdicts():
    rivals._verdicts.cache_clear()
    yield
    rivals._verdicts.cache_clear()


def pretend_hgrn(name):
    """A function with fla's conventions and our arithmetic: the real ones need a GPU."""
    assert name in ("chunk_hgrn", "fused_recurrent_hgrn")

    def call(x, g, *, initial_state, output_final_state):
        options = {"initial_state": initial_state, "return_state": True}
        with kernels.use_substitutes({"vector_recurrence": lambda *_, **__: NotImplemented}):
            h, state = kernels.vector_recurrence(x, g, **options)
        return h, state if output_final_state else None

    return call


@pytest.mark.parametrize("name", [name for name, _, _, library in rival_scans.ADAPTERS if library == "fla"])
def test_adapters_of_fla_hand_over_what_was_asked(name, monkeypatch):
    (rival,) = (one for one in RIVALS if one.name == name)
    monkeypatch.setattr(rival_scans, "fla_hgrn", pretend_hgrn)
    monkeypatch.setattr(rivals, "RIVALS", (Rival(rival.name, rival.function, rival.call, ("cpu",)),))
    assert refused_rivals(CPU, torch.float32) == {}


def test_a_scan_against_time_is_declined():
    x = torch.zeros(1, 2, 3)
    options = {"initial_state": None, "return_state": False, "reverse": True}
    assert rival_scans.hgrn(x, x, **options, name="chunk_hgrn") is NotImplemented


def test_what_fla_is_asked_for_exists():
    spec = importlib.util.find_spec("fla")  # not imported: fla breaks where there is no GPU
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("fla is not installed")
    folder = Path(spec.submodule_search_locations[0], "ops", "hgrn")
    assert "def chunk_hgrn(" in (folder / "chunk.py").read_text()
    assert "def fused_recurrent_hgrn(" in (folder / "fused_recurrent.py").read_text()
