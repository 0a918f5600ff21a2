"""The presets of the matrix recurrence against what others wrote: layers of transformers, and the naive functions of
flash-linear-attention between projections and norms that are written out here."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture import ArchitectureError, GatedDeltaNet, GatedLinearAttention, MatrixRecurrence, preset
from nas.compile import build_mixer
from nas.context import Context
from nas.mixers.base import Mixer
from nas.mixers.matrix_recurrence import MatrixRecurrenceMixer
from scripts.interop_oracles.models import without_fla
from tests.alike import assert_near, copy, randomise
from tests.fla_naive import naive

D_MODEL, BATCH, TOKENS = 32, 2, 37
H, K, V = 2, 8, 16


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def preset_mixer(name: str, **options: object) -> MatrixRecurrenceMixer:
    mixer = build_mixer(preset(name, **{"num_heads": H, "head_dim": V, "key_dim": K} | options), D_MODEL)
    assert isinstance(mixer, MatrixRecurrenceMixer)
    randomise(mixer)
    return mixer


def assert_same_layer(ours: Mixer, theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The same outputs, and the same gradient of the input; and the last of them by decoding."""
    x = x.clone().requires_grad_()
    outputs = [ours(x)[0], theirs(x)]
    assert_near(*outputs)
    readout = torch.randn_like(x)
    assert_near(*(torch.autograd.grad((y * readout).sum(), x)[0] for y in outputs))
    with torch.no_grad():
        state = ours.init_state(BATCH, TOKENS, torch.float32, torch.device("cpu"))
        for position in range(TOKENS):
            y, state = ours.step(x[:, position], state, Context(position=position))
        assert_near(y, outputs[1][:, -1])


def test_kda_is_that_of_kimi_linear(x: Tensor):
    from transformers import KimiLinearConfig

    with without_fla():
        from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention as Theirs

    config = KimiLinearConfig(
        hidden_size=D_MODEL, num_hidden_layers=1, layer_types=["linear_attention"], rms_norm_eps=1e-6
    )
    config.linear_num_heads, config.linear_head_dim, config.linear_conv_kernel_dim = H, V, 4
    theirs = Theirs(config, layer_idx=0).eval()
    nn.init.uniform_(theirs.forget_gate.A_log, -1, 1)
    nn.init.zeros_(theirs.forget_gate.dt_bias)
    randomise(theirs)
    ours = preset_mixer("kda", key_dim=None)
    gate = theirs.forget_gate
    rows = (theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.g_a_proj, theirs.b_proj, gate.f_a_proj)
    weights = {
        "in_proj.weight": torch.cat([layer.weight for layer in rows]),
        "conv.filter": theirs.conv1d.weight.squeeze(1),
        "gate_proj.weight": theirs.g_b_proj.weight,
        "decay.proj.weight": gate.f_b_proj.weight,
        "decay.bias": gate.dt_bias,
        "decay.A_log": gate.A_log.flatten(),
        "readout.norm.weight": theirs.o_norm.weight,
        "out_proj.weight": theirs.o_proj.weight,
    }
    copy(ours, weights)
    assert_same_layer(ours, theirs, x)


def test_lightning_is_that_of_minimax(x: Tensor):
    from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxLightningAttention

    config = MiniMaxConfig(
        hidden_size=D_MODEL, num_attention_heads=H, head_dim=V, num_hidden_layers=4, block_size=8,
        layer_types=["linear_attention"] * 4,
    )  # fmt: skip
    theirs = MiniMaxLightningAttention(config, 2).eval()
    randomise(theirs)
    ours = preset_mixer("lightning", key_dim=None, decay_scale=1 - 2 / (3 + 1e-5) + 1e-5)
    by_head = theirs.qkv_proj.weight.unflatten(0, (H, 3, V))
    weights = {
        "in_proj.weight": torch.cat([*(by_head[:, i].flatten(0, 1) for i in range(3)), theirs.output_gate.weight]),
        "readout.norm.weight": theirs.norm.weight,
        "out_proj.weight": theirs.out_proj.weight,
    }
    copy(ours, weights)
    assert_same_layer(ours, lambda x: theirs(x, None, None)[0], x)


