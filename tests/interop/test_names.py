"""Models without a table are read by the names that decoders have in common, with a warning, or refused."""

from pathlib import Path

import pytest

from nas.interop import InteropError, ReadByNames, load_pretrained
from nas.interop.families import FAMILIES
from scripts.interop_oracles import Oracle, compare, saved
from scripts.interop_oracles.attention import LAYERS, SMALL, WIDE, rope

CLOSE = 1e-4
READ = {
    # Fused projections, a window in every layer.
    "phi3": Oracle("Phi3", {**WIDE, "num_key_value_heads": 2, "sliding_window": 5, "rope_parameters": rope()}),
    # LayerNorm with biases, a share of the channels rotated.
    "stablelm": Oracle(
        "StableLm",
        {**WIDE, "num_key_value_heads": 2, "use_qkv_bias": True, "rope_parameters": rope(partial_rotary_factor=0.25)},
    ),
    # One norm, attention and FFN in parallel.
    "stablelm in parallel": Oracle(
        "StableLm",
        {**WIDE, "num_key_value_heads": 4, "use_parallel_residual": True, "tie_word_embeddings": True},
    ),
    # Two matrices and biases everywhere.
    "starcoder2": Oracle("Starcoder2", {**WIDE, "num_key_value_heads": 1, "sliding_window": None}),
    # Odd numbers of heads, squared ReLU.
    "arcee": Oracle(
        "Arcee",
        {
            **{**SMALL, "hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20},
            **{"attention_bias": True, "mlp_bias": True, "rope_parameters": rope("linear", factor=2.0)},
        },
    ),
    "ministral": Oracle("Ministral", {**SMALL, "num_key_value_heads": 2, "layer_types": LAYERS, "sliding_window": 5}),
}
REFUSED = {
    "olmo": (Oracle("Olmo", WIDE), "The norms of a layer are called none"),
    "persimmon": (Oracle("Persimmon", WIDE), "The queries, keys and values of a layer are not told by names"),
    "granitemoe": (Oracle("GraniteMoe", WIDE), "The FFN of a layer is not told by names"),
    "bitnet": (
        Oracle("BitNet", {**WIDE, "num_key_value_heads": 2}),
        "holds the tensor model.layers.0.mlp.ffn_sub_norm.weight and 7 more",
    ),
    "dots1": (
        Oracle("Dots1", {**WIDE, "num_key_value_heads": 4, "first_k_dense_replace": 4}),
        "sets first_k_dense_replace to 4, which is not understood for a dots1 model",
    ),
    "seed_oss": (Oracle("SeedOss", SMALL), "sets attention_dropout to 0.1, which changes the computation"),
    "hunyuan_v1_dense": (Oracle("HunYuanDenseV1", SMALL), "normalises queries and keys after it has rotated them"),
}


@pytest.mark.parametrize("name", READ)
def test_a_model_made_of_known_names_computes_the_same_numbers(name: str, tmp_path: Path):
    theirs = READ[name].build()
    with pytest.warns(ReadByNames, match="There is no table for model_type"):
        architecture, ours = load_pretrained(saved(theirs, tmp_path))
    assert architecture.name not in FAMILIES
    compared = compare(theirs, ours)
    assert compared.spread > 0.05
    assert max(compared.logits, compared.decoding, compared.loss or 0, compared.gradients or 0) < CLOSE
    assert compared.continued


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_names_do_not_tell_is_refused(name: str, tmp_path: Path):
    oracle, sentence = REFUSED[name]
    with pytest.raises(InteropError) as caught:
        load_pretrained(saved(oracle.build(), tmp_path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_script_says_that_names_had_to_tell(tmp_path: Path, capsys):
    from scripts.import_hf import import_model

    theirs = saved(READ["phi3"].build(), tmp_path / "theirs")
    import_model(theirs, tmp_path / "a.yaml", None)
    told = capsys.readouterr()
    assert "note: There is no table for model_type 'phi3'" in told.err
    assert "phi3: SSSS" in told.out
