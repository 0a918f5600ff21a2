"""The scans of vector and diagonal states on a CPU, forward and backward, beside the PyTorch code of transformers.

    python scripts/benchmark_scans.py            writes docs/benchmarks/scans.json and .md

Times of one row are taken in turn, so that what disturbs one disturbs both; compare the ratios. An answer is compared
with that of transformers before it is timed. Needs `transformers`.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as in benchmark_kernels.py
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import kernels
from nas.measure.clock import time_together
from nas.measure.device import choose_device, describe_device
from nas.measurement import Measurement
from scripts.kernel_lab.operations import Operation, Random
from scripts.kernel_lab.scan_operations import SelectiveScan, VectorRecurrence, Wkv
from scripts.provenance import commit, version_of

OUT = Path("docs/benchmarks/scans")
LARGEST_DIFFERENCE = 1e-3  # relative root mean square, of outputs and gradients in float32
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """Milliseconds. aim: theirs in times of ours, where the project has set itself one."""

    layer: str
    ours: Measurement
    transformers: Measurement
    aim: float | None

    @property
    def ratio(self) -> float:
        return self.transformers.value / self.ours.value


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1,512,128", help="sequences, tokens, inner channels (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of samples a row (default: 20)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"without ending (default: {OUT})")
    options = parser.parse_args(arguments)
    B, T, D = (int(size) for size in options.shape.split(","))
    layers: list[tuple[str, Operation, Function, float | None]] = [
        ("Mamba-1, 16 states", SelectiveScan(B=B, T=T, Dm=D, N=16), mamba, 10.0),
        ("RG-LRU", VectorRecurrence(B=B, T=T, D=D), rg_lru, None),
        ("RWKV-4", Wkv(B=B, T=T, D=D), rwkv, None),
    ]
    rows = []
    for name, operation, theirs, aim in layers:
        rows.append(Row(name, *measure(name, operation, theirs, options.seconds), aim))
        print(line(rows[-1]), flush=True)
    write(rows, options.out, options.shape)


def measure(name: str, operation: Operation, theirs: Function, seconds: float) -> tuple[Measurement, Measurement]:
    """Ours, then theirs."""
    random = Random(torch.Generator().manual_seed(0), torch.float32)
    arguments = operation.arguments(random)
    inputs = {one: arguments[one].requires_grad_() for one in operation.differentiable}
    cotangent = random.normal(*operation.output_shape(arguments))

    def ours(**given: Tensor) -> Tensor:
        with kernels.use_backend("portable"):
            out = getattr(kernels, operation.function)(**given)
        assert isinstance(out, Tensor)
        return out

    check(name, both_passes(ours, inputs, cotangent), both_passes(theirs, inputs, cotangent))
    calls = {
        "ours": [lambda: both_passes(ours, inputs, cotangent)],
        "transformers": [lambda: both_passes(theirs, inputs, cotangent)],
    }
    times = time_together(calls, torch.device("cpu"), seconds=seconds)
    return times["ours"], times["transformers"]


def both_passes(function: Function, inputs: dict[str, Tensor], cotangent: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    out = function(**inputs)
    return [out.detach(), *torch.autograd.grad(out, list(inputs.values()), cotangent)]


def check(name: str, expected: list[Tensor], actual: list[Tensor]) -> None:
    """Raises RuntimeError where two implementations disagree: a time of either would mean nothing."""
    for one, other in zip(expected, actual, strict=True):
        difference = float((one - other).square().mean().sqrt() / one.square().mean().sqrt())
        if not difference < LARGEST_DIFFERENCE:
            raise RuntimeError(f"{name}: ours and transformers differ by {difference:.2g}, so neither is timed.")


def mamba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
    return mamba_selective_scan(u, delta, A, B, C, D, z).transpose(1, 2)


def rg_lru(x: Tensor, log_decay: Tensor) -> Tensor:
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    scan = vars(RecurrentGemmaRglru)["_rnn_scan"]  # it uses nothing of its module
    return scan(None, x, log_decay.exp(), torch.zeros(*x.shape[:2], 1, dtype=torch.bool), None)[0]


def rwkv(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    return rwkv_linear_attention_cpu(torch.log(-w), u, k, v)[0]


def line(row: Row) -> str:
    """One row of the table."""
    aim = "" if row.aim is None else f"{row.aim:g}"
    return f"| {row.layer} | {cell(row.ours)} | {cell(row.transformers)} | {row.ratio:.1f} | {aim} |"


def cell(time: Measurement) -> str:
    return f"{time.value:.4g} ({time.low:.4g} to {time.high:.4g}, n = {time.n})"


def write(rows: list[Row], out: Path, shape: str) -> None:
    device = describe_device(choose_device("cpu"))
    facts = {"commit": commit(), "transformers": version_of("transformers"), "load": round(os.getloadavg()[1], 1)}
    B, T, D = shape.split(",")
    lines = [
        "# Scans on a CPU",
        "",
        f"Forward and backward in float32, {B} sequences of {T} tokens, {D} channels: median of milliseconds (20th to "
        "80th percentile, n).",
        "",
        "| layer | ours | transformers | transformers / ours | aim |",
        "|---|---|---|---|---|",
        *(line(row) for row in rows),
        "",
        f"{device['name']}, {device['cores']} cores, {device['threads']} threads, torch {device['torch']}, "
        f"transformers {facts['transformers']}, commit {facts['commit']}. Processes that wanted a core, on average "
        f"over five minutes: {facts['load']}; where that is above the cores, only ratios mean something. Written by "
        "`python scripts/benchmark_scans.py`.",
        "",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines))
    told = {"device": device, **facts, "shape": shape, "rows": [asdict(row) for row in rows]}
    out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