@torch.no_grad()
def test_mlstm_is_that_of_xlstm(x: Tensor):
    from transformers.models.xlstm.modeling_xlstm import xLSTMConfig, xLSTMLayer

    config = xLSTMConfig(
        hidden_size=D_MODEL, num_heads=H, num_hidden_layers=1, chunkwise_kernel="chunkwise--native_autograd",
        qk_dim_factor=0.5, v_dim_factor=1.0, mode="inference", gate_soft_cap=15.0, norm_eps=1e-6,
    )  # fmt: skip
    theirs = xLSTMLayer(config).eval()
    randomise(theirs)
    ours = preset_mixer("mlstm")
    rows = (theirs.q, theirs.k, theirs.v, theirs.ogate_preact, theirs.fgate_preact, theirs.igate_preact)
    weights = {
        "in_proj.weight": torch.cat([layer.weight for layer in rows]),
        "decay.bias": theirs.fgate_preact.bias,
        "write_bias": theirs.igate_preact.bias,
        "readout.weight": theirs.multihead_norm.weight,
        "out_proj.weight": theirs.out_proj.weight,
    }
    copy(ours, weights)
    assert_near(ours(x)[0], theirs(x)[0], 1e-4)


SAME_LAYERS = {
    "gla": (
        GatedLinearAttention(num_heads=H, head_dim=V, key_dim=K, conv_size=0),
        preset("gla", num_heads=H, head_dim=V, key_dim=K),
        {"gate_proj": "decay.proj", "gate_bias": "decay.bias", "norm": "readout.norm"},
    ),
    "gated deltanet": (
        GatedDeltaNet(num_heads=H, head_dim=V, key_dim=K),
        preset("deltanet", num_heads=H, head_dim=V, key_dim=K, decay="scalar", gate="silu"),
        {"A_log": "decay.A_log", "dt_bias": "decay.bias", "norm": "readout.norm"},
    ),
}


@pytest.mark.parametrize("name", SAME_LAYERS)
def test_values_of_the_options_are_the_kinds_that_have_a_file_of_their_own(name: str, x: Tensor):
    other_options, options, names = SAME_LAYERS[name]
    theirs, ours = build_mixer(other_options, D_MODEL), build_mixer(options, D_MODEL)
    assert theirs is not None and ours is not None
    randomise(theirs)
    weights = dict(theirs.named_parameters())
    if name == "gated deltanet":  # b stands before a in both
        assert weights["in_proj.weight"].shape == dict(ours.named_parameters())["in_proj.weight"].shape
    for old, new in names.items():
        for key in [key for key in weights if key == old or key.startswith(f"{old}.")]:
            weights[key.replace(old, new, 1)] = weights.pop(key)
    copy(ours, weights)
    assert_same_layer(ours, lambda x: theirs(x)[0], x)


# What the naive functions take, from the weights of ours; what becomes of what they give.


def heads(x: Tensor, size: int) -> Tensor:
    return x.unflatten(-1, (-1, size))


def convolved(mixer: MatrixRecurrenceMixer, qkv: Tensor) -> Tensor:
    assert mixer.conv is not None and mixer.conv.filter is not None
    width = mixer.conv.filter.shape[1]
    padded = F.pad(qkv.mT, (width - 1, 0))
    return F.silu(F.conv1d(padded, mixer.conv.filter.unsqueeze(1), groups=qkv.shape[-1])).mT


def rotated(x: Tensor) -> Tensor:
    """[B, T, H, D] turned as complex numbers whose parts are the halves of a head."""
    size = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[1]), 10000.0 ** -(torch.arange(size) / size))
    turned = torch.complex(x[..., :size], x[..., size:]) * torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    return torch.cat((turned.real, turned.imag), -1)


