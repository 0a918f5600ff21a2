"""Random samples lean towards a prior, and a prior stays within its space."""

import pytest

from nas.architecture import (
    Attention,
    DifferentialAttention,
    ForgettingAttention,
    IndexedLatentAttention,
    LatentAttention,
    MixerOptions,
)
from nas.study.samplers import Prior, SamplerError, make_sampler, prior_from
from scripts.settings import SearchSettings
from tests.study.samplers.studies import sampled

LITERATURE = SearchSettings.from_overrides(["priors=literature"]).priors


FULL = (LatentAttention, ForgettingAttention, DifferentialAttention)


def attention_shares(architectures: list) -> tuple[float, float]:
    """The share of what attends to everything among all mixers, and among the first ones."""
    full = [[is_full(block.mixer) for block in architecture.blocks] for architecture in architectures]
    return sum(map(sum, full)) / sum(map(len, full)), sum(row[0] for row in full) / len(full)


def is_full(mixer: MixerOptions) -> bool:
    if isinstance(mixer, Attention):
        return mixer.window is None
    return isinstance(mixer, FULL) and not isinstance(mixer, IndexedLatentAttention)


def test_the_literature_puts_attention_seldom_first_and_into_an_eighth_to_a_quarter_of_the_layers() -> None:
    space = SearchSettings.from_overrides([]).space
    leaning = make_sampler(
        {"name": "random"},
        seed=0,
        trials=9,
        already_sampled=0,
        space=space,
        prior=prior_from(LITERATURE, space.weighed_as),
    )
    everywhere, first = attention_shares(sampled(leaning, space, 300))
    assert 0.12 < everywhere < 0.25
    assert 0 < first < 0.06, "seldom, not never"


def test_without_a_prior_all_mixers_are_equally_likely() -> None:
    space = SearchSettings.from_overrides(["search_space.mixers=[attention,mamba2]"]).space
    even = make_sampler(
        {"name": "random"}, seed=0, trials=9, already_sampled=0, space=space, prior=prior_from({}, space.weighed_as)
    )
    assert attention_shares(sampled(even, space, 200))[0] == pytest.approx(0.5, abs=0.05)


def test_a_prior_speaks_of_letters_where_the_space_does() -> None:
    space = SearchSettings.from_overrides(["search_space=pattern"]).space
    prior = prior_from(LITERATURE, space.weighed_as)
    assert set(prior.mixers) == {"a"}
    assert prior.weights("pattern.0", ["a", "m"]) == [0.02, 0.98]
    assert prior.weights("pattern.2", ["a", "m", "s"]) == pytest.approx([0.18, 0.41, 0.41])
    assert prior.weights("window", [32, 64]) is None and Prior().weights("layers.1.mixer", ["attention"]) is None


def test_a_prior_speaks_of_all_that_attends_to_everything_together_and_of_places_in_stages() -> None:
    space = SearchSettings.from_overrides(["search_space=staged"]).space
    prior = prior_from(LITERATURE, space.weighed_as)
    assert prior.mixers == {"attention": 0.09, "attention_variant": 0.09}
    assert prior.weights("stages.early.0.mixer", ["attention", "mamba2"]) == [0.01, 0.99]
    assert prior.weights("stages.early.1.mixer", ["attention", "mamba2"]) == [0.09, 0.91]
    assert prior.weights("stages.late.0.mixer", ["mamba2", "attention_variant"]) == [0.91, 0.09]
    assert prior.weights("stages.early.period", [1, 2]) is None


@pytest.mark.parametrize("argument", ["priors.mixers={attention: 0.2}", "priors.mixers.attention=0.2"])
def test_a_prior_may_be_written_on_the_command_line(argument: str) -> None:
    assert SearchSettings.from_overrides([argument]).priors == {"mixers": {"attention": 0.2}, "first": {}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixers": {"hyena": 0.2}}, "weighs 'hyena', which this search space does not offer"),
        ({"mixers": {"attention": 2}}, "must be a probability from 0 to 1, but got 2"),
        ({"mixers": {"attention": 0.8, "mamba2": 0.4}}, "must sum to at most 1, but sum to 1.2"),
        ({"last": {}}, "There is no field priors.last"),
        ({"first": "attention"}, "must give probabilities by mixer"),
    ],
)
def test_a_prior_that_cannot_be_is_one_sentence(given: dict, message: str) -> None:
    with pytest.raises(SamplerError, match=message):
        prior_from(given, {"attention": "attention", "mamba2": "mamba2"})
