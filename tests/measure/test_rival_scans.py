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


def pretend_fla(module, name):
    """A function with fla's conventions and our arithmetic: the real ones need a GPU."""
    if module == "rwkv4":
        assert name == "fused_recurrent_rwkv4"
        return pretend_rwkv4
    assert module == "hgrn" and name in ("chunk_hgrn", "fused_recurrent_hgrn")

    def call(x, g, *, initial_state, output_final_state):
        options = {"initial_state": initial_state, "return_state": True}
        with kernels.use_substitutes({"vector_recurrence": lambda *_, **__: NotImplemented}):
            h, state = kernels.vector_recurrence(x, g, **options)
        return h, state if output_final_state else None

    return call


def pretend_rwkv4(w, u, k, v, state):
    """fla's fused_recurrent_rwkv4: it negates exp(w), states are [B, 3, 1, C], and what comes out has the type of k."""
    a, b, m = state.squeeze(2).float().unbind(1)
    decay, outputs = -torch.exp(w.float()), []
    for t in range(k.shape[1]):
        key, value = k[:, t].float(), v[:, t].float()
        shift = torch.maximum(u + key, m)
        past, own = torch.exp(m - shift), torch.exp(u + key - shift)
        outputs.append((past * a + own * value) / (past * b + own))
        shift = torch.maximum(decay + m, key)
        past, own = torch.exp(decay + m - shift), torch.exp(key - shift)
        a, b, m = past * a + own * value, past * b + own, shift
    return torch.stack(outputs, dim=1).to(k.dtype), torch.stack((a, b, m), dim=1).unsqueeze(2).to(k.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", [name for name, _, _, library in rival_scans.ADAPTERS if library == "fla"])
def test_adapters_of_fla_hand_over_what_was_asked(name, dtype, monkeypatch):
    (rival,) = (one for one in RIVALS if one.name == name)
    monkeypatch.setattr(rival_scans, "fla_function", pretend_fla)
    monkeypatch.setattr(rivals, "RIVALS", (Rival(rival.name, rival.function, rival.call, ("cpu",)),))
    assert refused_rivals(CPU, dtype) == {}


def pretend_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """mamba_ssm's selective_scan_fn as it is documented: u, delta, z [B, D, L], A [D, N], B and C [B, N, L]."""
    assert delta_bias is None and not delta_softplus
    h, outputs = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = torch.exp(step * A) * h + step * u[:, :, t, None] * B[:, None, :, t]
        outputs.append((h * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, dim=2)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * torch.nn.functional.silu(z)
    return (y, h) if return_last_state else y


def pretend_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """mamba_ssm's selective_state_update as it is documented: the state [B, D, N] is written in place."""
    assert dt_bias is None and not dt_softplus
    state.copy_(torch.exp(dt[..., None] * A) * state + (dt * x)[..., None] * B[:, None])
    y = (state * C[:, None]).sum(-1)
    y = y if D is None else y + D * x
    return y if z is None else y * torch.nn.functional.silu(z)


@pytest.mark.parametrize("name", [name for name, _, _, library in rival_scans.ADAPTERS if library == "mamba_ssm"])
def test_adapters_of_mamba_hand_over_what_was_asked(name, monkeypatch):
    given = {
        ("selective_scan_interface", "selective_scan_fn"): pretend_scan,
        ("triton.selective_state_update", "selective_state_update"): pretend_update,
    }
    (rival,) = (one for one in RIVALS if one.name == name)
    monkeypatch.setattr(rival_scans, "mamba_function", lambda module, function: given[module, function])
    monkeypatch.setattr(rivals, "RIVALS", (Rival(rival.name, rival.function, rival.call, ("cpu",)),))
    assert refused_rivals(CPU, torch.float32) == {}


def test_a_step_of_mamba_leaves_the_state_as_it_was(monkeypatch):
    monkeypatch.setattr(rival_scans, "mamba_function", lambda *_: pretend_update)
    state = torch.ones(1, 2, 3)
    u, A, B = torch.ones(1, 2), -torch.ones(2, 3), torch.ones(1, 3)
    _, new = rival_scans.mamba_step(u, u, A, B, B, state, D=None, z=None)
    assert bool((state == 1).all()) and not bool((new == 1).all())


def test_groups_of_channels_and_a_first_state_are_declined_by_mamba():
    u, A, B = torch.zeros(1, 2, 4), torch.zeros(4, 3), torch.zeros(1, 2, 3)
    grouped, options = torch.zeros(1, 2, 2, 3), {"D": None, "z": None}
    scan = {**options, "return_state": False}
    assert rival_scans.mamba_scan(u, u, A, B, B, initial_state=torch.zeros(1, 4, 3), **scan) is NotImplemented
    assert rival_scans.mamba_scan(u, u, A, grouped, grouped, initial_state=None, **scan) is NotImplemented
    one = (u[:, 0], u[:, 0], A, grouped[:, 0], grouped[:, 0], torch.zeros(1, 4, 3))
    assert rival_scans.mamba_step(*one, **options) is NotImplemented


def test_a_scan_against_time_is_declined():
    x = torch.zeros(1, 2, 3)
    options = {"initial_state": None, "return_state": False, "reverse": True}
    assert rival_scans.hgrn(x, x, **options, name="chunk_hgrn") is NotImplemented


def test_what_fla_is_asked_for_exists():
    spec = importlib.util.find_spec("fla")  # not imported: fla breaks where there is no GPU
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("fla is not installed")
    folder = Path(spec.submodule_search_locations[0], "ops")
    assert "def chunk_hgrn(" in (folder / "hgrn" / "chunk.py").read_text()
    assert "def fused_recurrent_hgrn(" in (folder / "hgrn" / "fused_recurrent.py").read_text()
    takes = "def fused_recurrent_rwkv4(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor)"
    assert takes in (folder / "rwkv4" / "fused_recurrent.py").read_text()