def root_mean_square(o: Tensor, weight: Tensor) -> Tensor:
    return o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def case(name: str, mixer: MatrixRecurrenceMixer, x: Tensor) -> tuple[tuple[Tensor, ...], Callable[[Tensor], Tensor]]:
    """(arguments of the naive function, from its output to that of the layer before the last projection)."""
    projected = F.linear(x, mixer.in_proj.weight)
    weights = dict(mixer.named_parameters())
    norm, unit = weights.get("readout.norm.weight", torch.ones(1)), F.normalize
    if name in ("linear_attention", "based", "hedgehog"):
        q, k, v = (
            heads(p, size) for p, size in zip(projected.split((H * K, H * K, H * V), -1), (K, K, V), strict=True)
        )
        if name == "linear_attention":
            q, k = F.elu(q) + 1, F.elu(k) + 1
        if name == "hedgehog":
            q, k = (torch.einsum("bthk,hfk->bthf", p, weights[f"{n}_features.weight"]) for p, n in ((q, "q"), (k, "k")))
            q, k = (torch.cat((p.exp(), (-p).exp()), -1) for p in (q, k))
            q, k = (p / p.sum(-1, keepdim=True) for p in (q, k))
        return (q, k, v), lambda o: o.flatten(2)
    if name == "retnet":
        q, k, v, z = projected.split((H * K, H * K, H * V, H * V), -1)
        gate = F.silu(heads(z, V))
        return (rotated(heads(q, K)), rotated(heads(k, K)), heads(v, V)), lambda o: (
            root_mean_square(o, norm) * gate
        ).flatten(2)
    if name == "hgrn2":
        q, v, f = projected.split((H * K, H * V, H * K), -1)
        kept = 0.25 + 0.75 * (f + weights["decay.bias"]).sigmoid()
        given = (F.silu(heads(q, K)) * K**0.5, heads(1 - kept, K), heads(v, V), heads(kept, K).log())
        return given, lambda o: root_mean_square(o.flatten(2), norm)
    if name == "deltanet":
        qkv, b = projected.split((H * (2 * K + V), H), -1)
        q, k, v = convolved(mixer, qkv).split((H * K, H * K, H * V), -1)
        given = (unit(heads(q, K), dim=-1), unit(heads(k, K), dim=-1), heads(v, V), b.sigmoid())
        return given, lambda o: root_mean_square(o, norm).flatten(2)
    n = 2 if name == "deltaproduct" else 1
    qkv, z, b, a = projected.split((H * (K + n * K + n * V), H * V, n * H, H), -1)
    q, k, v = convolved(mixer, qkv).split((H * K, n * H * K, n * H * V), -1)
    log_decay = -weights["decay.A_log"].exp() * F.softplus(a + weights["decay.bias"])
    q, k, v = unit(heads(q, K), dim=-1), unit(heads(k, K), dim=-1), heads(v, V)
    if name == "deltaproduct":
        k, v = (p.unflatten(2, (2, H)).flatten(1, 2) for p in (k, v))
        strength = 2 * b.sigmoid().unflatten(2, (2, H)).flatten(1, 2)
        return (q, k, v, log_decay, strength), lambda o: (root_mean_square(o, norm) * F.silu(heads(z, V))).flatten(2)
    p = k * weights["feedback"].sigmoid().unsqueeze(-1)
    q = q - weights["correction"].unsqueeze(-1) * p
    return (q, k, v, p, log_decay, b.sigmoid()), lambda o: (root_mean_square(o, norm) * heads(z, V).sigmoid()).flatten(
        2
    )


