"""What cannot be understood is refused in one sentence that names it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas.interop import InteropError, load_pretrained
from nas.interop.tensors import Weights, rows

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 11,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 5000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
LAYER = "model.layers.0."
SHAPES = {
    "model.embed_tokens.weight": (11, 32),
    "model.norm.weight": (32,),
    f"{LAYER}input_layernorm.weight": (32,),
    f"{LAYER}post_attention_layernorm.weight": (32,),
    f"{LAYER}self_attn.q_proj.weight": (32, 32),
    f"{LAYER}self_attn.k_proj.weight": (16, 32),
    f"{LAYER}self_attn.v_proj.weight": (16, 32),
    f"{LAYER}self_attn.o_proj.weight": (32, 32),
    f"{LAYER}mlp.gate_proj.weight": (16, 32),
    f"{LAYER}mlp.up_proj.weight": (16, 32),
    f"{LAYER}mlp.down_proj.weight": (32, 16),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny Llama in the form of before `rope_parameters`, as many directories still have it."""
    torch.manual_seed(0)
    write_config(tmp_path, CONFIG)
    save_file({name: torch.randn(shape) for name, shape in SHAPES.items()}, tmp_path / "model.safetensors")
    return tmp_path


def write_config(directory: Path, config: dict[str, Any]) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def test_the_old_form_of_a_configuration_is_read(directory: Path):
    architecture, model = load_pretrained(directory)
    assert architecture.blocks[0].mixer.rope_base == 5000.0
    assert architecture.norm_eps == 1e-5
    assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 11)


