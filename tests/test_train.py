"""Training of one architecture: which data it goes on with, and what it leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas.architecture import Architecture, Attention, Block, Glu, read_architecture, write_architecture
from nas.checkpoint import CheckpointError, read_metadata, save_weights
from nas.compile import compile_architecture
from scripts.command_line import UserError
from scripts.train import chosen_task, differing

ROOT = Path(__file__).resolve().parents[1]
TEXT = {"name": "text", "dataset": "stdlib", "sequence_length": 64, "cache_dir": None}
RECALL = {"name": "recall", "sequence_length": 16, "num_pairs": 4, "vocab_size": 32, "score_sequences": 16}


def weights_of(tmp_path: Path, metadata: dict[str, str]) -> Path:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(1)}, metadata)
    return path


def noted(tmp_path: Path, config: dict[str, object]) -> Path:
    return weights_of(tmp_path, {"task": str(config["name"]), "task_config": json.dumps(config)})


def test_weights_say_which_task_goes_on_when_none_is_named(tmp_path, capsys):
    assert chosen_task(TEXT, noted(tmp_path, RECALL), ["architecture=x", "train.tokens=3"]) == RECALL
    assert capsys.readouterr().out == ""


def test_a_named_task_wins_and_one_line_says_what_differs(tmp_path, capsys):
    weights = noted(tmp_path, {**TEXT, "dataset": "my/set", "cache_dir": "/elsewhere"})
    assert chosen_task(TEXT, weights, ["task.sequence_length=64"]) == TEXT
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert '(dataset: "my/set" -> "stdlib")' in said


def test_a_named_task_that_is_the_same_is_not_spoken_of(tmp_path, capsys):
    assert chosen_task(TEXT, noted(tmp_path, TEXT), ["task=text"]) == TEXT
    assert capsys.readouterr().out == ""


def test_without_weights_the_composed_task_is_trained():
    assert chosen_task({"runs": {"easy": RECALL}}, None, []) == RECALL
    with pytest.raises(UserError, match="One task is trained at a time, but task has text, recall"):
        chosen_task({"runs": {"text": TEXT, "recall": RECALL}}, None, ["task=text_recall"])


def test_weights_that_only_name_another_task_are_refused_until_it_is_named(tmp_path):
    weights = weights_of(tmp_path, {"task": "recall"})
    with pytest.raises(UserError, match=r"trained on the task 'recall' and do not hold its settings.*task=recall"):
        chosen_task(TEXT, weights, [])
    assert chosen_task(RECALL, weights, ["task=recall"]) == RECALL


def test_weights_that_do_not_say_their_data_are_spoken_of(tmp_path, capsys):
    assert chosen_task(TEXT, weights_of(tmp_path, {"task": "text"}), []) == TEXT
    assert "do not say on which data" in capsys.readouterr().out


@pytest.mark.parametrize("note", ["{", "[]", "{}", "3"])
def test_a_note_that_cannot_be_read_is_one_sentence(tmp_path, note):
    with pytest.raises(CheckpointError, match="do not say readably"):
        chosen_task(TEXT, weights_of(tmp_path, {"task_config": note}), [])


def test_a_difference_inside_a_part_is_named_by_its_place():
    old, new = {"text": {"a": 1, "cache_dir": "x"}, "b": 2}, {"text": {"a": 3, "cache_dir": "y"}, "b": 2}
    assert differing(old, new) == ["text.a: 1 -> 3"]


def test_metadata_of_a_file_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "w.safetensors").write_text("nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_metadata(tmp_path / "w.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert read_metadata(tmp_path / "w.safetensors") == {}


def test_a_member_of_a_recall_search_trains_further_on_recall_and_its_own_weights_say_so(tmp_path):
    block = Block(mixer=Attention(num_heads=2, head_dim=16), ffn=Glu(d_ff=32))
    architecture = Architecture(name="member", d_model=32, vocab_size=32, blocks=(block,))
    write_architecture(tmp_path / "member.yaml", architecture)
    weights = compile_architecture(architecture, seed=0).state_dict()
    save_weights(tmp_path / "member.safetensors", weights, {"task": "recall", "task_config": json.dumps(RECALL)})
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "architecture=member.yaml", "train.tokens=2048"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    assert "recall_bits: " in done.stdout and "text_loss" not in done.stdout
    out = tmp_path / "outputs" / "train"
    assert sorted(path.name for path in out.iterdir()) == ["member.json", "member.safetensors", "member.yaml"]
    assert json.loads(read_metadata(out / "member.safetensors")["task_config"]) == RECALL
    assert json.loads((out / "member.json").read_text())["config"]["task"] == RECALL
    assert read_architecture(out / "member.yaml") == architecture
