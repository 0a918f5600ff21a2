"""Adapters of attention: what they hand over is what the other library was told to expect."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

import kernels
from nas.measure import rival_attention, rivals
from nas.measure.rival_cases import decline
from nas.measure.rivals import Rival, refused_rivals

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_verdicts():
    rivals._verdicts.cache_clear()
    yield
    rivals._verdicts.cache_clear()


def parallel_attn(q, k, v, g, scale, window_size, *, sink_bias):
    assert q.shape[1] == k.shape[1]
    with kernels.use_substitutes({"attention": decline}):
        return kernels.attention(q, k, v, scale=scale, window=window_size, log_forget=g, sink=sink_bias)


def parallel_nsa(q, k, v, *, block_indices, block_counts, block_size, scale):
    group = q.shape[2] // k.shape[2]
    assert group >= 16 and block_indices.shape == (*k.shape[:3], block_counts)
    with kernels.use_substitutes({"block_sparse_attention": decline}):
        return kernels.block_sparse_attention(q, k, v, block_indices, block_size=block_size, scale=scale)


PRETENDED = {("attn", "parallel_attn"): parallel_attn, ("nsa", "parallel_nsa"): parallel_nsa}
"""fla's functions by module and name, with its conventions and our arithmetic: the real ones need a GPU."""


@pytest.mark.parametrize(
    "adapter", [one for one in rival_attention.ADAPTERS if one[3] == "fla"], ids=lambda adapter: adapter[0]
)
def test_adapters_of_fla_hand_over_what_was_asked(adapter, monkeypatch):
    monkeypatch.setattr(rival_attention, "fla_function", lambda module, name: PRETENDED[module, name])
    monkeypatch.setattr(rivals, "RIVALS", (Rival(adapter[0], adapter[1], adapter[2], ("cpu",)),))
    assert refused_rivals(CPU, torch.float32) == {}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "adapter", [one for one in rival_attention.ADAPTERS if one[3] == "torch"], ids=lambda adapter: adapter[0]
)
def test_flex_attention_uncompiled_gives_the_right_answers(adapter, monkeypatch):
    """On a CPU it computes no gradients."""
    monkeypatch.setattr(rival_attention, "compiled_flex", lambda: flex_attention)
    monkeypatch.setattr(rivals, "RIVALS", (Rival(adapter[0], adapter[1], adapter[2], ("cpu",)),))
    assert refused_rivals(CPU, torch.float32, gradients=False) == {}


@pytest.mark.parametrize(("module", "name"), PRETENDED)
def test_what_fla_is_asked_for_exists(module, name):
    spec = importlib.util.find_spec("fla")  # not imported: fla breaks where there is no GPU
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("fla is not installed")
    source = Path(spec.submodule_search_locations[0], "ops", module, "parallel.py").read_text()
    signature = re.search(rf"^def {name}\((.*?)\) ->", source, re.MULTILINE | re.DOTALL)
    assert signature is not None
    asked = {"parallel_attn": ("g", "scale", "window_size", "sink_bias"), "parallel_nsa": ("block_indices", "scale")}
    assert all(f"{argument}:" in signature[1] for argument in asked[name])