def head_first(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    def run(*tensors: Tensor) -> Tensor:
        out = function(*(t.transpose(1, 2) for t in tensors))
        return (out if isinstance(out, Tensor) else out[0]).transpose(1, 2)

    return run


def delta_product(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    function = naive("gated_delta_product").naive_recurrent_gated_delta_product
    return function(q, k, v, g, beta, K**-0.5, num_householder=2)[0]


def normalised_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return naive("linear_attn").naive_recurrent_linear_attn(q, k, v, normalize=True)[0]


NAIVE: dict[str, Callable[..., Tensor]] = {
    "linear_attention": normalised_linear_attention,
    "hedgehog": normalised_linear_attention,
    "based": head_first(naive("based").naive_parallel_based),
    "retnet": head_first(naive("retention").naive_retention),
    "hgrn2": lambda *given: naive("gla").naive_recurrent_gla(*given)[0],
    "deltanet": head_first(naive("delta_rule").delta_rule_recurrence),
    "deltaproduct": delta_product,
    # Of its two references the one that erases from the state before its decay, as the paper does.
    "comba": lambda *given: naive("comba").naive_chunk_comba(*given, chunk_size=16)[0],
}
CHANGED = {"hgrn2": {"decay_floor": 0.25}, "based": {"feature_dim": K}}


@torch.no_grad()
@pytest.mark.parametrize("name", NAIVE)
def test_presets_are_the_naive_functions_between_their_projections(name: str, x: Tensor):
    mixer = preset_mixer(name, **CHANGED.get(name, {}))
    given, finish = case(name, mixer, x)
    assert_near(mixer(x)[0], mixer.out_proj(finish(NAIVE[name](*given))))


def test_erasing_by_channel_is_gated_deltanet_2(x: Tensor):
    options = MatrixRecurrence(
        num_heads=H, head_dim=V, key_dim=K, decay="vector", erase="channel", write="vector", qk_norm="l2"
    )
    ours = MatrixRecurrenceMixer(options, D_MODEL)
    randomise(ours)
    weights, sizes = dict(ours.named_parameters()), (K, K, V, K, V, K)

    def theirs(x: Tensor) -> Tensor:
        parts = F.linear(x, weights["in_proj.weight"]).split([H * size for size in sizes], -1)
        q, k, v, a, w, b = (heads(part, size) for part, size in zip(parts, sizes, strict=True))
        log_decay = -weights["decay.A_log"].exp().view(H, 1) * F.softplus(a + weights["decay.bias"].view(H, K))
        given = (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, log_decay, b.sigmoid(), w.sigmoid())
        o = root_mean_square(naive("gdn2").naive_recurrent_gdn2(*given)[0], weights["readout.norm.weight"])
        return ours.out_proj(o.flatten(2))

    assert_same_layer(ours, theirs, x)


@pytest.mark.parametrize(("decay", "inner_steps"), [("none", 1), ("fixed", 2), ("scalar", 2), ("vector", 1)])
def test_channels_that_are_erased_alike_are_the_delta_rule(x: Tensor, decay: str, inner_steps: int):
    given = {"num_heads": H, "head_dim": V, "key_dim": K, "decay": decay, "inner_steps": inner_steps, "conv_size": 4}
    given |= {"write": "scalar", "qk_norm": "l2", "beta_max": 2.0}
    delta, ours = (
        MatrixRecurrenceMixer(MatrixRecurrence(**given, erase=erase), D_MODEL) for erase in ("delta", "channel")
    )
    randomise(delta)
    weights = dict(delta.named_parameters())
    parts = weights["in_proj.weight"].split(list(delta.sizes.values()))
    strengths = dict(zip(delta.sizes, parts, strict=True))["beta"]
    copy(ours, weights | {"in_proj.weight": torch.cat((weights["in_proj.weight"], strengths.repeat_interleave(K, 0)))})
    assert_same_layer(ours, lambda x: delta(x)[0], x)


BAD = [
    (
        {"decay": "fixed", "decay_form": "softplus"},
        "decay_form of decay: fixed must be one of retention, slopes, but got",
    ),
    ({"decay_form": "sigmoid"}, "decay_form of decay: none must be one of none, but got sigmoid"),
    ({"decay": "vector", "decay_floor": 0.5}, "decay_floor is below 1 and needs decay_form: sigmoid"),
    ({"erase": "delta"}, "erase: delta needs write: scalar and qk_norm: l2"),
    ({"erase": "channel"}, "erase: channel needs qk_norm: l2"),
    (
        {"erase": "channel", "qk_norm": "l2", "write": "complement"},
        "erase: channel needs write: plain, scalar or vector",
    ),
    ({"erase": "delta", "write": "scalar", "qk_norm": "l2", "normaliser": "max"}, "A normaliser sums weights"),
    ({"write": "complement", "decay": "scalar"}, "write: complement takes keys from decay: vector"),
    ({"write": "exponential", "decay": "vector"}, "write: exponential needs decay: scalar, normaliser: max"),
    ({"normaliser": "sum"}, "normaliser: sum needs a feature_map without negative products, but got identity"),
    (
        {"feature_map": "taylor", "feature_dim": 24},
        "at most 256 rows and 1024 columns, but feature_map=taylor of 24 channels",
    ),
    ({"bonus": True, "inner_steps": 2}, "bonus needs erase: none"),
    ({"correction": True}, "correction belongs to erase: scaled"),
    ({"position": "rope", "key_dim": 7}, "position: rope turns pairs of channels"),
    ({"feature_map": "hedge"}, "feature_map is 'hedge'. Did you mean 'hedgehog'?"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[", ".join(given) for given, _ in BAD])
def test_options_that_do_not_fit_together_are_one_sentence(given: dict[str, object], message: str):
    with pytest.raises(ArchitectureError) as error:
        MatrixRecurrence(num_heads=2, head_dim=16, **given)  # type: ignore[arg-type]
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_preset_that_does_not_exist_names_the_nearest():
    with pytest.raises(ArchitectureError, match=r"There is no preset 'retnets'\. Did you mean 'retnet'\?"):
        preset("retnets", num_heads=2)
