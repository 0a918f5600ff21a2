"""The contract of a whole model, held over every reference design and over samples of every space."""

from pathlib import Path

import pytest
import torch

from nas.architecture import read_architecture
from nas.compile import compile_architecture
from nas.context import Context
from nas.count import CannotMatch, count_parameters, match_parameters
from scripts.settings import SearchSettings
from search_spaces import SPACES
from tests.contract.smaller import VOCAB, small
from tests.test_deployment import RandomTrial

DESIGNS = sorted((Path(__file__).resolve().parents[2] / "conf" / "designs").glob("*.yaml"))
TOKENS = 24


@pytest.fixture(params=DESIGNS, ids=lambda path: path.stem)
def model(request):
    return compile_architecture(small(read_architecture(request.param)), seed=0).eval()


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def test_a_later_token_changes_no_earlier_logit(model, tokens):
    changed = tokens.clone()
    changed[:, 15] = (changed[:, 15] + 1) % VOCAB
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
    context = Context()
    logits = model.train()(tokens, context)
    (logits.logsumexp(-1).square().mean() + sum(context.losses)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# Of the classes of transformers at the sizes of the files, which are those that the publishers give in round numbers.
PARAMETERS = {
    "bamba-9b": 9_778_138_240,
    "command-r-35b": 34_980_831_232,
    "deepseek-v3": 671_026_404_352,
    "deepseek-v3.2": 671_877_929_216,
    "falcon-h1-0.5b": 521_411_104,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-270m": 268_098_176,
    "gpt-oss-120b": 116_829_156_672,
    "granite-4.0-h-350m": 340_332_224,
    "jamba-v0.1": 51_570_323_328,
    "kimi-linear-48b-a3b": 49_122_675_072,
    "lfm2-350m": 354_483_968,
    "llama-3.2-1b": 1_235_814_400,
    "mamba-130m": 129_135_360,
    "mamba-2-130m": 128_989_632,
    "minimax-01": 456_089_655_296,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "nemotron-h-4b": 4_489_223_040,
    "olmo-2-7b": 7_298_617_344,
    "olmo-hybrid-7b": 7_430_870_688,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "recurrentgemma-2b": 2_682_862_080,
    "xlstm-7b": 6_865_424_896,
    "zamba2-2.7b": 2_662_214_560,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_released_design_has_the_parameters_of_the_released_model(name):
    (path,) = (path for path in DESIGNS if path.stem == name)
    assert count_parameters(read_architecture(path)) == PARAMETERS[name]


# Of models that transformers has no class for, in millions, as their names say.
ROUND = {
    "deltanet-1.3b": 1300,
    "gla-1.3b": 1300,
    "hymba-1.5b": 1520,
    "retnet-1.3b": 1300,
    "rwkv-7-0.1b": 191,
    "samba-421m": 421,
}


@pytest.mark.parametrize("name", ROUND)
def test_a_published_design_has_about_the_parameters_of_its_name(name):
    (path,) = (path for path in DESIGNS if path.stem == name)
    assert count_parameters(read_architecture(path)) / 1e6 == pytest.approx(ROUND[name], rel=0.06)


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
