"""Masked diffusion: what is masked and asked, and that loss and score are the bound that they say they are."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2
from nas.compile import compile_architecture
from nas.losses import MaskedDiffusion, causal, loss_of
from nas.tasks.base import IGNORED
from nas.tasks.scoring import answers
from nas.training.predictor import Predictor, as_scored

MASK = 7


class Unigrams(nn.Module):
    """Says the same of every place, whatever it reads."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, -1)


class Neighbours(nn.Module):
    """Says of a place what a table makes of the tokens left and right of it, masks among them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(MASK + 1, MASK + 1, MASK, generator=torch.Generator().manual_seed(2)))

    def forward(self, tokens):
        padded = F.pad(tokens, (1, 1))
        return self.table[padded[:, :-2], padded[:, 2:]]


def text(sequences, length):
    whole = torch.randint(MASK, (sequences, length + 1), generator=torch.Generator().manual_seed(1))
    return whole, whole[:, :-1], whole[:, 1:]


def model_of(mixer):
    blocks = (Block(mixer=mixer, ffn=Glu(d_ff=32)),)
    return compile_architecture(
        Architecture(d_model=32, vocab_size=MASK, loss="masked_diffusion", blocks=blocks), seed=0
    )


def test_what_follows_is_masked_and_asked_for_at_its_own_place():
    whole, tokens, targets = text(64, 40)
    targets = targets.clone()
    targets[:, :10] = IGNORED
    asked = MaskedDiffusion(MASK).ask(tokens, targets, torch.Generator().manual_seed(0))
    masked = asked.tokens == MASK
    assert asked.tokens.shape == (64, 41) and not masked[:, :11].any()
    torch.testing.assert_close(asked.tokens, whole.masked_fill(masked, MASK))
    torch.testing.assert_close(asked.targets, whole.masked_fill(~masked, IGNORED))
    shares = masked[:, 11:].float().mean(1).sort().values  # evenly spread from none to all
    torch.testing.assert_close(shares, torch.arange(64) / 64, atol=0.3, rtol=0)
    assert shares[0] < 0.1 and shares[-1] > 0.9


def test_answers_that_stand_nowhere_are_asked_for_without_masks():
    tokens, targets = torch.randint(MASK, (4, 9)), torch.full((4, 9), IGNORED)
    targets[:, 6] = (tokens[:, 7] + 1) % MASK
    loss = MaskedDiffusion(MASK)
    asked = loss.ask(tokens, targets, torch.Generator())
    assert asked.tokens is tokens and asked.targets is targets and asked.weights is None
    x, head = torch.randn(4, 9, 16), torch.randn(MASK, 16)
    torch.testing.assert_close(loss(x, head, asked)[0], causal(x, head, targets)[0])
    several = loss.ask(tokens, tokens.unsqueeze(-1), torch.Generator())
    assert several.weights is None, "several answers at a place do not follow"


def test_a_sequence_that_asks_for_nothing_counts_nothing():
    _, tokens, targets = text(2, 12)
    targets = targets.clone()
    targets[1] = IGNORED
    bits, _ = answers(Predictor(Neighbours(), MASK), [(tokens, targets)])
    assert bits[0].sum() > 0 and (bits[1] == 0).all()
    nothing = MaskedDiffusion(MASK).ask(tokens, torch.full_like(targets, IGNORED), torch.Generator())
    assert nothing.weights is None or nothing.weights.isfinite().all()


def test_the_score_of_a_sequence_depends_on_it_alone():
    _, tokens, targets = text(6, 12)
    scored = Predictor(Neighbours(), MASK)
    whole, _ = answers(scored, [(tokens, targets)])
    parts, _ = answers(scored, [(tokens[:1], targets[:1]), (tokens[1:], targets[1:])])
    np.testing.assert_allclose(whole, parts, rtol=1e-6)


def test_the_loss_of_one_that_knows_only_frequencies_is_their_cross_entropy_on_average():
    _, tokens, targets = text(64, 256)
    logits, loss, generator = torch.linspace(-1, 1, MASK), loss_of(MASK), torch.Generator().manual_seed(0)
    found = []
    for _ in range(50):
        asked = loss.ask(tokens, targets, generator)
        x = torch.ones(*asked.tokens.shape, 1)
        found.append(loss(x, logits.unsqueeze(1), asked)[0].item())
    expected = F.cross_entropy(logits.expand(targets.numel(), -1), targets.flatten()).item()
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 50**0.5)
    assert np.std(found) < 0.5 * expected


def test_the_score_of_one_that_knows_only_frequencies_is_exactly_their_cross_entropy():
    _, tokens, _ = text(3, 20)
    tokens = torch.full_like(tokens, 2)  # of like tokens any l of n weigh n / l times the same
    logits = torch.linspace(-1, 1, MASK).tolist()
    bits, right = answers(Predictor(Unigrams(logits), MASK), [(tokens, tokens)])
    expected = -20 * torch.tensor(logits).log_softmax(0)[2].item() / np.log(2)
    np.testing.assert_allclose(bits.sum(1), expected, rtol=1e-5)
    assert right.shape == (3, 20) and not right.any()


def test_the_score_is_the_mean_over_all_ways_to_mask():
    whole, tokens, targets = text(1, 4)
    model = Neighbours()
    expected = torch.zeros(4)
    for count in range(1, 5):
        ways = list(combinations(range(1, 5), count))
        for way in ways:
            read = whole.clone()
            read[:, list(way)] = MASK
            nats = F.cross_entropy(model(read)[0], whole[0], reduction="none")
            for place in way:
                expected[place - 1] += nats[place] * 4 / count / len(ways) / 4
    bits, right = answers(Predictor(model, MASK, draws=8000), [(tokens, targets)])
    np.testing.assert_allclose(bits[0] * np.log(2), expected.detach().numpy(), rtol=0.05)
    read = whole.clone()
    read[:, 1:] = MASK
    assert right[0].tolist() == (model(read).argmax(-1) == whole)[0, 1:].tolist()


@pytest.mark.parametrize(
    "mixer", [Attention(num_heads=2, head_dim=16, direction="both"), Mamba2(num_heads=2, head_dim=16, direction="both")]
)
def test_the_score_is_the_same_every_time_and_a_mask_is_never_the_answer(mixer):
    _, tokens, targets = text(2, 12)
    model = model_of(mixer)
    assert model(tokens).shape == (2, 12, MASK)
    scored = as_scored(model)
    once, again = (answers(scored, [(tokens, targets)])[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (once >= 0).all() and once.sum() > 0


def test_a_causal_model_is_scored_as_it_is():
    blocks = (Block(mixer=Attention(num_heads=2, head_dim=16)),)
    model = compile_architecture(Architecture(d_model=32, vocab_size=MASK, blocks=blocks), seed=0)
    assert as_scored(model) is model and model.mask_token is None
