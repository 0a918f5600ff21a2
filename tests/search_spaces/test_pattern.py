import pytest
from optuna.trial import FixedTrial

from nas.architecture import ArchitectureError

SIZES = {"d_model": 96, "state_dim": 16, "position": "none", "num_kv_heads": 1, "ffn": "glu"}


def letters(word):
    return {f"pattern.{i}": letter for i, letter in enumerate(word)}


def test_a_word_is_repeated_over_depth_with_one_size_of_everything(make_space):
    space = make_space("pattern", num_layers=8, alphabet="ma", period=4)
    architecture = space(FixedTrial(SIZES | letters("mmma")))
    assert architecture.name == "mmmammma"
    assert {block.mixer.kind: block.mixer for block in architecture.blocks} == {
        "mamba2": architecture.blocks[0].mixer,
        "attention": architecture.blocks[3].mixer,
    }


def test_a_period_longer_than_the_stack_is_not_offered(make_space):
    space = make_space("pattern", alphabet="ma")
    short = SIZES | {"num_layers": 4, "period_of_4": 2} | letters("ma")
    assert space(FixedTrial(short)).name == "mama"
    assert space.encode(space(FixedTrial(short))) == short


def test_all_designs_of_whole_layers_lie_in_the_default_space(make_space, designs):
    found = dict(make_space("pattern").references(designs.values()))
    assert {name: params.get("pattern.0") for name, params in found.items()} == {
        "all-attention": "a",
        "gated-deltanet-attention-3-1": "g",
        "mamba2-attention-7-1": "m",
        "sliding-window-recurrence": "n",
    }


@pytest.mark.parametrize("alphabet", ["m9", ["m", "9"]])
def test_an_unknown_letter_is_refused(make_space, alphabet):
    with pytest.raises(ArchitectureError, match=r"alphabet does not know '9'\. Valid: 4, 6, 7, W, a, b, c, d, "):
        make_space("pattern", alphabet=alphabet)
