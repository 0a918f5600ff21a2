import pytest
from optuna.trial import FixedTrial

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    canonical,
    preset,
    preset_name,
)

NAMED = (
    "linear_attention",
    "based",
    "hedgehog",
    "retnet",
    "hgrn2",
    "deltanet",
    "kda",
    "deltaproduct",
    "comba",
    "mlstm",
)


def network(mixer):
    return Architecture(d_model=96, vocab_size=256, blocks=(Block(mixer=mixer, ffn=Glu(d_ff=96)),) * 4)


@pytest.mark.parametrize("name", NAMED)
def test_published_mixers_are_points_of_the_space_and_keep_their_name(make_space, name):
    choices = {"output_norm": ["none", "head", "full", "layer"], "feature_map": ["identity", "silu", "elu", "taylor"]}
    if name == "hedgehog":
        choices["feature_map"] = ["identity", "hedgehog"]
    space = make_space("linear", **choices, feature_dim=16)
    params = space.encode(network(preset(name, num_heads=3, head_dim=32)))
    assert params is not None
    found = canonical(space(FixedTrial(params)))
    assert {preset_name(block.mixer) for block in found.blocks} == {name}


def test_sizes_of_another_width_come_to_shares_of_a_head(make_space):
    space = make_space("linear")
    params = space.encode(network(preset("kda", num_heads=8, head_dim=64, key_dim=32)))
    assert params is None  # its heads are wider than the network
    params = space.encode(network(preset("kda", num_heads=6, head_dim=16, key_dim=8)))
    assert params is not None and params["key_dim"] == 16


def test_a_recurrence_with_an_option_without_a_choice_lies_outside(make_space):
    space = make_space("linear")
    for changed in ({"decay_rank": 5}, {"gate_rank": 5}, {"bonus": True}, {"feature_map": "relu"}, {"scaled": False}):
        options = {"decay": "vector", "gate": "silu"} | changed
        assert space.encode(network(preset("gla", num_heads=3, head_dim=32, decay_rank="head_dim"))) is not None
        assert space.encode(network(preset("gla", **{"num_heads": 3, "head_dim": 32, **options}))) is None


def test_every_layer_has_the_one_recurrence_beside_attention(make_space):
    space = make_space("linear", num_layers=4, period=4, alphabet="ra", decay="vector", erase="delta")
    blocks = network(preset("kda", num_heads=3, head_dim=32)).blocks
    attends = Block(mixer=Attention(num_heads=3, head_dim=32), ffn=Glu(d_ff=96))
    params = space.encode(Architecture(d_model=96, vocab_size=256, blocks=(*blocks[:3], attends)))
    assert params is not None
    assert space(FixedTrial(params)).name == "rrra"


def test_a_pattern_without_the_recurrence_and_states_too_large_are_refused(make_space):
    with pytest.raises(ArchitectureError, match=r"alphabet of the space linear needs r, but got a\."):
        make_space("linear", alphabet="a")
    with pytest.raises(ArchitectureError, match="at most 256 rows and 1024 columns, but feature_map=hedgehog"):
        make_space("linear", key_dim=200)
