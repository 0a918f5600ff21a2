"""How sublayers join the residual stream: against the formulas, and through files, counts, ids and resizing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    Mamba2,
    Scale,
    canonical,
    canonical_id,
    from_dict,
    resized,
    to_dict,
)
from nas.compile import compile_architecture
from nas.context import Context
from nas.count import count_parameters
from nas.model import Model
from nas.residual import ResidualBlock

D, VOCAB = 32, 40
ATTENTION, GLU = Attention(num_heads=2, head_dim=16), Glu(d_ff=24)
PLAIN = Architecture(d_model=D, vocab_size=VOCAB, blocks=(Block(mixer=ATTENTION, ffn=GLU),) * 2)

WIRED = Architecture(
    d_model=D,
    vocab_size=VOCAB,
    norm="layernorm",
    norm_eps=1e-3,
    norm_bias=True,
    embedding_scale="sqrt_d_model",
    embedding_norm=True,
    logits_scale=0.25,
    logits_soft_cap=2.0,
    blocks=(
        Block(mixer=ATTENTION, ffn=GLU, mixer_norm="post", ffn_norm="sandwich", mixer_scale=0.5),
        Block(mixer=Mamba2(num_heads=2, head_dim=16, state_dim=8), mixer_norm="residual", mixer_skip=3.5),
        Block(ffn=GLU, ffn_norm="post", ffn_skip=0.5, ffn_scale=2.0),
        Block(mixer=ATTENTION, ffn=GLU, parallel=True, mixer_skip=0.75, ffn_scale=0.5),
    ),
)


def model_of(architecture: Architecture) -> Model:
    """With weights at which every norm, scale and part matters."""
    model = compile_architecture(architecture, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))


def stream(block: ResidualBlock, x: Tensor) -> Tensor:
    return block(x, None, Context())[0]


def mixed(block: ResidualBlock, x: Tensor) -> Tensor:
    assert block.mixer is not None
    return block.mixer(x)[0]


def fed(block: ResidualBlock, x: Tensor) -> Tensor:
    assert block.ffn is not None
    return block.ffn(x)


@torch.no_grad()
@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "residual"])
def test_a_norm_stands_where_the_block_says(placement):
    wiring = Block(
        mixer=ATTENTION, ffn=GLU, mixer_norm=placement, ffn_norm=placement,
        mixer_skip=0.5, mixer_scale=2.0, ffn_skip=3.0, ffn_scale=0.25,
    )  # fmt: skip
    block = model_of(replace(PLAIN, blocks=(wiring,))).blocks[0]
    x = torch.randn(2, 5, D)

    def joined(x: Tensor, part, before: nn.Module, after: nn.Module, skip: float, scale: float) -> Tensor:
        normed = before(x)
        past = normed if placement == "residual" else x
        return {
            "pre": lambda: skip * x + scale * part(block, normed),
            "post": lambda: skip * x + scale * after(part(block, x)),
            "sandwich": lambda: skip * x + scale * after(part(block, normed)),
            "residual": lambda: skip * past + scale * part(block, normed),
        }[placement]()

    expected = joined(x, mixed, block.mixer_norm, block.mixer_post_norm, 0.5, 2.0)
    expected = joined(expected, fed, block.ffn_norm, block.ffn_post_norm, 3.0, 0.25)
    torch.testing.assert_close(stream(block, x), expected)
    norms = {name.split(".")[0] for name, _ in block.named_parameters()} - {"mixer", "ffn"}
    before, after = {"mixer_norm", "ffn_norm"}, {"mixer_post_norm", "ffn_post_norm"}
    assert norms == {"post": after, "sandwich": before | after}.get(placement, before)


@torch.no_grad()
def test_a_parallel_block_reads_one_norm_twice():
    block = model_of(WIRED).blocks[3]
    x = torch.randn(2, 5, D)
    normed = block.mixer_norm(x)
    torch.testing.assert_close(stream(block, x), 0.75 * x + mixed(block, normed) + 0.5 * fed(block, normed))
    assert not list(block.ffn_norm.parameters())


@torch.no_grad()
def test_layer_norm_subtracts_the_mean_and_adds_its_bias():
    norm = model_of(WIRED).norm
    x = torch.randn(3, D)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


@torch.no_grad()
def test_embeddings_and_logits_are_scaled_and_logits_capped(tokens: Tensor):
    model = model_of(PLAIN)
    raw = model(tokens)
    model.logits_scale, model.logits_soft_cap = 0.25, 2.0
    torch.testing.assert_close(model(tokens), 2.0 * (raw * 0.25 / 2.0).tanh())
    model.logits_scale, model.logits_soft_cap = 1.0, None
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.embedding_scale = 3.0
    model(tokens)
    torch.testing.assert_close(seen[0], 3.0 * model.embedding(tokens))
    model.embedding_norm = model.norm
    model(tokens)
    torch.testing.assert_close(seen[1], model.norm(3.0 * model.embedding(tokens)))
    assert compile_architecture(WIRED).embedding_scale == D**0.5


@torch.no_grad()
def test_decoding_a_wired_network_gives_the_logits_of_one_pass(tokens: Tensor):
    model = model_of(WIRED)
    expected = model(tokens)
    logits, state = model.prefill(tokens[:, :4], model.init_state(2, 9))
    torch.testing.assert_close(logits, expected[:, 3], rtol=1e-4, atol=1e-5)
    for position in range(4, 9):
        logits, state = model.step(tokens[:, position], state)
        torch.testing.assert_close(logits, expected[:, position], rtol=1e-4, atol=1e-5)


def test_every_parameter_of_a_wired_network_gets_a_gradient(tokens: Tensor):
    model = model_of(WIRED)
    model(tokens).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("architecture", [PLAIN, WIRED, replace(WIRED, norm_bias=False)])
def test_the_parameters_of_every_norm_are_counted(architecture: Architecture):
    model = compile_architecture(architecture)
    assert count_parameters(architecture) == sum(p.numel() for p in model.parameters())


def test_wiring_survives_the_file_and_is_not_written_at_its_defaults():
    assert from_dict(to_dict(WIRED)) == WIRED
    data = to_dict(PLAIN)
    assert set(data) == {"name", "d_model", "vocab_size", "loss", "tie_embeddings", "blocks"}
    assert set(data["blocks"][0]) == {"repeat", "mixer", "ffn"}


def test_wiring_survives_resizing():
    large = resized(WIRED, Scale(width=2, depth=2))
    for before, after in zip(WIRED.blocks * 2, large.blocks, strict=True):
        assert replace(after, mixer=before.mixer, ffn=before.ffn) == before
    assert compile_architecture(large).embedding_scale == (2 * D) ** 0.5


def test_wiring_changes_the_id_only_where_it_changes_the_function():
    apart = replace(
        PLAIN,
        blocks=(Block(mixer=ATTENTION, mixer_scale=0.5), Block(ffn=GLU, ffn_norm="post"), PLAIN.blocks[1]),
    )
    together = replace(
        PLAIN, blocks=(Block(mixer=ATTENTION, ffn=GLU, mixer_scale=0.5, ffn_norm="post"), PLAIN.blocks[1])
    )
    assert canonical_id(apart) == canonical_id(together) != canonical_id(PLAIN)
    idle = replace(PLAIN, blocks=(Block(mixer=ATTENTION, ffn_norm="post", ffn_scale=0.5), Block(ffn=GLU)))
    assert canonical_id(idle) == canonical_id(replace(PLAIN, blocks=PLAIN.blocks[:1]))
    named = replace(PLAIN, embedding_scale="sqrt_d_model")
    assert canonical_id(named) == canonical_id(replace(PLAIN, embedding_scale=D**0.5)) != canonical_id(PLAIN)
    assert canonical(canonical(WIRED)) == canonical(WIRED)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mixer_norm": "before"}, "mixer_norm is 'before'"),
        ({"parallel": True, "ffn": {"kind": "none"}}, "A parallel block needs a mixer and an FFN"),
        ({"parallel": True, "ffn_norm": "post"}, "has one norm, before both of its parts"),
        ({"mixer_scale": "half"}, "mixer_scale must be of type float"),
        ({"mixer_nrom": "pre"}, "Did you mean 'mixer_norm'"),
    ],
)
def test_wiring_that_cannot_be_is_refused_in_one_sentence(changes, sentence):
    data = to_dict(PLAIN)
    data["blocks"][0] |= changes
    with pytest.raises(ArchitectureError, match=sentence) as caught:
        from_dict(data)
    assert str(caught.value).startswith("blocks[0]")


def test_a_root_mean_square_norm_has_no_bias():
    with pytest.raises(ArchitectureError, match="norm_bias needs norm: layernorm"):
        replace(PLAIN, norm_bias=True)
