"""The contract of a whole model over random samples of the spaces: 200 in all, more with `--samples 5000`."""

import pytest
import torch
from torch import Tensor

from nas.architecture import Architecture, canonical_id
from nas.compile import compile_architecture
from nas.context import Context
from nas.count import count_parameters
from nas.model import Model
from scripts.settings import SearchSettings
from search_spaces import SPACES, RandomTrial
from tests.contract.smaller import VOCAB, small

READ, TOKENS = 8, 11


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("space", sorted(SPACES))
def test_every_sample_of_a_space_is_causal_decodes_and_learns(space: str, tokens: Tensor, request):
    settings = SearchSettings.from_overrides([f"search_space={space}"])
    samples = request.config.getoption("--samples") // len(SPACES)
    assert samples, "each space needs a sample"
    seen: set[Architecture] = set()
    for seed in range(samples):
        architecture = small(settings.space(RandomTrial(seed)), width=32, head_dim=16, window=4)
        if architecture in seen:  # small, it has one of each block
            continue
        seen.add(architecture)
        try:
            keeps_the_contract(architecture, tokens)
        except AssertionError as error:
            raise AssertionError(f"sample {seed} of {space}: {architecture}") from error


@pytest.mark.parametrize("space", sorted(SPACES))
def test_samples_for_masked_diffusion_see_both_ways_learn_and_have_parameters(space: str, tokens: Tensor):
    overrides = [f"search_space={space}", "search_space.loss=masked_diffusion"]
    if space == "moe":
        overrides.append("search_space.choice=[scores,hash,experts]")
    of_space = SearchSettings.from_overrides(overrides).space
    for seed in range(3):
        sample = of_space(RandomTrial(seed))
        assert canonical_id(of_space.at(of_space.encode(sample))) == canonical_id(sample)
        architecture = small(sample, width=32, head_dim=16, window=4)
        model = compile_architecture(architecture, seed=0).eval()
        assert sum(p.numel() for p in model.parameters()) == count_parameters(architecture)
        with torch.no_grad():
            before = model(tokens)
            changed = tokens.clone()
            changed[:, READ] = model.mask_token
            assert not torch.allclose(before[:, :READ], model(changed)[:, :READ], atol=1e-5)
        assert_learns(model, tokens)


def keeps_the_contract(architecture: Architecture, tokens: Tensor) -> None:
    model = compile_architecture(architecture, seed=0).eval()
    assert sum(p.numel() for p in model.parameters()) == count_parameters(architecture)
    with torch.no_grad():
        logits = model(tokens)
        assert_causal(model, tokens, logits)
        assert_decodes(model, tokens, logits)
    assert_learns(model, tokens)


def assert_learns(model: Model, tokens: Tensor) -> None:
    """Every parameter gets a gradient from the logits or from the losses that stand beside them in training."""
    context = Context()
    logits = model.train()(tokens, context)
    (logits.logsumexp(-1).square().mean() + sum(context.losses)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name} gets no gradient"


def assert_causal(model: Model, tokens: Tensor, before: Tensor) -> None:
    changed = tokens.clone()
    changed[:, READ] = (changed[:, READ] + 1) % VOCAB
    after = model(changed)
    torch.testing.assert_close(before[:, :READ], after[:, :READ], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, READ:], after[:, READ:], atol=1e-4)


def assert_decodes(model: Model, tokens: Tensor, whole: Tensor) -> None:
    """Token by token, after some tokens at once, as in one pass."""
    logits, state = model.prefill(tokens[:, :READ], model.init_state(2, TOKENS))
    for position in range(READ, TOKENS):
        torch.testing.assert_close(logits, whole[:, position - 1], atol=2e-4, rtol=2e-4)
        logits, state = model.step(tokens[:, position], state)
    torch.testing.assert_close(logits, whole[:, -1], atol=2e-4, rtol=2e-4)
