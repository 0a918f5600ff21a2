"""Attention against the implementations of others: PyTorch, transformers, and flash-linear-attention.

The last in a process of its own, because that package compiles its kernels on import, and here the interpreter is on.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from kernels import attention, attention_step, use_backend
from tests.kernels.closeness import assert_close_relative

TOKENS = 40
BACKENDS = ["reference", "portable"]


def heads(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def distance(keys=TOKENS):
    """Positions from a key to a query, [Tq, Tk]."""
    return torch.arange(TOKENS).unsqueeze(1) - torch.arange(keys)


def assert_same_with_gradients(backend, call, oracle, tensors):
    """`call` by our door and `oracle` by others, both from [B, T, H, D], give the same o and gradients."""
    with use_backend(backend):
        ours = call(*tensors)
    theirs = oracle(*tensors)
    do = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9))
    assert_close_relative(ours, theirs, 1e-5)
    pairs = (torch.autograd.grad(o, tensors, do) for o in (ours, theirs))
    for one, other in zip(*pairs, strict=True):
        assert_close_relative(one, other, 1e-5)


def by_sdpa(mask):
    def oracle(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)

    return oracle


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"causal": False}, lambda d, key: d == d),
        ({"window": 9}, lambda d, key: (d >= 0) & (d < 9)),
        ({"window": 9, "num_global": 3}, lambda d, key: (d >= 0) & ((d < 9) | (key < 3))),
        ({"prefix": 17}, lambda d, key: (d >= 0) | (key < 17)),
        ({"prefix": 17, "window": 5}, lambda d, key: ((d >= 0) & (d < 5)) | (key < 17)),
    ],
    ids=["bidirectional", "window", "window and global", "prefix", "prefix and window"],
)
def test_who_sees_whom_is_what_a_mask_of_torch_says(options, seen, backend):
    tensors = heads(0, (2, TOKENS, 4, 16), (2, TOKENS, 2, 16), (2, TOKENS, 2, 24))
    mask = seen(distance(), torch.arange(TOKENS))
    assert_same_with_gradients(backend, lambda *given: attention(*given, **options), by_sdpa(mask), tensors)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_caps_and_gates_are_score_modifications_of_flex_attention(backend):
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    q, k, v = (x.detach() for x in heads(1, *[(1, TOKENS, 2, 16)] * 3))
    gate = F.logsigmoid(torch.randn(1, TOKENS, 2, generator=torch.Generator().manual_seed(2)))
    sums = gate.cumsum(1)

    def modified(score, b, h, i, j):
        return 2.0 * torch.tanh(score / 2.0) + sums[b, i, h] - sums[b, j, h]

    def seen(b, h, i, j):
        return (i >= j) & ((i - j < 12) | (j < 4))

    mask = create_block_mask(seen, None, None, TOKENS, TOKENS, device="cpu")
    by_heads = (x.transpose(1, 2) for x in (q, k, v))
    theirs, further = flex_attention(*by_heads, score_mod=modified, block_mask=mask, return_aux=AuxRequest(lse=True))
    with use_backend(backend):
        options = {"softcap": 2.0, "window": 12, "num_global": 4, "log_forget": gate, "return_lse": True}
        o, lse = attention(q, k, v, **options)
    assert_close_relative(o, theirs.transpose(1, 2), 1e-5)
    assert_close_relative(lse, further.lse.transpose(1, 2), 1e-5)


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 9])
def test_sinks_are_those_of_gpt_oss(window, backend):
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    mask = (distance() >= 0) & (distance() < (window or TOKENS))

    def oracle(q, k, v, sink):
        module = SimpleNamespace(num_key_value_groups=4, sinks=sink, training=False)
        by_heads = (x.transpose(1, 2) for x in (q, k, v))
        return eager_attention_forward(module, *by_heads, additive(mask), 0.25)[0]

    shapes = ((2, TOKENS, 8, 16), (2, TOKENS, 2, 16), (2, TOKENS, 2, 16), (8,))
    assert_same_with_gradients(
        backend, lambda q, k, v, sink: attention(q, k, v, sink=sink, window=window), oracle, heads(3, *shapes)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_caps_are_those_of_gemma_2(backend):
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    def oracle(q, k, v):
        module = SimpleNamespace(num_key_value_groups=2, training=False)
        by_heads = (x.transpose(1, 2) for x in (q, k, v))
        return eager_attention_forward(module, *by_heads, additive(distance() >= 0), scaling=0.7, softcap=1.5)[0]

    tensors = heads(4, (2, TOKENS, 4, 16), (2, TOKENS, 2, 16), (2, TOKENS, 2, 16))
    assert_same_with_gradients(backend, lambda *given: attention(*given, scale=0.7, softcap=1.5), oracle, tensors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_latent_attention_is_that_of_deepseek_v3_whole_and_absorbed(backend):
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import eager_attention_forward

    latent, rope, nope, value, count = 32, 16, 24, 20, 4

    def oracle(q, k, v):
        module = SimpleNamespace(num_key_value_groups=1, training=False)
        by_heads = (x.transpose(1, 2) for x in (q, k, v))
        return eager_attention_forward(module, *by_heads, additive(distance() >= 0), scaling=0.2)[0]

    # Keys and values of all heads are read from one latent vector a token; the rotated part of a key is shared.
    c, shared, up_k, up_v = (
        x.detach()
        for x in heads(5, (1, TOKENS, latent), (1, TOKENS, rope), (count, nope, latent), (count, value, latent))
    )
    (q,) = heads(6, (1, TOKENS, count, nope + rope))
    k = torch.cat((torch.einsum("btl,hnl->bthn", c, up_k), shared.unsqueeze(2).expand(-1, -1, count, -1)), dim=-1)
    v = torch.einsum("btl,hvl->bthv", c, up_v)
    assert_same_with_gradients(
        backend, lambda *given: attention(*given, scale=0.2), oracle, [q, k.requires_grad_(), v.requires_grad_()]
    )
    every = q.detach()
    absorbed = torch.cat((torch.einsum("bthn,hnl->bthl", every[..., :nope], up_k), every[..., nope:]), dim=-1)
    cache = torch.cat((c, shared), dim=-1).unsqueeze(2)
    with use_backend(backend):
        o = attention_step(absorbed[:, -1], cache, None, TOKENS, value_size=latent, scale=0.2)
        whole = attention(absorbed, cache, cache[..., :latent], scale=0.2)
    expected = oracle(q, k, v).detach()
    assert_close_relative(torch.einsum("bhl,hvl->bhv", o, up_v), expected[:, -1], 1e-5)
    assert_close_relative(torch.einsum("bthl,hvl->bthv", whole, up_v), expected, 1e-5)


NAIVE = """
import sys, torch
from fla.ops.attn.naive import naive_parallel_attn
from fla.ops.forgetting_attn.naive import naive_forgetting_attn

