"""scripts/benchmark_proxy.py: what it trains, how it goes on, and what it says of each rung."""

import json

import numpy as np
import pytest

from scripts import benchmark_proxy
from scripts.benchmark_proxy import train
from scripts.exit_codes import UNFINISHED
from scripts.proxy_page import judge, page
from tests.commands import call

TINY = (
    *("--architectures", "3", "--larger", "1.5", "--longer", "2", "--large-seeds", "1", "task=recall", "budget=smoke"),
    "optimize=[recall_bits,decode_latency_ms]",
    *("search_space=pattern", "search_space.num_layers=[2]", "search_space.params=60000", "search_space.d_model=[32]"),
    *("budget.train.recall.tokens=8000", "budget.train.recall.batch_size=8", "fidelity.shares=[0.25,1]"),
    *("+budget.recall={sequence_length: 16, num_pairs: 4, vocab_size: 16, score_sequences: 32}",),
)


def test_it_goes_on_where_it_was_and_writes_a_line_for_each_rung_and_guess(tmp_path, monkeypatch, capsys):
    def said(*arguments: str) -> tuple[int, str]:
        return call(benchmark_proxy, monkeypatch, *arguments), "".join(capsys.readouterr())

    out = ["--out", str(tmp_path)]
    code, text = said(*TINY, *out, "--limit", "0")
    assert code == UNFINISHED, text
    code, text = said(*TINY, *out)
    assert code == 0 and (tmp_path / "proxy.md").read_text() in text
    for guess in ("parameters", "FLOPs", "rung 0.25", "rung 1"):
        assert f"| recall_bits | {guess} |" in text
    record = json.loads((tmp_path / "proxy.json").read_text())
    entries = list(record["architectures"].values())
    assert [len(rungs) for entry in entries for rungs in entry["proxy"].values()] == [2, 2, 2]
    assert all(1.3 < entry["large_parameters"] / entry["parameters"] < 1.7 for entry in entries)
    code, text = said(*TINY, *out)
    assert code == 0 and ", seed " not in text, "nothing is trained twice"
    sentence = said(*TINY, *out, "--longer", "3")[1]
    assert "was measured with other settings" in sentence


def record_of(losses, seeds=2):
    """The whole proxy says what the large training says, its first rung the opposite."""
    entries = {
        str(i): {
            **{"name": f"n{i}", "parameters": 100, "flops": i, "failed": {}},
            **{"proxy": {"0": [{"text_loss": -loss}, {"text_loss": loss}]}},
            "large": {str(seed): [{"text_loss": loss + 0.01 * seed}] for seed in range(seeds)},
        }
        for i, loss in enumerate(losses)
    }
    environment = {"name": "a CPU", "torch": "2", "commit": "abc"}
    plan = {"larger": 4.0, "longer": 4.0}
    settings = {"search_space": {"kind": "oracle"}, "train": {"text": {"tokens": 32768}}}
    rest = {"environment": environment, "plan": plan, "settings": settings}
    return {"architectures": entries, "rungs": [0.25, 1.0], **rest}


def test_a_rung_that_orders_as_the_large_training_does_has_full_agreement_and_no_regret():
    record = record_of([3.0, 2.0, 1.0, 2.5])
    rows = {row["guess"]: row for row in judge(record)}
    assert rows["rung 1"]["agreement"]["value"] == 1.0 and rows["rung 1"]["regret"]["value"] == 0.0
    assert rows["rung 0.25"]["agreement"]["value"] == 0.0
    assert rows["rung 0.25"]["regret"]["value"] == pytest.approx(2.0)
    assert rows["parameters"]["agreement"]["value"] == 0.5
    assert rows["rung 1"]["noise"] == pytest.approx(0.01 / np.sqrt(2))


def test_the_page_says_whether_the_aims_are_reached_and_how_surely():
    right = page(record_of([3.0, 2.0, 1.0, 2.5]))
    assert "* text_loss: decisions surely reached, regret surely reached." in right
    assert "Search space oracle; tokens of the proxy: text 32,768." in right
    wrong = record_of([3.0, 2.0, 1.0, 2.5])
    for entry in wrong["architectures"].values():
        entry["proxy"]["0"].reverse()
    assert "* text_loss: decisions surely missed, regret surely missed." in page(wrong)


def test_one_large_seed_leaves_the_noise_unknown():
    record = record_of([3.0, 2.0, 1.0, 2.5], seeds=1)
    assert {row["noise"] for row in judge(record)} == {None}
    assert "not known (one seed)" in page(record) and "regret not known" in page(record)


def test_a_training_that_breaks_is_recorded_and_named_and_the_others_are_judged():
    record = record_of([3.0, 2.0, 1.0, 2.5])
    entry = record["architectures"]["0"]
    entry["large"] = {}

    def breaks(architecture, seed):
        raise ArithmeticError("the loss is nan")

    said = train(entry, "large", breaks, None, 7)  # type: ignore[arg-type]
    assert entry["failed"] == {"large 7": "ArithmeticError: the loss is nan"} and "failed" in said
    assert judge(record)[0]["architectures"] == 3
    assert "Left out, because they broke: n0, large 7: ArithmeticError: the loss is nan." in page(record)
