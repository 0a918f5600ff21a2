"""Models that transformers saved compute the same numbers as ours: logits, decoding, generation, loss and gradients."""

import pytest
import torch
import torch.nn.functional as F

from nas.architecture import Architecture
from nas.count import count_parameters
from nas.interop import load_pretrained
from nas.model import Model
from tests.interop.oracles import NEW_TOKENS, ORACLES, TOKENS, saved, saved_gradients, tokens, with_zeros


@pytest.fixture(scope="module", params=ORACLES, ids=list(ORACLES))
def pair(request, tmp_path_factory):
    """(theirs, the directory they are saved in, our architecture, ours)."""
    theirs = ORACLES[request.param].build()
    directory = saved(theirs, tmp_path_factory.mktemp("theirs"))
    return theirs, directory, *load_pretrained(directory)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.detach().abs().max().item())


@torch.no_grad()
def test_logits_of_a_whole_sequence_are_the_same(pair):
    theirs, _, architecture, ours = pair
    expected = theirs(tokens()).logits
    assert expected.std() > 0.05, "an oracle whose logits are alike tells nothing"
    torch.testing.assert_close(ours(tokens()), expected, rtol=0, atol=1e-4)
    assert isinstance(architecture, Architecture) and isinstance(ours, Model) and not ours.training


@torch.no_grad()
def test_logits_of_decoding_token_by_token_are_the_same(pair):
    theirs, _, _, ours = pair
    expected = theirs(tokens()).logits
    logits, state = ours.prefill(tokens()[:, :9], ours.init_state(2, TOKENS))
    torch.testing.assert_close(logits, expected[:, 8], rtol=0, atol=1e-4)
    for position in range(9, TOKENS):
        logits, state = ours.step(tokens()[:, position], state)
        torch.testing.assert_close(logits, expected[:, position], rtol=0, atol=1e-4)


@torch.no_grad()
def test_greedy_generation_continues_with_the_same_tokens(pair):
    theirs, _, _, ours = pair
    prompt = tokens()[:, :7]
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options["use_cache"] = False  # the cached step of Nemotron-H forgets the least step size, and differs from itself
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert torch.equal(ours.generate(prompt, NEW_TOKENS), expected)


def test_loss_and_gradients_are_the_same(pair, tmp_path):
    theirs, directory, _, ours = pair
    read = tokens()
    losses = []
    for model, logits in ((ours, ours(read)), (theirs, theirs(read).logits)):
        model.zero_grad()
        losses.append(F.cross_entropy(logits[:, :-1].flatten(0, 1), read[:, 1:].flatten()))
        losses[-1].backward()
    assert_same(losses[0], losses[1])
    kept = {name: parameter.detach().clone() for name, parameter in theirs.named_parameters()}
    # Loading is affine in the tensors, so gradients go the way of weights, less what zeros come to.
    gradients = dict(load_pretrained(saved_gradients(theirs, tmp_path / "gradients"))[1].named_parameters())
    zeros = dict(load_pretrained(with_zeros(directory, tmp_path / "zeros"))[1].named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(kept[name])
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert_same(parameter.grad, gradients[name] - zeros[name])


def test_every_parameter_is_taken_and_counted(pair):
    theirs, _, architecture, ours = pair
    assert count_parameters(architecture) == sum(p.numel() for p in ours.parameters())
    assert count_parameters(architecture) == sum(p.numel() for p in theirs.parameters())
