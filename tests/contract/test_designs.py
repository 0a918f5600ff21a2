"""The contract of a whole model, held over every reference design and over samples of every space."""

from pathlib import Path

import pytest
import torch

from nas.architecture import Scale, read_architecture, resized
from nas.compile import compile_architecture
from nas.count import CannotMatch, count_parameters, match_parameters
from scripts.settings import SearchSettings
from search_spaces import SPACES
from tests.test_deployment import RandomTrial

DESIGNS = sorted((Path(__file__).resolve().parents[2] / "conf" / "designs").glob("*.yaml"))
TOKENS = 24


@pytest.fixture(params=DESIGNS, ids=lambda path: path.stem)
def model(request):
    """A reference design at an eighth of its width, with windows shorter than the sequence."""
    small = resized(read_architecture(request.param), Scale(width=0.125, head_dim=0.5, tokens=1 / 64, vocab_size=19))
    return compile_architecture(small, seed=0).eval()


@pytest.fixture
def tokens():
    return torch.randint(19, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def test_a_later_token_changes_no_earlier_logit(model, tokens):
    changed = tokens.clone()
    changed[:, 15] = (changed[:, 15] + 1) % 19
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :15], after[:, :15], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, 15:], after[:, 15:], atol=1e-4)


def test_decoding_token_by_token_gives_the_logits_of_one_pass(model, tokens):
    with torch.no_grad():
        whole = model(tokens)
        _, state = model.prefill(tokens[:, :7], model.init_state(2, TOKENS))
        for position in range(7, TOKENS):
            logits, state = model.step(tokens[:, position], state)
            torch.testing.assert_close(logits, whole[:, position], atol=2e-4, rtol=2e-4)


def test_every_parameter_of_a_design_gets_a_gradient(model, tokens):
    model(tokens).logsumexp(-1).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("space", sorted(SPACES))
def test_every_sample_of_a_space_compiles_and_is_counted_right(space):
    settings = SearchSettings.from_overrides([f"search_space={space}"])
    compiled = 0
    for seed in range(30):
        sampled = settings.space(RandomTrial(seed))
        try:
            proxy = match_parameters(sampled, settings.space.params)
        except CannotMatch:
            proxy = sampled
        with torch.device("meta"):
            model = compile_architecture(proxy)
        assert sum(p.numel() for p in model.parameters()) == count_parameters(proxy)
        compiled += 1
    assert compiled == 30
