"""Our attentions beyond the plain one against the eager layers of transformers, or against formulas written out.

With the same weights, in value and in the gradient of the input, and decoded token by token.
"""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from nas.architecture import (
    Attention,
    DifferentialAttention,
    ForgettingAttention,
    HashAttention,
    IndexedLatentAttention,
    LatentAttention,
    NativeSparseAttention,
    PatternAttention,
)
from nas.context import Context
from nas.mixers.attention import AttentionMixer
from nas.mixers.base import Mixer
from nas.mixers.differential_attention import DifferentialAttentionMixer
from nas.mixers.forgetting_attention import ForgettingAttentionMixer
from nas.mixers.hash_attention import HashAttentionMixer
from nas.mixers.indexed_latent_attention import IndexedLatentAttentionMixer
from nas.mixers.latent_attention import LatentAttentionMixer
from nas.mixers.native_sparse_attention import NativeSparseAttentionMixer
from nas.mixers.pattern_attention import PatternAttentionMixer, block_lists
from tests.test_parity import BATCH, D_MODEL, TOKENS, assert_same, copy, randomise

POSITIONS = torch.arange(TOKENS).expand(BATCH, -1)
UNSEEN = torch.full((TOKENS, TOKENS), float("-inf")).triu(1).expand(BATCH, 1, -1, -1)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def assert_same_attention(ours: Mixer, expected: Tensor, x: Tensor) -> None:
    """Outputs of one pass and of single steps, and the gradient of x, which `expected` was computed from."""
    y, _ = ours(x)
    assert_same(y, expected)
    readout = torch.randn_like(x)
    assert_same(*(torch.autograd.grad((o * readout).sum(), x)[0] for o in (y, expected)))
    state = ours.init_state(BATCH, TOKENS, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for position in range(TOKENS):
            y, state = ours.step(x[:, position], state, Context(position=position))
            assert_same(y, expected[:, position])


def latent_weights(theirs: nn.Module) -> dict[str, Tensor]:
    """Of an attention of DeepSeek-V3 or one that descends from it, under our names."""
    names = {
        "q_proj": "q_proj",
        "q_a_proj": "q_down",
        "q_a_layernorm": "q_norm",
        "q_b_proj": "q_up",
        "kv_a_proj_with_mqa": "kv_down",
        "kv_a_layernorm": "kv_norm",
        "kv_b_proj": "kv_up",
        "o_proj": "out_proj",
    }
    weights = {}
    for name, weight in theirs.named_parameters():
        part, _, kind = name.rpartition(".")
        if part in names:
            weights[f"{names[part]}.{kind}"] = weight
    return weights


@pytest.mark.parametrize(("query_rank", "interleaved", "bias"), [(None, True, False), (12, False, True)])
def test_latent_attention_is_that_of_deepseek_v3(x: Tensor, query_rank: int | None, interleaved: bool, bias: bool):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    config = DeepseekV3Config(
        hidden_size=D_MODEL, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=query_rank, kv_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=16, attention_bias=bias, rope_interleave=interleaved,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, attn_implementation="eager",
    )  # fmt: skip
    theirs = deepseek.DeepseekV3Attention(config, layer_idx=0).eval()
    randomise(theirs)
    options = LatentAttention(
        num_heads=3, head_dim=12, latent_dim=20, rope_dim=8, value_dim=16, query_rank=query_rank, rope_base=500.0,
        rope_interleaved=interleaved, down_bias=bias, out_bias=bias,
    )  # fmt: skip
    ours = LatentAttentionMixer(options, D_MODEL)
    copy(ours, latent_weights(theirs))
    x.requires_grad_()
    turned = deepseek.DeepseekV3RotaryEmbedding(config)(x, POSITIONS)
    assert_same_attention(ours, theirs(x, turned, UNSEEN)[0], x)


def test_latent_attention_without_rotation_is_that_of_kimi_linear(x: Tensor):
    from transformers import KimiLinearConfig

    from scripts.interop_oracles.models import without_fla

    with without_fla():
        from transformers.models.kimi_linear import modeling_kimi_linear as kimi
    config = KimiLinearConfig(
        hidden_size=D_MODEL, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=None, kv_lora_rank=16,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, attn_implementation="eager",
    )  # fmt: skip
    theirs = kimi.KimiLinearAttention(config, layer_idx=0).eval()
    randomise(theirs)
    ours = LatentAttentionMixer(
        LatentAttention(num_heads=2, head_dim=16, latent_dim=16, rope_dim=8, position="none"), D_MODEL
    )
    copy(ours, latent_weights(theirs))
    x.requires_grad_()
    assert_same_attention(ours, theirs(x, attention_mask=UNSEEN)[0], x)


def test_indexed_latent_attention_is_that_of_deepseek_v32(x: Tensor):
    from transformers import DeepseekV32Config
    from transformers.models.deepseek_v32 import modeling_deepseek_v32 as deepseek

    config = DeepseekV32Config(
        hidden_size=D_MODEL, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=12, kv_lora_rank=16,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, index_topk=9, index_n_heads=16, index_head_dim=12,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, attn_implementation="eager",
    )  # fmt: skip
    theirs = deepseek.DeepseekV32Attention(config, layer_idx=0).eval()
    randomise(theirs)
    options = IndexedLatentAttention(
        num_heads=2, head_dim=16, latent_dim=16, rope_dim=8, query_rank=12, top_k=9, index_heads=16, index_dim=12,
        rope_base=500.0, rope_interleaved=True,
    )  # fmt: skip
    ours = IndexedLatentAttentionMixer(options, D_MODEL)
    names = {"wq_b": "q_proj", "wk": "k_proj", "k_norm": "k_norm", "weights_proj": "weight_proj"}
    indexer = {
        f"indexer.{names[part]}.{kind}": weight
        for part, kind, weight in ((*name.split("."), w) for name, w in theirs.indexer.named_parameters())
    }
    copy(ours, latent_weights(theirs) | indexer)
    x.requires_grad_()
    turned = deepseek.DeepseekV32RotaryEmbedding(config)(x, POSITIONS)
    assert_same_attention(ours, theirs(x, turned, UNSEEN)[0], x)


def test_the_indexer_learns_the_attention_over_the_tokens_it_picks(x: Tensor):
    """The loss written out for every query, and nothing but the indexer moved by it."""
    options = IndexedLatentAttention(
        num_heads=2, head_dim=16, latent_dim=16, rope_dim=8, top_k=9, index_heads=4, index_dim=12, index_weight=0.5
    )
    ours = IndexedLatentAttentionMixer(options, D_MODEL)
    randomise(ours)
    context = Context()
    ours(x, None, context)
    q, k = ours._queries(x, Context()), ours._written_out(ours._latent(x, Context()))[0]
    index_q, weight = ours.indexer.queries(x, x, Context())
    index_k = ours.indexer.keys(x, Context())[:, :, 0]
    expected = torch.zeros(())
    for b in range(BATCH):
        for t in range(TOKENS):
            scores = (torch.relu(index_k[b, : t + 1] @ index_q[b, t].T * 12**-0.5) * weight[b, t]).sum(-1)
            scores = scores + 1e-30 * torch.arange(t + 1)
            picked = scores.topk(min(9, t + 1)).indices
            over_heads = torch.stack([k[b, picked, h] @ q[b, t, h] * 24**-0.5 for h in range(2)]).softmax(-1)
            wanted = over_heads.mean(0)
            expected = expected + (wanted * (wanted.log() - scores[picked].log_softmax(-1))).sum()
    (loss,) = context.losses
    torch.testing.assert_close(loss, 0.5 * expected / (BATCH * TOKENS))
    loss.backward()
    moved = {name.split(".")[0] for name, p in ours.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"indexer"}


def test_native_sparse_attention_adds_up_its_three_branches_query_by_query(x: Tensor):
    """Runs of 4 at strides of 2, blocks of 4: equations 5 to 12 of the paper, written out for one token and group."""
    options = NativeSparseAttention(
        num_heads=4, num_kv_heads=2, head_dim=16, compressed_stride=2, block_strides=2, top_k=4, window=6
    )
    ours = NativeSparseAttentionMixer(options, D_MODEL)
    randomise(ours)
    x.requires_grad_()
    q, k, v = ours.qkv(x, Context())
    gates = ours.gate_proj(x).sigmoid().unflatten(-1, (3, 4))
    k_runs, v_runs = (
        torch.stack([compress(y[:, n : n + 4]) for n in range(0, TOKENS - 3, 2)], dim=1)
        for compress, y in ((ours.k_compression, k), (ours.v_compression, v))
    )
    o = torch.zeros(BATCH, TOKENS, 4, 16)
    for b, t, group in product(range(BATCH), range(TOKENS), range(2)):
        heads = slice(2 * group, 2 * group + 2)
        queries = q[b, t, heads]
        past = max(0, (t - 3) // 2 + 1)
        compressed, weights = over(queries, k_runs[b, :past, 0, group], v_runs[b, :past, 0, group])
        of_block = torch.zeros(t // 4 + 1)
        for n, weight in enumerate(weights.sum(0).tolist()):
            for stride in (n, n + 1):  # run n lies in two strides, two strides make a block
                if stride // 2 < len(of_block):
                    of_block[stride // 2] += weight
        forced = {0, t // 4, max(t // 4 - 1, 0)}
        others = sorted(set(range(t // 4 + 1)) - forced, key=lambda n: -of_block[n])
        chosen = torch.isin(torch.arange(t + 1) // 4, torch.tensor([*forced, *others[: 4 - len(forced)]]))
        selected, _ = over(queries, k[b, : t + 1, group][chosen], v[b, : t + 1, group][chosen])
        near, _ = over(queries, k[b, max(0, t - 5) : t + 1, group], v[b, max(0, t - 5) : t + 1, group])
        g = gates[b, t, :, heads].unsqueeze(-1)
        o[b, t, heads] = g[0] * compressed + g[1] * selected + g[2] * near
    assert_same_attention(ours, ours.out_proj(o.flatten(2)), x)


def over(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of queries [G, 16] to all of keys and values [N, 16], and its weights."""
    weights = (queries @ keys.T * 0.25).softmax(-1)
    return weights @ values, weights


def dense(q: Tensor, k: Tensor, v: Tensor, sees: Tensor, bias: Tensor | None = None) -> Tensor:
    """Causal attention written out, q [B, T, Hq, D], under a mask [T, T] and with a bias [B, H, T, T] of the scores."""
    k, v = (y.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for y in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(~sees.tril(), float("-inf")).softmax(-1), v)


I, J = torch.arange(TOKENS).unsqueeze(1), torch.arange(TOKENS)
MASKS = {
    "chunked": ({"pattern": "chunked", "block_size": 8}, I // 8 == J // 8),
    "longformer": (
        {"block_size": 4, "local_blocks": 2, "global_blocks": 1},
        (I // 4 - J // 4 < 2) | (J < 4),
    ),
    "strided": (
        {"pattern": "strided", "block_size": 1, "local_blocks": 3, "stride": 5},
        (I - J < 3) | ((I - J) % 5 == 0),
    ),
    "dilated": (
        {"pattern": "dilated", "block_size": 1, "segment_blocks": 4, "stride": 2, "levels": 3},
        (I // 4 == J // 4) | ((I // 8 == J // 8) & ((I - J) % 2 == 0)) | ((I // 16 == J // 16) & ((I - J) % 4 == 0)),
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention_under_a_pattern_is_dense_attention_under_its_mask(x: Tensor, name: str):
    options, sees = MASKS[name]
    ours = PatternAttentionMixer(PatternAttention(num_heads=4, num_kv_heads=2, head_dim=16, **options), D_MODEL)
    randomise(ours)
    x.requires_grad_()
    assert_same_attention(ours, ours.out_proj(dense(*ours.qkv(x, Context()), sees).flatten(2)), x)


def test_random_blocks_are_the_same_for_every_length_and_as_many_as_asked_for(x: Tensor):
    options = PatternAttention(num_heads=2, head_dim=16, block_size=2, local_blocks=2, random_blocks=3)
    ours = PatternAttentionMixer(options, D_MODEL)
    randomise(ours)
    lists = [set(block_lists(options, i, i + 1)[0, 0, 0].tolist()) for i in range(TOKENS // 2 + 1)]
    assert [len(seen) for seen in lists] == [min(i + 1, 6) for i in range(TOKENS // 2 + 1)]
    assert all({0, i, max(i - 1, 0)} <= seen for i, seen in enumerate(lists))
    assert len({frozenset(i - block for block in seen) for i, seen in enumerate(lists)}) > 12
    sees = torch.tensor([[j // 2 in lists[i // 2] for j in range(TOKENS)] for i in range(TOKENS)])
    x.requires_grad_()
    assert_same_attention(ours, ours.out_proj(dense(*ours.qkv(x, Context()), sees).flatten(2)), x)


@pytest.mark.parametrize("name", MASKS)
def test_the_flops_of_a_pattern_count_the_pairs_of_its_mask(name: str):
    options, sees = MASKS[name]
    ours = PatternAttentionMixer(PatternAttention(num_heads=2, head_dim=16, **options), D_MODEL)
    projections = 2 * D_MODEL * 16 * 2 * 4
    for first, last in ((0, TOKENS), (5, 18), (11, 12)):
        pairs = int(sees.tril()[first:last].sum())
        assert ours.flops(last - first, first) == (last - first) * projections + 4 * pairs * 2 * 16


def test_forgetting_attention_takes_the_sum_of_log_gates_between_from_the_scores(x: Tensor):
    ours = ForgettingAttentionMixer(ForgettingAttention(num_heads=4, num_kv_heads=2, head_dim=16), D_MODEL)
    randomise(ours)
    x.requires_grad_()
    sums = torch.sigmoid(ours.gate_proj(x)).log().cumsum(1).transpose(1, 2)  # [B, H, T]
    everything = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    expected = dense(*ours.qkv(x, Context()), everything, sums.unsqueeze(3) - sums.unsqueeze(2))
    assert_same_attention(ours, ours.out_proj(expected.flatten(2)), x)


def test_alibi_takes_a_slope_times_the_distance_from_the_scores(x: Tensor):
    ours = ForgettingAttentionMixer(ForgettingAttention(num_heads=4, head_dim=16, fading="alibi"), D_MODEL)
    randomise(ours)
    x.requires_grad_()
    slopes = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256]).view(4, 1, 1)
    everything = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    expected = dense(*ours.qkv(x, Context()), everything, slopes * (J - I))
    assert_same_attention(ours, ours.out_proj(expected.flatten(2)), x)


def test_differential_attention_is_that_of_diffllama(x: Tensor):
    from transformers import DiffLlamaConfig
    from transformers.models.diffllama import modeling_diffllama as diffllama

    config = DiffLlamaConfig(
        hidden_size=D_MODEL, num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5,
        attention_bias=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        attn_implementation="eager",
    )  # fmt: skip
    theirs = diffllama.DiffLlamaAttention(config, layer_idx=3).eval()
    randomise(theirs)
    options = DifferentialAttention(
        num_heads=2, num_kv_heads=1, head_dim=32, norm_eps=1e-5, rope_base=500.0, lambda_init=theirs.lambda_init
    )
    ours = DifferentialAttentionMixer(options, D_MODEL)
    weights = {name: w for name, w in theirs.named_parameters() if name.startswith("lambda")}
    projections = [getattr(theirs, f"{name}_proj").weight for name in "qkv"]
    copy(ours, weights | {"qkv.linear.weight": torch.cat(projections), "out_proj.weight": theirs.o_proj.weight})
    x.requires_grad_()
    turned = diffllama.DiffLlamaRotaryEmbedding(config)(x, POSITIONS)
    assert_same_attention(ours, theirs(x, turned, UNSEEN)[0], x)


def test_keys_are_values_and_queries_grow_sharper_as_in_llama_4(x: Tensor):
    options = Attention(
        num_heads=2, head_dim=16, position="none", tie_kv=True, temperature_floor=8, temperature_scale=0.3
    )
    ours = AttentionMixer(options, D_MODEL)
    randomise(ours)
    x.requires_grad_()
    q, k = ours.qkv.linear(x).unflatten(-1, (4, 16)).chunk(2, dim=2)
    factor = 1 + 0.3 * torch.log1p(torch.floor((torch.arange(TOKENS) + 1.0) / 8)).view(-1, 1, 1)
    everything = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    assert_same_attention(ours, ours.out_proj(dense(q * factor, k, k, everything).flatten(2)), x)


def test_hashed_tokens_see_the_latest_ones_of_their_buckets_and_themselves(x: Tensor):
    options = HashAttention(num_heads=4, num_kv_heads=2, head_dim=16, num_hashes=2, num_buckets=8, top_k=5, seed=3)
    ours = HashAttentionMixer(options, D_MODEL)
    randomise(ours)
    x.requires_grad_()
    q, k, v = ours.qkv(x, Context())
    o = torch.zeros(BATCH, TOKENS, 4, 16)
    fewer = 0
    for b, t, group in product(range(BATCH), range(TOKENS), range(2)):
        heads = slice(2 * group, 2 * group + 2)
        directions = torch.cat((ours.directions, -ours.directions), dim=-1)  # [D, hashes, buckets]
        of_query = torch.einsum("d,dnr->nr", q[b, t, heads].sum(0), directions).argmax(-1)
        of_keys = torch.einsum("jd,dnr->jnr", k[b, :t, group], directions).argmax(-1)
        alike = (of_keys == of_query).any(-1).nonzero().flatten()
        seen = torch.cat((alike[-4:], torch.tensor([t])))
        fewer += len(seen) < min(5, t + 1)
        o[b, t, heads], _ = over(q[b, t, heads], k[b, seen, group], v[b, seen, group])
    assert 0 < fewer < BATCH * TOKENS * 2
    assert_same_attention(ours, ours.out_proj(o.flatten(2)), x)
