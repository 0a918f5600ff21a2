"""Adapters of the fused neighbours of a mixer: what they hand over is what the other library was told to expect."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

import kernels
from nas.measure import rival_fused, rivals
from nas.measure.rivals import RIVALS, Rival, refused_rivals

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_verdicts():
    rivals._verdicts.cache_clear()
    yield
    rivals._verdicts.cache_clear()


def causal_conv1d(x, weight, bias, *, activation):
    assert x.is_contiguous() and weight.dtype == x.dtype
    with kernels.use_substitutes({"short_convolution": lambda *_, **__: NotImplemented}):
        return kernels.short_convolution(x, weight, bias=bias, activation=activation), None


def rms_norm(x, weight, bias, *, residual, eps, prenorm):
    assert bias is None and weight.dtype == x.dtype and prenorm == (residual is not None)
    with kernels.use_substitutes({"rms_norm": lambda *_, **__: NotImplemented}):
        return kernels.rms_norm(x, weight, residual=residual, eps=eps)


def rms_norm_gated(x, g, weight, bias, activation, *, eps):
    assert bias is None and activation in ("silu", "sigmoid")
    with kernels.use_substitutes({"rms_norm": lambda *_, **__: NotImplemented}):
        return kernels.rms_norm(x, weight, gate=g, gate_activation=activation, eps=eps)


def l2norm(x, eps):
    with kernels.use_substitutes({"l2_norm": lambda *_, **__: NotImplemented}):
        return kernels.l2_norm(x, eps=eps)


def swiglu(x, y):
    with kernels.use_substitutes({"glu": lambda *_, **__: NotImplemented}):
        return kernels.glu(x, y)


def rotary_embedding(x, cos, sin, *, interleaved):
    with kernels.use_substitutes({"rope": lambda *_, **__: NotImplemented}):
        return kernels.rope(x, cos, sin, interleaved=interleaved)


def fused_linear_cross_entropy_loss(x, target, weight, *, ignore_index, logit_softcapping, reduction):
    options = {"ignore_index": ignore_index, "soft_cap": logit_softcapping, "reduction": reduction}
    with kernels.use_substitutes({"linear_cross_entropy": lambda *_, **__: NotImplemented}):
        return kernels.linear_cross_entropy(x, weight, target, **options)


PRETENDED = {
    ("fused_linear_cross_entropy.ops", "fused_linear_cross_entropy_loss"): fused_linear_cross_entropy_loss,
    ("rotary.ops", "rotary_embedding"): rotary_embedding,
    ("activations.ops", "swiglu"): swiglu,
    ("causal_conv1d.ops", "causal_conv1d"): causal_conv1d,
    ("norm.layernorm", "rms_norm"): rms_norm,
    ("norm.fused_norm_gate", "rms_norm_gated"): rms_norm_gated,
    ("norm.l2norm", "l2norm"): l2norm,
}
"""fla's functions by module and name, with its conventions and our arithmetic: the real ones need a GPU."""


@pytest.mark.parametrize(
    "rival", [one for one in RIVALS if one.library == "fla" and not one.in_networks], ids=lambda one: one.name
)
def test_adapters_of_fla_hand_over_what_was_asked(rival, monkeypatch):
    monkeypatch.setattr(rival_fused, "fla_module", lambda module, name: PRETENDED[module, name])
    monkeypatch.setattr(rivals, "RIVALS", (Rival(rival.name, rival.function, rival.call, ("cpu",)),))
    assert refused_rivals(CPU, torch.float32) == {}


@pytest.mark.parametrize(("module", "name"), PRETENDED)
def test_what_fla_is_asked_for_exists(module, name):
    spec = importlib.util.find_spec("fla")  # not imported: fla breaks where there is no GPU
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("fla is not installed")
    source = Path(spec.submodule_search_locations[0], "modules", *module.split(".")).with_suffix(".py")
    assert re.search(rf"^(def {name}\(|{name} = )", source.read_text(), re.MULTILINE)
