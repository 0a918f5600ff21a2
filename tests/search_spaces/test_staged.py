"""The space of stages: a block that is repeated for early, middle and late layers, in shares of the depth."""

import pytest
from optuna.trial import FixedTrial

from nas.architecture import ArchitectureError
from search_spaces import RandomTrial
from search_spaces.staged import lengths_of

MAMBA = {"mixer": "mamba2", "state_dim": 16, "ffn": "glu"}
ATTENTION = {"mixer": "attention", "position": "rope", "num_kv_heads": "full", "ffn": "none"}
WHOLE = {"d_model": 96, "num_meta_tokens": 0, "attention_weights": "own"}
BLOCKS = {
    "stages.early.0": MAMBA,
    "stages.middle.0": MAMBA,
    "stages.middle.1": ATTENTION | {"kv_from": "own"},
    "stages.late.0": MAMBA,
}
PERIODS = {"stages.early.period": 1, "stages.middle.period": 2, "stages.late.period": 1}


def named(blocks):
    return {f"{place}.{key}": value for place, block in blocks.items() for key, value in block.items()}


@pytest.mark.parametrize(
    ("split", "name"),
    [("1-2-1", "mmma-ma-mm"), ("1-1-2", "mmma-mmmm"), ("2-1-1", "mmmmma-mm"), ("1-6-1", "mma-ma-ma-m")],
)
def test_each_stage_repeats_its_block_in_its_share_of_the_depth(make_space, split, name):
    space = make_space("staged", num_layers=8, split=["1-2-1", "1-1-2", "2-1-1", "1-6-1"])
    periods = PERIODS if split != "1-6-1" else {"stages.middle.period": 2}
    params = WHOLE | periods | named(BLOCKS) | {"split": split}
    architecture = space(FixedTrial(params))
    assert architecture.name == name
    found = space.encode(architecture)
    assert space.at(found) == architecture


@pytest.mark.parametrize(
    ("split", "num_layers", "lengths"),
    [
        ("1-2-1", 1, (0, 1, 0)),
        ("1-2-1", 2, (1, 0, 1)),
        ("1-1-1", 3, (1, 1, 1)),
        ("1-6-1", 4, (1, 2, 1)),
        ("1-1-2", 24, (6, 6, 12)),
        ("2-3-1", 7, (2, 4, 1)),
    ],
)
def test_stages_have_whole_layers_that_sum_up_to_the_depth(split, num_layers, lengths):
    assert lengths_of(split, num_layers) == lengths


def test_splits_that_come_to_the_same_layers_are_one_choice(make_space):
    space = make_space("staged", num_layers=[4, 8], split=["1-2-1", "1-6-1"], period=1)
    for seed in range(20):
        trial = RandomTrial(seed)
        space(trial)
        assert ("split_of_8" in trial.params) == (trial.params["num_layers"] == 8)
        assert "split_of_4" not in trial.params and "stages.early.period" not in trial.params


def test_reference_designs_lie_in_it_with_the_shortest_blocks(make_space, designs):
    space = make_space("staged")
    found = dict(space.references(designs.values()))
    assert {name: space.at(params).name for name, params in found.items()} == {
        "all-attention": "aaaa",
        "mamba2-attention-7-1": "mmmammmm",
        "gated-deltanet-attention-3-1": "ggga",
        "sliding-window-recurrence": "nsns",
        "head-mix": "(a2m1)(a2m1)(a2m1)(a2m1)",
    }
    assert found["gated-deltanet-attention-3-1"]["stages.middle.period"] == 1
    assert found["mamba2-attention-7-1"]["split"] == "1-1-2"


@pytest.mark.parametrize("split", ["1-2", "1-0-1", "a-b-c", "1:2:1", 121, ["1-2-1", "1-2-1-1"]])
def test_what_are_no_proportions_of_three_stages_is_refused(make_space, split):
    with pytest.raises(ArchitectureError, match="split must be 3 numbers of at least 1 such as 1-2-1, but got"):
        make_space("staged", split=split)
