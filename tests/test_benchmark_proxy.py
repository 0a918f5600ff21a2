"""scripts/benchmark_proxy.py: what it trains, how it goes on, and what it says of each rung."""

import json

import numpy as np
import pytest

from scripts.benchmark_proxy import judge
from scripts.exit_codes import UNFINISHED
from tests.test_command_line import run

TINY = (
    *("--architectures", "3", "--larger", "1.5", "--longer", "2", "--large-seeds", "1", "task=recall", "budget=smoke"),
    "optimize=[recall_bits,decode_latency_ms]",
    *("search_space=pattern", "search_space.num_layers=[2]", "search_space.params=60000", "search_space.d_model=[32]"),
    *("budget.train.recall.tokens=8000", "budget.train.recall.batch_size=8", "fidelity.shares=[0.25,1]"),
    *("+budget.recall={sequence_length: 16, num_pairs: 4, vocab_size: 16, score_sequences: 32}",),
)


def call(*arguments: str) -> tuple[int, str]:
    """Exit code, and what was said."""
    done = run(*arguments, script="scripts/benchmark_proxy.py")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_it_goes_on_where_it_was_and_writes_a_line_for_each_rung_and_guess(tmp_path):
    out = ["--out", str(tmp_path)]
    code, text = call(*TINY, *out, "--limit", "0")
    assert code == UNFINISHED, text
    code, text = call(*TINY, *out)
    assert code == 0 and (tmp_path / "proxy.md").read_text() in text
    for guess in ("parameters", "FLOPs", "rung 0.25", "rung 1"):
        assert f"| recall_bits | {guess} |" in text
    record = json.loads((tmp_path / "proxy.json").read_text())
    entries = list(record["architectures"].values())
    assert [len(rungs) for entry in entries for rungs in entry["proxy"].values()] == [2, 2, 2]
    assert all(1.3 < entry["large_parameters"] / entry["parameters"] < 1.7 for entry in entries)
    code, text = call(*TINY, *out)
    assert code == 0 and ", seed " not in text, "nothing is trained twice"
    sentence = call(*TINY, *out, "--longer", "3")[1]
    assert "was measured with other settings" in sentence


def test_a_rung_that_orders_as_the_large_training_does_has_full_agreement_and_no_regret():
    losses = [3.0, 2.0, 1.0, 2.5]
    entries = {
        str(i): {
            **{"parameters": 100, "flops": i, "proxy": {"0": [{"text_loss": -loss}, {"text_loss": loss}]}},
            "large": {"0": [{"text_loss": loss}], "1": [{"text_loss": loss + 0.01}]},
        }
        for i, loss in enumerate(losses)
    }
    rows = {row["guess"]: row for row in judge({"architectures": entries, "rungs": [0.25, 1.0]})}
    assert rows["rung 1"]["agreement"]["value"] == 1.0 and rows["rung 1"]["regret"]["value"] == 0.0
    assert rows["rung 0.25"]["agreement"]["value"] == 0.0
    assert rows["rung 0.25"]["regret"]["value"] == pytest.approx(2.0)
    assert rows["parameters"]["agreement"]["value"] == 0.5
    assert rows["rung 1"]["noise"] == pytest.approx(0.01 / np.sqrt(2))
