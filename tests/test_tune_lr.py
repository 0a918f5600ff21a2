"""Tuning of learning rates: a row holds every score, and the other rows stay."""

import json

import pytest

from nas.architecture import Architecture, Attention, Block, Glu
from nas.tasks import make_task
from nas.training import NonFiniteLoss, Recipe
from scripts.tune_lr import tuned, write_row
from tests.test_command_line import mistake, run

SMALL = [
    "task=recall",
    "task.score_sequences=16",
    "families=[attention]",
    "budget.train.recall.tokens=1024",
    "num_layers=1",
    "params=40000",
    "table=table.json",
]


def test_a_row_is_measured_and_the_others_stay(tmp_path):
    old = {"tasks": {"recall": {"mamba2": {"rate": 0.5}}, "text": {"attention": {"rate": 0.25}}}}
    (tmp_path / "table.json").write_text(json.dumps(old))
    done = run(*SMALL, cwd=tmp_path, script="scripts/tune_lr.py")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
    table = json.loads((tmp_path / "table.json").read_text())["tasks"]
    row = table["recall"].pop("attention")
    assert table == old["tasks"]
    assert row["metric"] == "recall_bits" and row["n"] == 1
    assert set(row["scores"]) == {"0.001", "0.002", "0.004", "0.008"}
    best = min(row["scores"], key=lambda rate: row["scores"][rate][0])
    assert row["rate"] == float(best)
    assert row["measured_with"]["tokens"] == 1024
    assert row["measured_with"]["proxy"] == "1 layers of width 64, 40000 parameters"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("families=[mamba]", "families has 'mamba'. Did you mean 'mamba2'?"),
        ("rates=[0.1]", "rates must be at least 4 different positive numbers, but got [0.1]."),
        ("famlies=[mamba2]", "There is no field or group 'famlies' (famlies=[mamba2]). Did you mean 'families'?"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, argument, sentence):
    assert sentence in mistake(argument, "table=table.json", cwd=tmp_path, script="scripts/tune_lr.py")
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_diverges_loses(monkeypatch):
    def fit(model, task, recipe, *, seed, learning_rates):
        if learning_rates["attention"] > 1:
            raise NonFiniteLoss(3, float("nan"))

    monkeypatch.setattr("nas.training.fit", fit)
    task = make_task("recall", {"sequence_length": 16, "num_pairs": 4, "score_sequences": 8})
    block = Block(mixer=Attention(num_heads=1, head_dim=16), ffn=Glu(d_ff=16))
    design = Architecture(name="attention", d_model=16, vocab_size=task.vocab_size, blocks=(block,))
    row = tuned(design, task, Recipe(tokens=64, batch_size=4), [0.1, 10.0], range(2))
    assert row["rate"] == 0.1
    assert row["scores"]["10"] == [float("inf")] * 2
    assert len(row["scores"]["0.1"]) == 2 and row["spread"] > 0


def test_a_table_is_begun_where_there_is_none(tmp_path):
    write_row(tmp_path / "t.json", "text", "mamba2", {"rate": 0.1}, {"device": "a CPU"})
    expected = {"tasks": {"text": {"mamba2": {"rate": 0.1, "measured_with": {"device": "a CPU"}}}}}
    assert json.loads((tmp_path / "t.json").read_text()) == expected
