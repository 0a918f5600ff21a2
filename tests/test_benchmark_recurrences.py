"""The benchmark of the recurrences on a CPU, on sizes that take a moment."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import sys; from scripts.benchmark_recurrences import main; main(sys.argv[1:])"


def test_every_layer_gets_a_row_with_its_products_and_rivals(tmp_path):
    """In a process of its own: it keeps fla from transformers, for good."""
    out = tmp_path / "recurrences"
    command = [sys.executable, "-c", PROGRAM, "--shape", "1,64,1,16", "--rounds", "2", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert finished.returncode == 0, finished.stderr
    told = json.loads(out.with_suffix(".json").read_text())
    rivals = {row["layer"]: row["transformers"] is not None for row in told["rows"]}
    assert rivals == {
        "linear attention": False, "Mamba-2": True, "gated DeltaNet": True, "GLA": False,
        "Kimi Delta Attention": True, "RWKV-7": False,
    }  # fmt: skip
    assert all(row["ours"]["samples"] == 2 and row["ours"]["milliseconds"] > 0 for row in told["rows"])
    table = out.with_suffix(".md").read_text()
    assert all(f"| {layer} |" in table for layer in rivals) and told["commit"] in table


def test_a_wrong_rival_is_not_timed():
    program = """
import torch
from scripts.benchmark_recurrences import LAYERS, check
try:
    check(LAYERS[1], [torch.ones(3)], [torch.full((3,), 1.1)])
except RuntimeError as error:
    print(error)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "Mamba-2: ours and mamba2_chunk_scan differ by 0.1" in finished.stdout, finished.stderr
