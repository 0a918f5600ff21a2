"""Our layers against the implementations of transformers, with the same weights, where there is a counterpart.

The PyTorch paths of transformers run on the CPU; a layer of ours that differs from the published one is found here.
"""

import pytest
import torch
from torch import Tensor, nn

from nas.architecture import Architecture, Attention, Block, GatedDeltaNet, Glu, Mamba1, Mamba2
from nas.compile import compile_architecture
from nas.context import Context
from nas.mixers.base import Mixer
from nas.mixers.gated_deltanet import GatedDeltaNetMixer
from nas.mixers.mamba1 import Mamba1Mixer
from nas.mixers.mamba2 import Mamba2Mixer
from scripts.interop_oracles.models import without_fla
from tests.alike import copy, randomise

D_MODEL, BATCH, TOKENS = 32, 2, 37


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, TOKENS, D_MODEL)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.detach().abs().max().item())


def assert_same_layer(ours: Mixer, theirs: nn.Module, x: Tensor) -> None:
    """The same outputs, and the same gradient of the input."""
    x = x.clone().requires_grad_()
    outputs = [ours(x)[0], theirs(x)]
    assert_same(*outputs)
    readout = torch.randn_like(x)
    assert_same(*(torch.autograd.grad((y * readout).sum(), x)[0] for y in outputs))


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_with_glu_is_llama(kv_heads: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=60,
        hidden_size=D_MODEL,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    theirs = LlamaForCausalLM(config).eval()
    randomise(theirs)
    mixer = Attention(num_heads=4, num_kv_heads=kv_heads, head_dim=16, rope_base=5000.0)
    blocks = (Block(mixer=mixer, ffn=Glu(d_ff=48)),) * 2
    ours = compile_architecture(Architecture(d_model=D_MODEL, vocab_size=60, tie_embeddings=False, blocks=blocks))
    weights = {
        "embedding.weight": theirs.model.embed_tokens.weight,
        "norm.weight": theirs.model.norm.weight,
        "head.weight": theirs.lm_head.weight,
    }
    for i, layer in enumerate(theirs.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        qkv = [projection.weight for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
        weights |= {
            f"blocks.{i}.mixer_norm.weight": layer.input_layernorm.weight,
            f"blocks.{i}.mixer.qkv.linear.weight": torch.cat(qkv),
            f"blocks.{i}.mixer.out_proj.weight": attention.o_proj.weight,
            f"blocks.{i}.ffn_norm.weight": layer.post_attention_layernorm.weight,
            f"blocks.{i}.ffn.in_proj.weight": torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)),
            f"blocks.{i}.ffn.out_proj.weight": mlp.down_proj.weight,
        }
    copy(ours, weights)
    tokens = torch.randint(60, (BATCH, TOKENS))
    assert_same(ours(tokens), theirs(tokens).logits)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    assert torch.equal(ours.generate(tokens, 6), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba2_is_that_of_transformers(x: Tensor, groups: int):
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer as Theirs

    config = Mamba2Config(
        hidden_size=D_MODEL, num_heads=4, head_dim=16, expand=2, state_size=8, n_groups=groups, conv_kernel=4,
        num_hidden_layers=1, chunk_size=16, layer_norm_epsilon=1e-6,
    )  # fmt: skip
    theirs = Theirs(config, layer_idx=0).eval()
    randomise(theirs)
    ours = Mamba2Mixer(Mamba2(num_heads=4, head_dim=16, state_dim=8, num_groups=groups), D_MODEL)
    weights = dict(theirs.named_parameters())
    weights["conv.filter"], weights["conv.bias"] = weights.pop("conv1d.weight").squeeze(1), weights.pop("conv1d.bias")
    copy(ours, weights)
    assert_same_layer(ours, theirs, x)


def test_mamba1_is_that_of_transformers(x: Tensor):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer as Theirs

    config = MambaConfig(hidden_size=D_MODEL, state_size=4, expand=2, conv_kernel=4, num_hidden_layers=1)
    theirs = Theirs(config, layer_idx=0).eval()
    a_log = theirs.A_log.detach().clone()
    randomise(theirs)
    theirs.A_log.data.copy_(a_log)
    ours = Mamba1Mixer(Mamba1(num_heads=4, head_dim=16, state_dim=4), D_MODEL)
    torch.testing.assert_close(ours.A_log, a_log, check_dtype=True, msg="the published initialisation is A_n = -n")
    weights = dict(theirs.named_parameters())
    weights["conv.filter"], weights["conv.bias"] = weights.pop("conv1d.weight").squeeze(1), weights.pop("conv1d.bias")
    weights["dt_bias"] = weights.pop("dt_proj.bias")
    copy(ours, weights)
    assert_same_layer(ours, theirs, x)


def test_gated_deltanet_is_that_of_qwen3_next(x: Tensor):
    from transformers import Qwen3NextConfig

    with without_fla():
        from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet as Theirs

    heads, key, value = 3, 8, 16
    config = Qwen3NextConfig(
        hidden_size=D_MODEL, num_hidden_layers=1, layer_types=["linear_attention"], linear_num_key_heads=heads,
        linear_num_value_heads=heads, linear_key_head_dim=key, linear_value_head_dim=value, linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6,
    )  # fmt: skip
    theirs = Theirs(config, layer_idx=0).eval()
    randomise(theirs)
    ours = GatedDeltaNetMixer(GatedDeltaNet(num_heads=heads, head_dim=value, key_dim=key), D_MODEL)
    # Theirs are interleaved by head, ours are whole: q of all heads, then k, v, z; then b and a.
    by_head = theirs.in_proj_qkvz.weight.unflatten(0, (heads, -1)).split((key, key, value, value), dim=1)
    gates = theirs.in_proj_ba.weight.unflatten(0, (heads, 2)).unbind(1)
    weights = {
        "in_proj.weight": torch.cat([*(part.flatten(0, 1) for part in by_head), *gates]),
        "conv.filter": theirs.conv1d.weight.squeeze(1),
        "A_log": theirs.A_log,
        "dt_bias": theirs.dt_bias,
        "norm.weight": theirs.norm.weight,
        "out_proj.weight": theirs.out_proj.weight,
    }
    copy(ours, weights)
    assert_same_layer(ours, theirs, x)
    state = ours.init_state(BATCH, TOKENS, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for position in range(TOKENS):
            y, state = ours.step(x[:, position], state, Context(position=position))
        assert_same(y, theirs(x)[:, -1])