given = torch.load(sys.argv[1])
q, k, v, gate, sink = (given[name] for name in ("q", "k", "v", "gate", "sink"))
answers = {
    "sink": naive_parallel_attn(q, k, v, sink_bias=sink)[0],
    "window": naive_parallel_attn(q, k, v, window_size=7)[0],
    "both directions": naive_parallel_attn(q, k, v, causal=False)[0],
    "forget": naive_forgetting_attn(q, k, v, gate),
}
torch.save(answers, sys.argv[2])
"""


def test_the_naive_functions_of_flash_linear_attention_agree(tmp_path):
    shapes = ((2, 20, 4, 16), (2, 20, 2, 16), (2, 20, 2, 24), (2, 20, 4), (4,))
    q, k, v, gate, sink = (x.detach() for x in heads(7, *shapes))
    gate = F.logsigmoid(gate)
    torch.save({"q": q, "k": k, "v": v, "gate": gate, "sink": sink}, tmp_path / "given.pt")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", NAIVE, str(tmp_path / "given.pt"), str(tmp_path / "answers.pt")]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    options = {
        "sink": {"sink": sink},
        "window": {"window": 7},
        "both directions": {"causal": False},
        "forget": {"log_forget": gate},
    }
    for name, answer in torch.load(tmp_path / "answers.pt").items():
        with use_backend("reference"):
            assert_close_relative(attention(q, k, v, **options[name]), answer, 1e-5)
