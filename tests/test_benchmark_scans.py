"""The benchmark of the scans on a CPU, on sizes that take a moment."""

import json

import pytest
import torch

from scripts import benchmark_scans


def test_every_layer_gets_a_row_beside_transformers(tmp_path):
    out = tmp_path / "scans"
    benchmark_scans.main(["--shape", "1,16,8", "--seconds", "0.01", "--out", str(out)])
    told = json.loads(out.with_suffix(".json").read_text())
    assert [row["layer"] for row in told["rows"]] == ["Mamba-1, 16 states", "RG-LRU", "RWKV-4"]
    assert all(row[name]["value"] > 0 for row in told["rows"] for name in ("ours", "transformers"))
    table = out.with_suffix(".md").read_text()
    assert all(f"| {row['layer']} |" in table for row in told["rows"]) and told["commit"] in table


def test_a_wrong_rival_is_not_timed():
    with pytest.raises(RuntimeError, match=r"RG-LRU: ours and transformers differ by 0\.1"):
        benchmark_scans.check("RG-LRU", [torch.ones(3)], [torch.full((3,), 1.1)])
