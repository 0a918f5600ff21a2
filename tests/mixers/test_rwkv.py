"""The time mixing of RWKV against transformers (version 4), and between the naive recurrences of
flash-linear-attention with their projections written out here (versions 6 and 7)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture import Architecture, Attention, Block, Rwkv4, Rwkv6, Rwkv7, RwkvChannelMix
from nas.compile import build_ffn, build_mixer, compile_architecture
from nas.context import Context
from nas.count import count_state_bytes
from nas.mixers.base import Mixer
from tests.alike import assert_near, randomise
from tests.fla_naive import naive

D_MODEL, BATCH, TOKENS = 32, 2, 23
H, SIZE = 2, 12


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def random_mixer(options) -> Mixer:
    mixer = build_mixer(options, D_MODEL)
    assert mixer is not None
    randomise(mixer, fewest_rows=7)
    return mixer


def shifted(x: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)


def group_norm(mixer: Mixer, o: Tensor) -> Tensor:
    norm = mixer.readout
    flat = o.flatten(0, 1).flatten(1)
    return F.group_norm(flat, H, norm.weight, norm.bias, eps=norm.eps).unflatten(0, o.shape[:2])


def low_rank(layer: nn.Module, x: Tensor, activation=lambda x: x) -> Tensor:
    y = activation(x @ layer.down_proj.weight.T) @ layer.up_proj.weight.T
    return y if layer.bias is None else y + layer.bias


def test_rwkv_4_is_that_of_transformers(x: Tensor):
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

    config = RwkvConfig(hidden_size=D_MODEL, attention_hidden_size=H * SIZE, num_hidden_layers=1)
    theirs = RwkvSelfAttention(config).eval()
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter)
    randomise(theirs, fewest_rows=7)
    ours = random_mixer(Rwkv4(num_heads=H, head_dim=SIZE))
    mixes = (theirs.time_mix_key, theirs.time_mix_value, theirs.time_mix_receptance)
    weights = {
        "shares": torch.stack([1 - mix.flatten() for mix in mixes]),
        "k_proj.weight": theirs.key.weight,
        "v_proj.weight": theirs.value.weight,
        "r_proj.weight": theirs.receptance.weight,
        "decay": theirs.time_decay,
        "first": theirs.time_first,
        "out_proj.weight": theirs.output.weight,
    }
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()}, strict=True)
    x = x.requires_grad_()
    outputs = [ours(x)[0], theirs(x)[0]]
    assert_near(*outputs)
    readout = torch.randn_like(x)
    assert_near(*(torch.autograd.grad((y * readout).sum(), x)[0] for y in outputs))


def test_channel_mixing_is_that_of_transformers(x: Tensor):
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward

    config = RwkvConfig(hidden_size=D_MODEL, intermediate_size=40, num_hidden_layers=1)
    theirs = RwkvFeedForward(config).eval()
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter)
    randomise(theirs, fewest_rows=7)
    ours = build_ffn(RwkvChannelMix(d_ff=40, receptance=True), D_MODEL)
    assert ours is not None
    weights = {
        "shares": torch.stack([1 - mix.flatten() for mix in (theirs.time_mix_key, theirs.time_mix_receptance)]),
        "in_proj.weight": theirs.key.weight,
        "receptance.weight": theirs.receptance.weight,
        "out_proj.weight": theirs.value.weight,
    }
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()}, strict=True)
    assert_near(ours(x), theirs(x)[0])


@torch.no_grad()
def test_rwkv_6_is_the_naive_recurrence_between_its_projections(x: Tensor):
    m = random_mixer(Rwkv6(num_heads=H, head_dim=SIZE, mix_rank=4, decay_rank=8))
    step = shifted(x) - x
    low = torch.tanh((x + step * m.first_share) @ m.share_down.weight.T)
    mixed = []
    for i in range(5):
        offset = low[..., 4 * i : 4 * (i + 1)] @ m.share_up[i]
        mixed.append(x + step * (m.shares[i] + offset))
    r, w, k, v, g = mixed
    decay = -torch.exp(low_rank(m.decay, w, torch.tanh))
    heads = [(p @ layer.weight.T) for p, layer in ((r, m.r_proj), (k, m.k_proj), (v, m.v_proj))]
    given = [p.unflatten(-1, (H, SIZE)).transpose(1, 2) for p in (*heads, decay)]
    o, _ = naive("rwkv6", "recurrent_naive").naive_recurrent_rwkv6(*given, m.bonus, scale=1.0)
    expected = group_norm(m, o.transpose(1, 2)) * F.silu(g @ m.g_proj.weight.T)
    assert_near(m(x)[0], m.out_proj(expected))


def rwkv_7(m: Mixer, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """(output, values) by the naive recurrence, which scales its queries."""
    step = shifted(x) - x
    r, w, k, v, a, g = (x + step * share for share in m.shares)
    r, k = r @ m.r_proj.weight.T, k @ m.k_proj.weight.T
    values = v @ m.v_proj.weight.T
    if first is not None and m.value is not None:
        values = torch.lerp(values, first, low_rank(m.value, v).sigmoid())
    decay = -0.6065306597126334 * low_rank(m.decay, w, torch.tanh).sigmoid()
    rate = low_rank(m.rate, a).sigmoid()
    other = F.normalize((k * m.key_scale).unflatten(-1, (H, SIZE)), dim=-1).flatten(2)
    k = k * (1 + (rate - 1) * m.key_rate)
    by_head = [p.unflatten(-1, (H, SIZE)) for p in (r, k, values, -other, other * rate, decay)]
    given = [p.transpose(1, 2) for p in by_head]
    recurrence = naive("generalized_delta_rule/dplr").dplr_recurrence
    o, _ = recurrence(given[0] * SIZE**0.5, *given[1:])
    own = (by_head[0] * by_head[1] * m.own).sum(-1, keepdim=True) * by_head[2]
    gated = (group_norm(m, o.transpose(1, 2)) + own.flatten(2)) * low_rank(m.gate, g, torch.sigmoid)
    return m.out_proj(gated), values


@torch.no_grad()
def test_rwkv_7_is_the_naive_recurrence_between_its_projections_and_mixes_in_the_first_values(x: Tensor):
    ranks = {"decay_rank": 8, "rate_rank": 4, "gate_rank": 8}
    m = random_mixer(Rwkv7(num_heads=H, head_dim=SIZE, **ranks))
    later = random_mixer(Rwkv7(num_heads=H, head_dim=SIZE, **ranks, value_rank=4))
    context = Context()
    expected, values = rwkv_7(m, x, None)
    assert_near(m(x, None, context)[0], expected)
    other = x.flip(1)
    assert_near(later(other, None, context)[0], rwkv_7(later, other, values)[0])
    assert not torch.allclose(later(other)[0], rwkv_7(later, other, values)[0], rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_decoding_mixes_in_the_first_values_and_remembers_the_token_before_as_reading_does():
    first, later = (
        Block(
            mixer=Rwkv7(num_heads=2, head_dim=16, decay_rank=4, rate_rank=4, gate_rank=4, value_rank=rank),
            ffn=RwkvChannelMix(d_ff=24),
        )
        for rank in (None, 4)
    )
    attends = Block(mixer=Attention(num_heads=2, head_dim=16), ffn=RwkvChannelMix(d_ff=24), parallel=True)
    alone = Block(ffn=RwkvChannelMix(d_ff=24, receptance=True))
    blocks = (first, later, later, attends, alone)
    architecture = Architecture(d_model=32, vocab_size=16, blocks=blocks)
    model = compile_architecture(architecture, seed=0)
    state = model.init_state(1, 12)
    held = sum(tensor.nbytes for layer in state.layers for tensor in layer.values())
    assert count_state_bytes(architecture, 12, dtype=torch.float32) == held
    randomise(model, fewest_rows=7)
    tokens = torch.randint(16, (2, 12))
    expected = model(tokens)
    _, state = model.prefill(tokens[:, :5], model.init_state(2, 12))
    for position in range(5, 12):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, expected[:, position], rtol=1e-4, atol=1e-4)
