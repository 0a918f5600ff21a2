"""The contract of a token mixer, held over every kind with several option sets each."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from nas.architecture import MIXERS as KINDS
from nas.architecture import (
    ArchitectureError,
    Attention,
    BlockSparseAttention,
    GatedDeltaNet,
    GatedLinearAttention,
    GatedSlotAttention,
    HeadMix,
    Mamba1,
    Mamba2,
    MatrixRecurrence,
    MixerOptions,
    NoMixer,
    Rwkv4,
    Rwkv6,
    Rwkv7,
    S4d,
    ShortConvolution,
    TttLinear,
    VectorRecurrence,
    WindowLinearAttention,
    YarnScaling,
    preset,
)
from nas.compile import MIXERS, build_mixer
from nas.context import Context
from nas.mixers.base import Mixer, State
from tests.contract.attention_cases import ATTENTION_CASES

D_MODEL, BATCH, TOKENS = 32, 2, 21
CPU = torch.device("cpu")

CASES: dict[str, MixerOptions] = {
    "attention": Attention(num_heads=2, head_dim=16),
    "attention grouped": Attention(num_heads=4, num_kv_heads=2, head_dim=16),
    "attention window": Attention(num_heads=2, num_kv_heads=1, head_dim=16, window=5),
    "attention window of one": Attention(num_heads=2, head_dim=16, window=1),
    "attention without positions": Attention(num_heads=2, head_dim=20, position="none"),
    "attention with norms per head": Attention(
        num_heads=4, num_kv_heads=2, head_dim=16, qk_norm="head", norm_eps=1e-5, score_scale=0.5, out_bias=True
    ),
    "attention with norms over all heads": Attention(
        num_heads=4, num_kv_heads=2, head_dim=16, qk_norm="full", rope_fraction=0.5, qkv_bias=True
    ),
    "attention gated": Attention(num_heads=2, head_dim=16, output_gate="sigmoid", qk_norm="l2", rope_interleaved=True),
    "attention capped, with sinks": Attention(num_heads=4, num_kv_heads=1, head_dim=16, soft_cap=2.0, sinks=True),
    "attention window with sinks": Attention(num_heads=2, head_dim=16, window=5, sinks=True),
    "attention window with global keys": Attention(num_heads=2, num_kv_heads=1, head_dim=16, window=4, num_global=3),
    "attention stretched": Attention(
        num_heads=2, head_dim=16, window=9, rope_fraction=0.75, rope_scaling=YarnScaling(factor=4, original_length=8)
    ),
    "block sparse with norms": BlockSparseAttention(
        num_heads=2, head_dim=16, block_size=4, top_k=2, qk_norm="head", rope_fraction=0.25, qkv_bias=True
    ),
    "block sparse": BlockSparseAttention(num_heads=2, head_dim=16, block_size=4, top_k=2),
    "block sparse grouped": BlockSparseAttention(num_heads=4, num_kv_heads=2, head_dim=16, block_size=3, top_k=1),
    "block sparse sees all": BlockSparseAttention(num_heads=2, head_dim=16, block_size=8, top_k=4),
    "block sparse short": BlockSparseAttention(num_heads=2, head_dim=16, block_size=64, position="none"),
    "gla": GatedLinearAttention(num_heads=2, head_dim=16),
    "gla conv": GatedLinearAttention(num_heads=2, head_dim=16, key_dim=8, gate_rank=4, conv_size=4),
    "mamba2": Mamba2(num_heads=4, head_dim=16, state_dim=8),
    "mamba2 groups": Mamba2(num_heads=4, head_dim=8, state_dim=8, num_groups=2),
    "mamba2 no conv": Mamba2(num_heads=2, head_dim=16, state_dim=8, conv_size=0),
    "mamba2 scaled, normed before the gate": Mamba2(
        num_heads=4,
        head_dim=8,
        state_dim=8,
        num_groups=2,
        output_norm="before_gate",
        in_bias=True,
        out_bias=True,
        conv_bias=False,
        gate_scale=0.5,
        input_scale=2.0,
        key_scale=0.7,
        query_scale=1.5,
        step_scale=0.9,
    ),
    "mamba2 without a norm": Mamba2(num_heads=2, head_dim=16, state_dim=8, output_norm="none", min_step=0.01),
    "mamba1 with inner norms": Mamba1(num_heads=2, head_dim=16, state_dim=4, inner_norm="learned", proj_bias=True),
    "mamba1 with plain norms": Mamba1(num_heads=2, head_dim=16, state_dim=4, inner_norm="plain", conv_bias=False),
    "short convolution": ShortConvolution(),
    "short convolution with biases": ShortConvolution(conv_size=4, bias=True),
    "gated deltanet shared keys": GatedDeltaNet(num_heads=4, head_dim=16, key_dim=8, num_key_heads=2),
    "head mix scaled": HeadMix(
        parts=(Attention(num_heads=1, head_dim=16), Mamba2(num_heads=2, head_dim=16, state_dim=8)),
        fuse="concat",
        scales=(0.5, 2.0),
    ),
    "head mix behind one projection": HeadMix(
        parts=(
            Attention(num_heads=2, num_kv_heads=1, head_dim=16, value_dim=32, window=7),
            Mamba1(num_heads=4, head_dim=16, state_dim=4),
        ),
        shared_out=True,
    ),
    "mamba1": Mamba1(num_heads=2, head_dim=16, state_dim=4),
    "mamba1 no conv": Mamba1(num_heads=1, head_dim=20, state_dim=5, dt_rank=3, conv_size=0),
    "gated deltanet": GatedDeltaNet(num_heads=2, head_dim=16),
    "gated deltanet wide state": GatedDeltaNet(num_heads=2, head_dim=8, key_dim=16, conv_size=2),
    "gated deltanet no conv": GatedDeltaNet(num_heads=2, head_dim=16, conv_size=0),
    "linear attention": preset("linear_attention", num_heads=2, head_dim=16),
    "based": preset("based", num_heads=2, head_dim=16, feature_dim=4),
    "hedgehog": preset("hedgehog", num_heads=2, head_dim=16, key_dim=8),
    "retnet": preset("retnet", num_heads=2, head_dim=16, key_dim=8),
    "lightning": preset("lightning", num_heads=2, head_dim=16, decay_scale=0.5),
    "hgrn2": preset("hgrn2", num_heads=2, head_dim=16, decay_floor=0.2),
    "kda": preset("kda", num_heads=2, head_dim=16, key_dim=8),
    "deltaproduct": preset("deltaproduct", num_heads=2, head_dim=16),
    "comba": preset("comba", num_heads=2, head_dim=16, conv_size=2),
    "mlstm": preset("mlstm", num_heads=2, head_dim=16, key_dim=8),
    "recurrence with a separate key": MatrixRecurrence(
        num_heads=2,
        head_dim=16,
        key_dim=8,
        feature_map="hedgehog",
        decay="vector",
        decay_form="exponential",
        decay_rank=4,
        erase="separate",
        write="scalar",
        beta_max=2.0,
        inner_steps=2,
        output_norm="none",
    ),
    "recurrence that erases by channel": MatrixRecurrence(
        num_heads=2, head_dim=16, key_dim=8, decay="vector", erase="channel", write="vector", qk_norm="l2", conv_size=4
    ),
    "recurrence that erases by channel, twice a token": MatrixRecurrence(
        num_heads=2,
        head_dim=16,
        decay="fixed",
        erase="channel",
        write="scalar",
        qk_norm="l2",
        inner_steps=2,
        beta_max=2.0,
        output_norm="none",
    ),
    "recurrence with a bonus, gated before its norm": MatrixRecurrence(
        num_heads=2,
        head_dim=16,
        decay="scalar",
        decay_form="exponential",
        write="vector",
        bonus=True,
        gate="silu",
        gate_first=True,
        output_norm="layer",
    ),
    "recurrence of softmax features": MatrixRecurrence(
        num_heads=2, head_dim=16, feature_map="softmax", write="scalar", normaliser="max", gate="silu", gate_rank=4
    ),
    "s4d": S4d(num_heads=2, head_dim=16, state_dim=4, num_groups=2, conv_size=3),
    "gated slot attention": GatedSlotAttention(num_heads=2, head_dim=16, num_slots=6),
    "ttt linear": TttLinear(num_heads=2, head_dim=16, mini_batch=6),
    "window and linear remainder": WindowLinearAttention(num_heads=4, num_kv_heads=2, head_dim=16, window=5),
    "window of one and linear remainder": WindowLinearAttention(
        num_heads=2, head_dim=16, window=1, feature_map="elu", position="none"
    ),
    "rwkv-4": Rwkv4(num_heads=2, head_dim=16),
    "rwkv-6": Rwkv6(num_heads=2, head_dim=16, mix_rank=4, decay_rank=8),
    "rwkv-7": Rwkv7(num_heads=2, head_dim=16, decay_rank=8, rate_rank=4, gate_rank=8),
    "rg-lru": preset("rg_lru", num_heads=2, head_dim=16),
    "hgrn": preset("hgrn", num_heads=2, head_dim=16, decay_floor=0.2),
    "min gru": preset("min_gru", num_heads=2, head_dim=16, conv_bias=False),
    "min lstm": VectorRecurrence(num_heads=2, head_dim=16, cell="min_lstm", gate="sigmoid"),
    "head mix mean": HeadMix(
        parts=(Attention(num_heads=1, head_dim=16, window=4), Mamba2(num_heads=2, head_dim=16, state_dim=8))
    ),
    "head mix concat": HeadMix(
        parts=(GatedDeltaNet(num_heads=1, head_dim=16), BlockSparseAttention(num_heads=1, head_dim=16, block_size=4)),
        fuse="concat",
    ),
    "head mix of three": HeadMix(
        parts=(
            GatedLinearAttention(num_heads=1, head_dim=16),
            Mamba1(num_heads=1, head_dim=16),
            Attention(num_heads=1, head_dim=16),
        )
    ),
    **ATTENTION_CASES,
}


def mixer_of(options: MixerOptions) -> Mixer:
    """A mixer with weights large enough that scores, gates and positions matter, unlike those of a fresh one."""
    torch.manual_seed(0)
    mixer = build_mixer(options, D_MODEL)
    assert mixer is not None
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


@pytest.fixture(params=CASES, ids=list(CASES))
def options(request: pytest.FixtureRequest) -> MixerOptions:
    return CASES[request.param]


@pytest.fixture
def mixer(options: MixerOptions) -> Mixer:
    return mixer_of(options)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def start(mixer: Mixer, dtype: torch.dtype = torch.float32) -> State:
    return mixer.init_state(BATCH, TOKENS, dtype, CPU)


def read_in_chunks(mixer: Mixer, x: Tensor, sizes: list[int], state: State) -> tuple[Tensor, State]:
    outputs, position = [], 0
    for size in sizes:
        y, new = mixer(x[:, position : position + size], state, Context(position=position))
        assert new is not None
        state, position = new, position + size
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def test_every_kind_has_a_class_and_a_case():
    assert set(MIXERS) == set(KINDS.values())
    assert {type(options) for options in CASES.values()} == set(KINDS.values()) - {NoMixer}


def test_without_a_state_nothing_is_kept(mixer: Mixer, x: Tensor):
    y, state = mixer(x)
    assert y.shape == x.shape
    assert state is None


@torch.no_grad()
def test_a_later_token_changes_no_earlier_output(mixer: Mixer, x: Tensor):
    for changed in (1, 8, 12, TOKENS - 1):
        other = x.clone()
        other[:, changed:] += 1.0
        before, after = mixer(x)[0], mixer(other)[0]
        torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after[:, changed], before[:, changed], atol=1e-3)


@torch.no_grad()
def test_decoding_token_by_token_equals_the_parallel_form(mixer: Mixer, x: Tensor):
    state, outputs = start(mixer), []
    for position in range(TOKENS):
        y, state = mixer.step(x[:, position], state, Context(position=position))
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[TOKENS], [8, 13], [1, 2, 3, 7, 8], [6] + [1] * 15])
def test_reading_in_chunks_equals_reading_at_once(mixer: Mixer, x: Tensor, sizes: list[int]):
    y, _ = read_in_chunks(mixer, x, sizes, start(mixer))
    torch.testing.assert_close(y, mixer(x)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_decoding_goes_on_from_a_prompt(mixer: Mixer, x: Tensor):
    _, state = read_in_chunks(mixer, x, [5, 8], start(mixer))
    for position in range(13, TOKENS):
        y, state = mixer.step(x[:, position], state, Context(position=position))
    torch.testing.assert_close(y, mixer(x)[0][:, -1], rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient_that_is_finite_and_not_zero(mixer: Mixer, x: Tensor):
    context = Context()
    y, _ = mixer(x, None, context)
    sum(context.losses, (y * torch.randn_like(y)).sum()).backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_agree_with_a_finite_difference(mixer: Mixer, x: Tensor):
    """Along one random direction of the input and of every parameter, each by itself."""
    readout = torch.randn_like(x)
    leaves = [x.requires_grad_(), *mixer.parameters()]
    gradients = torch.autograd.grad((mixer(x)[0] * readout).sum(), leaves, allow_unused=True)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is None:  # of an indexer, which picks and has a loss of its own
            continue
        direction = gradient.sign() * torch.rand_like(gradient)
        step = 5e-4 / direction.abs().max()
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                leaf.add_(sign * step * direction)
                values.append((mixer(x)[0] * readout).sum())
        with torch.no_grad():
            leaf.add_(step * direction)
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=0.01, atol=0.03)


def test_portable_equals_reference_in_value_and_gradient(mixer: Mixer, x: Tensor):
    def run(backend: kernels.Backend) -> list[Tensor]:
        inputs = x.clone().requires_grad_()
        with kernels.use_backend(backend):
            y, _ = mixer(inputs)
            readout, leaves = (y * y.detach().cos()).sum(), [inputs, *mixer.parameters()]
            return [y, *torch.autograd.grad(readout, leaves, allow_unused=True, materialize_grads=True)]

    for portable, reference in zip(run("portable"), run("reference"), strict=True):
        torch.testing.assert_close(portable, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 3, 50])
def test_state_bytes_are_the_bytes_allocated(mixer: Mixer, dtype: torch.dtype, length: int):
    state = mixer.init_state(1, length, dtype, CPU)
    assert mixer.state_bytes(length, dtype) == sum(t.untyped_storage().nbytes() for t in state.values())


@torch.no_grad()
def test_the_state_keeps_its_shape_and_type(mixer: Mixer, x: Tensor):
    expected = {name: (t.shape, t.dtype) for name, t in start(mixer, torch.bfloat16).items()}
    _, state = read_in_chunks(mixer, x, [5, 10], start(mixer, torch.bfloat16))
    assert {name: (t.shape, t.dtype) for name, t in state.items()} == expected
    _, state = mixer.step(x[:, 15], state, Context(position=15))
    assert {name: (t.shape, t.dtype) for name, t in state.items()} == expected


def test_flops_add_up_over_chunks(mixer: Mixer):
    for position in (0, 3, 17):
        assert mixer.flops(40, position) == mixer.flops(9, position) + mixer.flops(31, position + 9)
    assert mixer.flops(1, 0) >= 2 * sum(p.numel() for n, p in mixer.named_parameters() if n.endswith("proj.weight"))


@torch.no_grad()
def test_bfloat16_weights_and_autocast_both_work(options: MixerOptions, x: Tensor):
    expected = mixer_of(options)(x)[0]
    half, x_half = mixer_of(options).bfloat16(), x.bfloat16()
    y, _ = half(x_half)
    assert y.dtype == torch.bfloat16
    state = start(half, torch.bfloat16)
    _, state = read_in_chunks(half, x_half, [4, 3], state)
    half.step(x_half[:, 7], state, Context(position=7))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast, _ = mixer_of(options)(x)
    for actual in (y, under_autocast):
        # Selecting other blocks over a rounding is no error, so only the typical deviation is bounded.
        assert (actual.float() - expected).abs().median() < 0.03 * expected.abs().max()


def test_a_token_sees_only_the_blocks_it_picked():
    """Keys 0-1 point along q, keys 2-3 away from it: with one block picked, the last token sees block 0 and its own."""
    mixer = mixer_of(BlockSparseAttention(num_heads=1, head_dim=16, block_size=2, top_k=1, position="none"))
    q = torch.zeros(1, 6, 1, 16)
    q[..., 0] = 1
    k = torch.zeros(1, 6, 1, 16)
    k[0, :, 0, 0] = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0])
    blocks = mixer._blocks(q, mixer._block_means(k), 6)
    assert blocks[0, :, 0].tolist() == [[0, -1], [0, -1], [1, 0], [1, 0], [2, 0], [2, 0]]


def test_block_sparse_flops_count_the_pairs_that_its_blocks_allow():
    options = BlockSparseAttention(num_heads=2, num_kv_heads=1, head_dim=16, block_size=4, top_k=2)
    mixer = mixer_of(options)
    k = torch.randn(1, 30, 1, 16)
    blocks = mixer._blocks(torch.randn(1, 30, 2, 16), mixer._block_means(k), 30)[0, :, 0]
    seen = (blocks.unsqueeze(-1) == torch.arange(30) // 4).any(1)
    pairs = int((seen & torch.ones(30, 30).tril().bool()).sum())
    means = sum(position // 4 for position in range(30))
    projections = 2 * 30 * (D_MODEL * 4 * 16 + 2 * 16 * D_MODEL)
    assert mixer.flops(30, 0) == projections + 4 * pairs * 2 * 16 + 2 * means * 16


def test_parts_behind_one_projection_are_normalised_heads_that_are_averaged(x: Tensor):
    options = CASES["head mix behind one projection"]
    assert isinstance(options, HeadMix)
    mixer = build_mixer(options, D_MODEL)
    assert not list(mixer.parts[0].out_proj.parameters()) and not list(mixer.parts[1].out_proj.parameters())
    heads = [part(x)[0] for part in mixer.parts]
    assert {y.shape[-1] for y in heads} == {64}
    normed = [F.rms_norm(y, (64,), norm.weight, norm.eps) for y, norm in zip(heads, mixer.norms, strict=True)]
    torch.testing.assert_close(mixer(x)[0], sum(normed) / 2 @ mixer.out_proj.weight.T, rtol=1e-4, atol=1e-5)
    flops = [part.flops(5, 3) for part in mixer.parts]
    assert mixer.flops(5, 3) == sum(flops) + 2 * 5 * 64 * D_MODEL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fuse": "concat"}, "shared_out is of fuse: norm_mean, but got fuse=concat"),
        (
            {"parts": (Attention(num_heads=2, head_dim=16), Rwkv4(num_heads=2, head_dim=16))},
            "but got rwkv4 with out_bias",
        ),
        (
            {"parts": (Attention(num_heads=2, head_dim=16, out_bias=True), Mamba1(num_heads=2, head_dim=16))},
            "but got attention with out_bias=True",
        ),
        (
            {"parts": (Attention(num_heads=2, head_dim=16), Mamba1(num_heads=3, head_dim=16))},
            r"must have heads of the same width in all, but got \[32, 48\]",
        ),
    ],
)
def test_parts_that_cannot_share_a_projection_are_refused(options: dict, message: str):
    with pytest.raises(ArchitectureError, match=message):
        replace(CASES["head mix behind one projection"], **options)


def test_concat_is_the_sum_of_the_parts_and_norm_mean_their_normalised_mean(x: Tensor):
    parts = (Attention(num_heads=1, head_dim=16), Mamba2(num_heads=1, head_dim=16, state_dim=8))
    for fuse in ("concat", "norm_mean"):
        mixer = mixer_of(HeadMix(parts=parts, fuse=fuse))
        first, second = (part(x)[0] for part in mixer.parts)
        if fuse == "norm_mean":
            first, second = mixer.norms[0](first) / 2, mixer.norms[1](second) / 2
        torch.testing.assert_close(mixer(x)[0], first + second)


def test_moving_the_state_takes_no_more_than_reading_and_writing_all_of_it(mixer: Mixer):
    for dtype in (torch.float32, torch.bfloat16):
        for context in (0, 7, 64, 1000):
            whole = mixer.state_bytes(context + 1, dtype)
            assert 0 < mixer.state_traffic(1, context, dtype) <= 2 * whole
            assert mixer.state_traffic(1, context, dtype) <= mixer.state_traffic(1, context + 8, dtype)


def test_attention_reads_the_keys_in_sight_and_writes_those_of_new_tokens():
    token = 2 * 2 * 16 * 4  # keys and values, 2 KV heads of 16, float32
    mixer = mixer_of(Attention(num_heads=4, num_kv_heads=2, head_dim=16))
    assert mixer.state_traffic(1, 100, torch.float32) == (101 + 1) * token
    assert mixer.state_traffic(8, 0, torch.float32) == (8 + 8) * token
    assert mixer.state_traffic(1, 100, torch.bfloat16) == (101 + 1) * token // 2
    window = mixer_of(Attention(num_heads=4, num_kv_heads=2, head_dim=16, window=5))
    assert window.state_traffic(1, 100, torch.float32) == (5 + 1) * token
    assert window.state_traffic(1, 100_000, torch.float32) == window.state_traffic(1, 100, torch.float32)


@pytest.mark.parametrize("name", ["gla conv", "mamba2", "mamba1", "gated deltanet"])
def test_a_recurrent_state_is_read_and_written_whole_whatever_the_context(name: str):
    mixer = mixer_of(CASES[name])
    assert mixer.state_traffic(1, 5, torch.float32) == 2 * mixer.state_bytes(5, torch.float32)
    assert mixer.state_traffic(1, 100_000, torch.float32) == mixer.state_traffic(64, 0, torch.float32)


def test_block_sparse_attention_reads_the_means_and_the_picked_blocks():
    mixer = mixer_of(BlockSparseAttention(num_heads=2, head_dim=16, block_size=4, top_k=2))
    token = 2 * 2 * 16 * 4
    means, seen = 10 * 2 * 16 * 4, 2 * 4 + 1  # two picked blocks, and itself in a block of its own
    assert mixer.state_traffic(1, 40, torch.float32) == means + seen * token + token


def test_block_sparse_attention_reads_less_than_attention_at_long_contexts_and_as_much_at_short_ones():
    sparse = mixer_of(BlockSparseAttention(num_heads=2, head_dim=16, block_size=64, top_k=2))
    full = mixer_of(Attention(num_heads=2, head_dim=16))
    assert sparse.state_traffic(1, 32768, torch.float32) < full.state_traffic(1, 32768, torch.float32) / 20
    assert sparse.state_traffic(1, 30, torch.float32) == full.state_traffic(1, 30, torch.float32)


def test_side_by_side_parts_move_what_each_of_them_moves():
    parts = (Attention(num_heads=1, head_dim=16), Mamba2(num_heads=1, head_dim=16, state_dim=8))
    alone = [mixer_of(part).state_traffic(3, 50, torch.float32) for part in parts]
    assert mixer_of(HeadMix(parts=parts)).state_traffic(3, 50, torch.float32) == sum(alone)
