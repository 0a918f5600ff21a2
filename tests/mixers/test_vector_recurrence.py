"""The cells of the vector recurrence against what others wrote, and where nobody did, token by token."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.architecture import ArchitectureError, VectorRecurrence, preset
from nas.compile import build_mixer
from nas.context import Context
from nas.mixers.vector_recurrence import VectorRecurrenceMixer
from tests.alike import assert_near
from tests.fla_naive import naive

D_MODEL, BATCH, TOKENS = 32, 2, 37
H, SIZE = 2, 12


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)


def mixer_of(name: str, **options: object) -> VectorRecurrenceMixer:
    mixer = build_mixer(preset(name, **{"num_heads": H, "head_dim": SIZE} | options), D_MODEL)
    assert isinstance(mixer, VectorRecurrenceMixer)
    randomise(mixer)
    return mixer


def test_rg_lru_in_its_block_is_that_of_recurrent_gemma(x: Tensor):
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    config = RecurrentGemmaConfig(
        hidden_size=D_MODEL, lru_width=H * SIZE, num_attention_heads=H, conv1d_width=4, num_hidden_layers=1
    )
    theirs = RecurrentGemmaRecurrentBlock(config, 0).eval()
    randomise(theirs)
    ours, cell = mixer_of("rg_lru"), theirs.rg_lru
    weights = {
        "in_proj.weight": torch.cat((theirs.linear_x.weight, theirs.linear_y.weight)),
        "in_proj.bias": torch.cat((theirs.linear_x.bias, theirs.linear_y.bias)),
        "conv.filter": theirs.conv_1d.weight.squeeze(1),
        "conv.bias": theirs.conv_1d.bias,
        "cell.input_gate": cell.input_gate_weight,
        "cell.input_bias": cell.input_gate_bias,
        "cell.recurrent_gate": cell.recurrent_gate_weight,
        "cell.recurrent_bias": cell.recurrent_gate_bias,
        "cell.rate": cell.recurrent_param,
        "out_proj.weight": theirs.linear_out.weight,
        "out_proj.bias": theirs.linear_out.bias,
    }
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()}, strict=True)
    x = x.requires_grad_()
    positions = torch.arange(TOKENS).expand(BATCH, -1)
    outputs = [ours(x)[0], theirs(x, positions, None, use_cache=False)[0]]
    assert_near(*outputs)
    readout = torch.randn_like(x)
    assert_near(*(torch.autograd.grad((y * readout).sum(), x)[0] for y in outputs))
    with torch.no_grad():
        state = ours.init_state(BATCH, TOKENS, torch.float32, torch.device("cpu"))
        for position in range(TOKENS):
            y, state = ours.step(x[:, position], state, Context(position=position))
        assert_near(y, outputs[1][:, -1])


@torch.no_grad()
def test_hgrn_is_the_naive_function_between_its_projections(x: Tensor):
    mixer = mixer_of("hgrn", decay_floor=0.25)
    u, f, z = F.linear(x, mixer.in_proj.weight).chunk(3, -1)
    kept = 0.25 + 0.75 * (f + mixer.cell.bias).sigmoid()
    h, _ = naive("hgrn").naive_recurrent_hgrn((1 - kept) * F.silu(u), kept.log())
    normed = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.norm.weight
    assert_near(mixer(x)[0], mixer.out_proj(normed * F.silu(z)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_minimal_rnns_follow_their_equations_token_by_token(name: str, x: Tensor):
    mixer = mixer_of(name, conv_size=0)
    h, outputs = torch.zeros(BATCH, H * SIZE), []
    for given in F.linear(x, mixer.in_proj.weight).unbind(1):
        if name == "min_gru":
            u, k = given.chunk(2, -1)
            z = torch.sigmoid(k + mixer.cell.bias)
            h = (1 - z) * h + z * u
        else:
            u, f, i = given.chunk(3, -1)
            f, i = torch.sigmoid(f + mixer.cell.bias), torch.sigmoid(i)
            h = f / (f + i) * h + i / (f + i) * u
        outputs.append(h)
    assert_near(mixer(x)[0], mixer.out_proj(torch.stack(outputs, 1)))


def test_a_least_decay_belongs_to_hgrn_and_is_below_one():
    for bad in ({"cell": "min_gru", "decay_floor": 0.1}, {"cell": "hgrn", "decay_floor": 1.0}):
        with pytest.raises(ArchitectureError, match="decay_floor is below 1 and belongs to cell: hgrn, but got"):
            VectorRecurrence(num_heads=2, **bad)  # type: ignore[arg-type]
