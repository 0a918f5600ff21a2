"""What a CUDA graph of a decode step asks of mixers and FFNs: positions read on the device, and nothing read back."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.architecture import FfnOptions, MixerOptions
from nas.compile import build_mixer
from nas.context import Context
from nas.measure.graph import capture
from nas.mixers.base import Mixer
from tests.contract import test_ffns
from tests.contract.test_mixers import BATCH, CASES, D_MODEL, TOKENS, mixer_of
from tests.host_code import host_code_alone

ROOM = TOKENS + 6
Call = Callable[[], object]
every_mixer = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


class NothingFromElsewhere(TorchDispatchMode):
    """Refuses every operation on a tensor that does not lie on the meta device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, found)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta, f"{func} with a tensor on {tensor.device}"
        return found


def decoded(mixer: Mixer, x: Tensor, record: Callable[[Call], Call]) -> Tensor:
    """x [B, T, d] token by token, by replays of one step that was recorded at the first position."""
    clock, given, out = torch.zeros((), dtype=torch.int64, device=x.device), x[:, 0].clone(), torch.empty_like(x[:, 0])
    state = mixer.init_state(x.shape[0], ROOM, x.dtype, x.device)
    empty = {name: tensor.clone() for name, tensor in state.items()}

    def step() -> None:
        y, new = mixer.step(given, state, Context(position=0, clock=clock))
        out.copy_(y)
        for name, tensor in new.items():
            state[name].copy_(tensor)

    replay, outputs = record(step), []
    for name, tensor in empty.items():  # recording may have run it
        state[name].copy_(tensor)
    for position in range(x.shape[1]):
        given.copy_(x[:, position])
        clock.fill_(position)
        replay()
        outputs.append(out.clone())
    return torch.stack(outputs, 1)


@torch.no_grad()
@every_mixer
def test_a_step_takes_its_position_from_the_clock_alone(options: MixerOptions):
    mixer, x = mixer_of(options), torch.randn(BATCH, TOKENS, D_MODEL, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(decoded(mixer, x, lambda step: step), mixer(x)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@every_mixer
def test_a_step_reads_nothing_back_and_brings_nothing_along(options: MixerOptions):
    """The meta device has no numbers that could be read, and a graph records no copy from the host."""
    with torch.device("meta"):
        mixer = build_mixer(options, D_MODEL)
    assert mixer is not None
    x = torch.empty(BATCH, D_MODEL, device="meta")
    state = mixer.init_state(BATCH, ROOM, torch.float32, x.device)
    with NothingFromElsewhere():
        y, new = mixer.step(x, state, Context(position=9))
    assert y.shape == x.shape
    assert {name: t.shape for name, t in new.items()} == {name: t.shape for name, t in state.items()}


@torch.no_grad()
@every_mixer
def test_a_step_by_the_kernels_of_a_gpu_reads_nothing_back(options: MixerOptions, monkeypatch: pytest.MonkeyPatch):
    mixer, x = mixer_of(options), torch.randn(BATCH, D_MODEL)
    state = mixer.init_state(BATCH, ROOM, torch.float32, x.device)
    with host_code_alone(monkeypatch) as launched:
        y, _ = mixer.step(x, state, Context(position=9))
    assert y.shape == x.shape
    assert launched


@torch.no_grad()
@pytest.mark.parametrize("options", test_ffns.CASES.values(), ids=test_ffns.CASES)
def test_an_ffn_reads_nothing_back_either(options: FfnOptions, monkeypatch: pytest.MonkeyPatch):
    ffn, x = test_ffns.ffn_of(options).eval(), torch.randn(BATCH, test_ffns.D_MODEL)
    state = (ffn.init_state(BATCH, x.dtype, x.device),) if ffn.remembers else ()
    with host_code_alone(monkeypatch):
        y = ffn(x, Context(position=9, tokens=torch.arange(BATCH)), *state)
    assert y.shape == x.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
@every_mixer
def test_a_graph_of_one_step_decodes_every_position(options: MixerOptions):
    device = torch.device("cuda")
    mixer = mixer_of(options).to(device)
    x = torch.randn(BATCH, TOKENS, D_MODEL, generator=torch.Generator().manual_seed(1)).to(device)
    replayed = decoded(mixer, x, lambda step: capture(step, device))
    torch.testing.assert_close(replayed, mixer(x)[0], rtol=1e-3, atol=1e-4)