def test_weights_keep_their_type_unless_another_is_asked_for(directory: Path):
    weights = {name: tensor.bfloat16() for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors")
    assert {p.dtype for p in load_pretrained(directory)[1].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_pretrained(directory, dtype=torch.float32)[1].parameters()} == {torch.float32}


def shard(directory: Path) -> None:
    """The same tensors in two files, by turns, with an index."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    files = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def refusal(directory: Path) -> str:
    """The one sentence with which a directory is refused."""
    with pytest.raises(InteropError) as caught:
        load_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_in_several_files_are_the_same_model(directory: Path):
    expected = load_pretrained(directory)[1].state_dict()
    shard(directory)
    actual = load_pretrained(directory)[1].state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_of_several_files_the_one_that_cannot_be_read_is_named(directory: Path):
    shard(directory)
    second = directory / "model-1.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-50])
    assert "model-1.safetensors cannot be read" in refusal(directory)
    second.write_bytes(b"")
    assert "model-1.safetensors cannot be read" in refusal(directory)
    second.unlink()
    assert "model-1.safetensors cannot be read" in refusal(directory)
    second.mkdir()
    assert "model-1.safetensors cannot be read" in refusal(directory)
    second.rmdir()
    weights = load_file(directory / "model-0.safetensors")
    save_file({"unrelated": torch.ones(2)}, second)
    assert "model-1.safetensors cannot be read" in refusal(directory)
    save_file(weights, second)
    index = directory / "model.safetensors.index.json"
    for damaged in ("{", "[]", '{"weight_map": 3}', '{"files": {}}'):
        index.write_text(damaged)
        assert "is not a readable index of tensors" in refusal(directory)


@pytest.mark.parametrize("name", SHAPES)
def test_a_missing_tensor_and_one_of_another_shape_are_named(directory: Path, name: str):
    weights = load_file(directory / "model.safetensors")
    save_file({other: w for other, w in weights.items() if other != name}, directory / "model.safetensors")
    assert f"lacks the tensor {name}, which its configuration asks for" in refusal(directory)
    save_file(weights | {name: weights[name][:-1].clone()}, directory / "model.safetensors")
    assert "come to shape" in refusal(directory) and "but the configuration asks for" in refusal(directory)


def test_tensors_that_cannot_be_joined_are_named_with_their_shapes(directory: Path):
    weights = load_file(directory / "model.safetensors")
    save_file(weights | {f"{LAYER}self_attn.k_proj.weight": torch.ones(16, 4)}, directory / "model.safetensors")
    assert f"do not go together: {LAYER}self_attn.q_proj.weight [32, 32], {LAYER}self_attn.k_proj.weight [16, 4]" in (
        refusal(directory)
    )


def test_experts_of_unlike_shapes_are_refused(tmp_path: Path):
    save_file({"experts.0.up": torch.ones(2, 3), "experts.1.up": torch.ones(2, 4)}, tmp_path / "model.safetensors")
    with Weights(tmp_path) as weights:
        assert weights.take(rows("experts.{}.up"), 1).shape == (1, 2, 3)
        with pytest.raises(InteropError, match=r"experts\.{}\.up of all experts must have one shape, but got \(2, 3\)"):
            weights.take(rows("experts.{}.up"), 2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(directory: Path, dtype: torch.dtype):
    weights = load_file(directory / "model.safetensors")
    name = f"{LAYER}self_attn.k_proj.weight"
    save_file(weights | {name: weights[name].to(dtype)}, directory / "model.safetensors")
    assert f"holds the tensor {name} as {dtype}, but weights must be float64" in refusal(directory)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "lama", "slope": 2}, "sets slope to 2, which is not understood for a lama model"),
        ({"model_type": None}, "must be a JSON object with a model_type"),
        ({"attention_temperature": 2.0}, "sets attention_temperature to 2.0, which is not understood"),
        ({"attention_dropout": 0.1}, "sets attention_dropout to 0.1, which changes the computation"),
        ({"hidden_act": "tanh"}, "sets hidden_act to 'tanh'"),
        ({"quantization_config": {"bits": 4}}, "sets quantization_config to {'bits': 4}, which is not understood"),
        ({"vocab_size": 12}, "come to shape (11, 32), but the configuration asks for (12, 32)"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "slope": 1}}, "sets slope of a linear rope"),
        ({"num_attention_heads": 3, "head_dim": 16}, "num_kv_heads must divide num_heads"),
        ({"intermediate_size": 24}, "come to shape (32, 32), but the configuration asks for (48, 32)"),
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 layers, but there may be at most 2000"),
        ({"num_hidden_layers": "two"}, "has a field of the wrong form (TypeError"),
        ({"num_hidden_layers": 2}, "lacks the tensor model.layers.1.input_layernorm.weight"),
        ({"num_attention_heads": "two"}, "has a field of the wrong form (TypeError"),
        ({"rope_parameters": {"rope_type": "default"}}, "has a field of the wrong form (KeyError: 'rope_theta')"),
        ({"num_key_value_heads": "two"}, "num_kv_heads must be of type int"),
    ],
)
def test_a_field_that_is_not_understood_is_named(directory: Path, changes: dict[str, Any], sentence: str):
    if changes.get("num_attention_heads") == 3:
        changes = {**changes, "num_key_value_heads": 2}
    write_config(directory, CONFIG | changes)
    with pytest.raises(InteropError) as caught:
        load_pretrained(directory)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named(directory: Path):
    write_config(directory, {name: value for name, value in CONFIG.items() if name != "rms_norm_eps"})
    with pytest.raises(InteropError, match="has no field rms_norm_eps, which a llama model needs"):
        load_pretrained(directory)


def test_a_tensor_that_nothing_takes_is_named(directory: Path):
    weights = load_file(directory / "model.safetensors")
    save_file(weights | {f"{LAYER}self_attn.q_norm.weight": torch.ones(16)}, directory / "model.safetensors")
    with pytest.raises(
        InteropError, match=r"holds the tensor model\.layers\.0\.self_attn\.q_norm\.weight, which nothing"
    ):
        load_pretrained(directory)
    save_file(weights | {f"{LAYER}self_attn.rotary_emb.inv_freq": torch.ones(8)}, directory / "model.safetensors")
    load_pretrained(directory)


def test_a_tied_head_may_be_stored_again_but_not_another(directory: Path):
    weights = load_file(directory / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, directory / "model.safetensors"
    )
    load_pretrained(directory)
    save_file(weights | {"lm_head.weight": torch.zeros(11, 32)}, directory / "model.safetensors")
    with pytest.raises(InteropError, match=r"ties the head to the embedding, but lm_head\.weight and"):
        load_pretrained(directory)


def test_missing_and_damaged_files_are_one_sentence(directory: Path, tmp_path_factory):
    with pytest.raises(InteropError, match=r"config\.json cannot be read"):
        load_pretrained(tmp_path_factory.mktemp("empty"))
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InteropError, match=r"model\.safetensors cannot be read"):
        load_pretrained(directory)
    path.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InteropError, match=r"has no model\.safetensors; weights in other formats can execute code"):
        load_pretrained(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(InteropError, match="is not a readable configuration"):
        load_pretrained(directory)


def test_an_index_cannot_lead_out_of_the_directory(directory: Path):
    index = {"weight_map": dict.fromkeys(SHAPES, "../model.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InteropError, match=r"lacks the tensor model\.embed_tokens\.weight"):
        load_pretrained(directory)


def test_the_script_writes_the_architecture_and_the_weights(directory: Path, tmp_path_factory, capsys, monkeypatch):
    from nas.architecture import read_architecture
    from nas.checkpoint import load_weights
    from nas.compile import compile_architecture
    from scripts.import_hf import main

    out = tmp_path_factory.mktemp("out")
    arguments = ["import_hf.py", str(directory), "--out", str(out / "a.yaml"), "--weights", str(out / "a.safetensors")]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    architecture, expected = load_pretrained(directory)
    assert read_architecture(out / "a.yaml") == architecture
    model = compile_architecture(architecture).eval()
    load_weights(out / "a.safetensors", model)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(tokens), expected(tokens))
    assert "llama: A" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["import_hf.py", str(out), "--out", str(out / "b.yaml")])
    with pytest.raises(SystemExit):
        main()
    assert "config.json cannot be read" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["import_hf.py", str(directory), "--out", str(out)])
    with pytest.raises(SystemExit):
        main()
    assert f"{out} is a directory; name the file to write." in capsys.readouterr().err
