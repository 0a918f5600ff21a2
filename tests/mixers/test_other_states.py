"""States that are neither plain matrices nor vectors, against naive functions of flash-linear-attention; and S4D
against the convolution that it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.architecture import ArchitectureError, GatedSlotAttention, S4d, TttLinear
from nas.compile import build_mixer
from nas.mixers.base import Mixer
from tests.alike import assert_near
from tests.fla_naive import naive

D_MODEL, BATCH, TOKENS = 32, 2, 37
H, SIZE = 2, 12


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def random_mixer(options) -> Mixer:
    mixer = build_mixer(options, D_MODEL)
    assert mixer is not None
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def root_mean_square(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@torch.no_grad()
def test_gated_slot_attention_is_the_naive_function_between_its_projections(x: Tensor):
    m = random_mixer(GatedSlotAttention(num_heads=H, head_dim=SIZE, num_slots=5))
    *qkv, f = F.linear(x, m.in_proj.weight).split((H * SIZE,) * 3 + (H * 5,), -1)
    q, k, v = (F.silu(p).unflatten(-1, (H, SIZE)) for p in qkv)
    g = F.logsigmoid(f).unflatten(-1, (H, 5)) / 8
    o, _ = naive("gsa").naive_recurrent_gsa(q, k, v, 1 - g.exp(), g)
    assert_near(m(x)[0], m.out_proj(root_mean_square(F.silu(o).flatten(2)) * m.norm.weight))


@torch.no_grad()
@pytest.mark.parametrize("mini_batch", [16, 5])
def test_ttt_linear_is_the_naive_function_between_its_projections(mini_batch: int, x: Tensor):
    m = random_mixer(TttLinear(num_heads=H, head_dim=SIZE, mini_batch=mini_batch, base_rate=3.0))
    *qkv, z, rate = F.linear(x, m.in_proj.weight).split((H * SIZE,) * 4 + (H,), -1)
    q, k, v = (p.unflatten(-1, (H, SIZE)) for p in qkv)
    eta = 3.0 / SIZE * rate.sigmoid().unsqueeze(-1)
    o, _, _ = naive("ttt").chunk_ttt_linear_ref(
        F.normalize(q, dim=-1), F.normalize(k, dim=-1), v,
        m.inner_weight.view(H, SIZE), m.inner_bias.view(H, SIZE), eta,
        mini_batch_size=mini_batch, initial_state=m.start.repeat(BATCH, 1, 1, 1),
        initial_state_bias=m.start_bias.repeat(BATCH, 1, 1, 1),
    )  # fmt: skip
    assert_near(m(x)[0], m.out_proj(root_mean_square(o.flatten(2)) * m.norm.weight * F.silu(z)))


@torch.no_grad()
def test_s4d_is_a_convolution(x: Tensor):
    m = random_mixer(S4d(num_heads=H, head_dim=SIZE, state_dim=4, num_groups=2))
    u, z = F.linear(x, m.in_proj.weight).chunk(2, -1)
    step, decay = m.log_step.exp().unsqueeze(-1), -m.A_log.exp()
    read = (m.B * m.C).repeat_interleave(SIZE, 0) * step
    times = torch.arange(TOKENS).view(-1, 1, 1)
    kernel = (read * (times * step * decay).exp()).sum(-1)  # [T, channels]
    y = torch.stack([sum(kernel[t - i] * u[:, i] for i in range(t + 1)) for t in range(TOKENS)], 1)
    assert_near(m(x)[0], m.out_proj((y + m.D * u) * F.silu(z)))


def test_groups_that_do_not_divide_heads_and_too_many_slots_are_one_sentence():
    with pytest.raises(ArchitectureError, match="num_groups must divide num_heads, but got num_groups=2, num_heads=3"):
        S4d(num_heads=3, num_groups=2)
    with pytest.raises(ArchitectureError, match="must be at most 256, but got num_slots=300, head_dim=64"):
        GatedSlotAttention(num_heads=2, num_slots=300)
