"""Texts that are continued by denoising."""

import pytest
import torch

from nas.architecture import Architecture, Attention, Block, Glu, Moe
from nas.compile import compile_architecture
from nas.denoising import continued

VOCAB = 5


def certain(order, vocab=VOCAB):
    """Logits that say token (place mod vocab) everywhere, the surer the earlier a place stands in `order`."""

    def logits_of(tokens, last):
        read.append(tokens.clone())
        places = torch.arange(tokens.shape[1])[-last:]
        sure = torch.tensor([10.0 - order.index(p % len(order)) for p in places.tolist()])
        return (torch.eye(vocab)[places % vocab] * sure.unsqueeze(1)).expand(len(tokens), -1, -1)

    read = []
    return logits_of, read


def test_the_surest_masks_are_replaced_first_and_block_after_block():
    logits_of, read = certain([0, 3, 1, 2])
    found = continued(logits_of, VOCAB, torch.zeros(2, 4, dtype=torch.int64), 6, block=4)
    assert found.tolist() == [[0, 0, 0, 0, 4, 0, 1, 2, 3, 4]] * 2
    shown = ["".join("_" if token == VOCAB else str(token) for token in tokens[0].tolist()) for tokens in read]
    assert shown == ["0000____", "00004___", "00004__2", "000040_2", "00004012__", "000040123_"]


def test_a_pass_may_fix_several_tokens():
    logits_of, read = certain([0, 1, 2, 3])
    continued(logits_of, VOCAB, torch.zeros(1, 4, dtype=torch.int64), 7, block=4, per_pass=2)
    assert len(read) == 4 and read[-1].shape == (1, 11)


@pytest.mark.parametrize("given", [{"block": 0}, {"per_pass": 0}])
def test_no_tokens_at_a_time_are_refused(given):
    with pytest.raises(ValueError, match="block and per_pass must be at least 1"):
        continued(certain([0])[0], VOCAB, torch.zeros(1, 1, dtype=torch.int64), 1, **given)


@pytest.fixture
def model():
    ffn = Moe(num_experts=4, top_k=2, d_ff=8, choice="experts")
    blocks = (Block(mixer=Attention(num_heads=2, head_dim=16, direction="both"), ffn=ffn), Block(ffn=Glu(d_ff=8)))
    return compile_architecture(Architecture(d_model=32, vocab_size=29, loss="masked_diffusion", blocks=blocks), seed=0)


def test_a_model_that_sees_both_ways_writes_texts_without_masks(model):
    tokens = torch.randint(29, (2, 7))
    written = model.generate(tokens, 40)
    assert written.shape == (2, 47) and torch.equal(written[:, :7], tokens) and (written < 29).all()
    torch.manual_seed(0)
    assert not torch.equal(model.generate(tokens, 40, temperature=2.0), written)


def test_a_model_that_sees_both_ways_has_no_step(model):
    tokens = torch.randint(29, (2, 7))
    logits, state = model.prefill(tokens)
    torch.testing.assert_close(logits, model(tokens)[:, -1])
    torch.testing.assert_close(model(tokens, last=3), model(tokens)[:, -3:])
    for go_on in (lambda: model.step(tokens[:, 0], model.init_state(2, 9)), lambda: model.prefill(tokens, state)):
        with pytest.raises(ValueError, match=r"reads sequences whole|holds 7 of at most 7"):
            go_on()
