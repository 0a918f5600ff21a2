"""scripts/build_oracle.py: every architecture, every seed, every rung, and on where it was."""

import json

from nas.study.truth.oracle import Oracle
from scripts import build_oracle
from scripts.build_oracle import Trainer, Work, line, missing_work
from scripts.exit_codes import UNFINISHED
from search_spaces.picks import Given
from tests.commands import call
from tests.study.oracles import toy_oracle
from tests.study.toys import space

TINY = (
    *(
        "search_space.num_layers=[2]",
        "search_space.period=[1]",
        "search_space.alphabet=am",
        "search_space.params=40000",
    ),
    *("search_space.d_model=[32]", "task=recall", "budget.train.recall.tokens=4096", "fidelity.shares=[0.25,1]"),
    *("optimize=[recall_bits,decode_latency_ms]", "--stages", "train"),
)


def test_every_architecture_is_trained_on_every_seed_at_every_rung_and_once(tmp_path, monkeypatch, capsys):
    def said(*arguments: str) -> tuple[int, str]:
        return call(build_oracle, monkeypatch, *arguments), "".join(capsys.readouterr())

    out = ["--out", str(tmp_path / "oracle.json")]
    code, text = said(*TINY, *out, "--seeds", "1", "--limit", "0")
    assert code == UNFINISHED, text
    code, text = said(*TINY, *out, "--seeds", "1")
    assert code == 0 and "2 architectures; seeds of each: 1 to 1, 2 trainings in all" in text
    code, text = said(*TINY, *out, "--seeds", "2")
    assert code == 0 and "2 of 2: " in text and "3 of" not in text
    oracle = Oracle.read(tmp_path / "oracle.json")
    assert oracle.shares == (0.25, 1.0)
    for entry in oracle.entries.values():
        assert sorted(entry.scores) == [0, 1]
        assert all(len(rungs) == 2 for rungs in entry.scores.values())
        assert entry.scores[0] != entry.scores[1]
    place = json.loads((tmp_path / "oracle.json").read_text())["provenance"]["training"][0]
    assert {"torch", "commit", "processes"} <= place.keys()
    code, text = said(*TINY, "--out", str(tmp_path / "few.json"), "--sample", "1", "--seeds", "1", "--limit", "0")
    assert code == UNFINISHED and text.startswith("1 architectures; seeds of each: 0 to 0")
    assert Oracle.read(tmp_path / "few.json").entries.keys() < oracle.entries.keys()
    assert said(*TINY, *out, "--sample", "0") == (2, "error: --sample must be at least 1, but got 0.\n")
    sentence = said("seed=7", *TINY, *out)[1]
    assert "was built with other settings" in sentence


def test_a_training_that_breaks_is_recorded_and_not_tried_again():
    oracle = toy_oracle()
    entry = next(iter(oracle.entries.values()))

    class Space:
        at = staticmethod(lambda params: space(Given(params)))

    def breaks(architecture, seed):
        raise ArithmeticError("the loss is nan")

    work, reason, _ = Trainer(breaks, Space(), None)(Work(entry.id, entry.params, 2))  # type: ignore[arg-type]
    assert reason == "ArithmeticError: the loss is nan" and "failed, ArithmeticError" in line(entry, 2, reason, 0.1)
    assert isinstance(reason, str)
    before = len(missing_work(oracle, 0, 3))
    entry.failed[work.seed] = reason
    assert len(missing_work(oracle, 0, 3)) == before - 1
