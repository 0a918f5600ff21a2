"""The matrix recurrence on a CPU, forward and backward: beside its matrix products alone, and beside transformers.

    python scripts/benchmark_recurrences.py            writes docs/benchmarks/recurrences.json and .md
    python scripts/benchmark_recurrences.py --alone --threads 1 --out docs/benchmarks/recurrences_one_thread

Per published layer: the portable implementation, the batched matrix products that its chunked form cannot do without
(three times those of the forward pass), and the PyTorch code of transformers for the same operation, where it has one.
Times of one layer are taken in turn, so that what disturbs one disturbs all; compare the ratios, and within one row. An
answer is compared with ours before it is timed. Needs `transformers`, and keeps `fla` from it, whose kernels it would
call and which do not run on a CPU.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as in benchmark_kernels.py
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import kernels
from nas.measure.device import choose_device, describe_device
from nas.measure.rival_cases import as_called
from scripts.kernel_lab.operations import CHUNK, Random, Recurrence, Setting
from scripts.provenance import commit, version_of

OUT = Path("docs/benchmarks/recurrences")
LARGEST_DIFFERENCE = 1e-3  # relative root mean square, of outputs and gradients in float32
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Layer:
    """products: matrix products of the chunked form in a forward pass; aim: our time in times of all products."""

    name: str
    setting: Setting
    products: int
    aim: float
    rival: str | None = None


# Products of q k, P v, q S and k v; erasing adds k k, the inverse times v and k, and E S; a free erase its second key.
LAYERS = (
    Layer("linear attention", Setting("none"), 4, 5.0),
    Layer("Mamba-2", Setting("head"), 4, 5.0, "mamba2_chunk_scan"),
    Layer("gated DeltaNet", Setting("head", delta=True), 8, 8.0, "torch_chunk_gated_delta_rule"),
    Layer("GLA", Setting("channel"), 4, 8.0),
    Layer("RWKV-7", Setting("channel", erase=True), 13, 8.0),
    Layer("Kimi Delta Attention", Setting("channel", delta=True), 8, 8.0, "chunk_kimi_delta_attention"),
)


@dataclass(frozen=True)
class Times:
    milliseconds: float
    least: float
    most: float
    samples: int


@dataclass(frozen=True)
class Row:
    layer: str
    aim: float
    products: Times
    ours: Times
    transformers: Times | None


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", default="2,2048,4,64", help="sequences, tokens, heads, head size (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=9, help="samples of each (default: 9)")
    parser.add_argument("--seconds", type=float, default=30.0, help="no further samples of one that took so long")
    parser.add_argument("--threads", type=int, help="of torch; one is disturbed least on a busy machine (default: all)")
    parser.add_argument("--alone", action="store_true", help="without transformers, whose code may take minutes")
    parser.add_argument("--out", type=Path, default=OUT, help=f"without ending (default: {OUT})")
    options = parser.parse_args(arguments)
    shape = tuple(int(size) for size in options.shape.split(","))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rows = []
    for layer in (replace(one, rival=None) for one in LAYERS) if options.alone else LAYERS:
        rows.append(measure(layer, shape, options.rounds, options.seconds))
        print(line(rows[-1]), flush=True)
        write(rows, options.out, shape)


def measure(layer: Layer, shape: tuple[int, ...], rounds: int, seconds: float) -> Row:
    calls: dict[str, Callable[[], object]] = {"products": matrix_products(layer, shape)}
    inputs = make_inputs(layer, shape)
    calls["ours"] = lambda: forward_backward(ours, inputs)
    if layer.rival is not None:
        rival = transformers_function(layer.rival)
        check(layer, forward_backward(ours, inputs), forward_backward(rival, inputs))
        calls["transformers"] = lambda: forward_backward(rival, inputs)
    else:
        calls["ours"]()
    times = sample(calls, rounds, seconds)
    return Row(layer.name, layer.aim, times["products"], times["ours"], times.get("transformers"))


def make_inputs(layer: Layer, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What receives gradients, and the gradient of the output."""
    B, T, H, D = shape
    one = Recurrence(B=B, T=T, Hqk=H, Hv=H, K=D, V=D, **asdict(layer.setting))
    random = Random(torch.Generator().manual_seed(0), torch.float32)
    given = one.arguments(random)
    inputs = {name: given[name].requires_grad_() for name in one.differentiable}
    return inputs | {"d_out": random.normal(B, T, H, D)}


def forward_backward(function: Function, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The output and all gradients."""
    given = {name: tensor for name, tensor in inputs.items() if name != "d_out"}
    out = function(**given)
    return [out, *torch.autograd.grad(out, list(given.values()), inputs["d_out"])]


def ours(**given: Tensor) -> Tensor:
    with kernels.use_backend("portable"):
        out = kernels.matrix_recurrence(**as_called(given))
    assert isinstance(out, Tensor)
    return out


def transformers_function(name: str) -> Function:
    """A function of transformers under the names of our arguments; fla cannot be imported in this process any more."""
    sys.modules["fla"] = None  # pyright: ignore[reportArgumentType]
    from transformers.models.kimi_linear.modeling_kimi_linear import chunk_kimi_delta_attention
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    def mamba2(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
        # It multiplies v by the step size, which is minus the decay where the rate is -1.
        rate = -torch.ones(v.shape[2])
        return mamba2_chunk_scan(v / -log_decay[..., None], -log_decay, rate, k, q * q.shape[-1] ** -0.5, 256)

    functions: dict[str, Function] = {
        "mamba2_chunk_scan": mamba2,
        "torch_chunk_gated_delta_rule": lambda q, k, v, log_decay, beta: torch_chunk_gated_delta_rule(
            q, k, v, g=log_decay, beta=beta
        )[0],
        "chunk_kimi_delta_attention": lambda q, k, v, log_decay, beta: chunk_kimi_delta_attention(
            q, k, v, log_decay, beta
        )[0],
    }
    return functions[name]


def check(layer: Layer, expected: list[Tensor], actual: list[Tensor]) -> None:
    """Raises RuntimeError where two implementations disagree: a time of either would mean nothing."""
    for one, other in zip(expected, actual, strict=True):
        one, other = one.detach(), other.detach()
        difference = float((one - other).square().mean().sqrt() / one.square().mean().sqrt())
        if not difference < LARGEST_DIFFERENCE:
            raise RuntimeError(f"{layer.name}: ours and {layer.rival} differ by {difference:.2g}, so neither is timed.")


def matrix_products(layer: Layer, shape: tuple[int, ...]) -> Callable[[], None]:
    """As many batched products of [CHUNK, D] matrices as forward and backward pass need, and nothing else."""
    B, T, H, D = shape
    left, right = torch.randn(B * H * max(1, T // CHUNK), CHUNK, D), torch.randn(B * H * max(1, T // CHUNK), D, D)

    def run() -> None:
        for _ in range(3 * layer.products):
            torch.bmm(left, right)

    return run


def sample(calls: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Times]:
    """Times in turn, of calls that have run once before, but for the products."""
    calls["products"]()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if sum(taken[name]) < 1e3 * seconds:
                start = time.perf_counter()
                call()
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: Times(statistics.median(ms), min(ms), max(ms), len(ms)) for name, ms in taken.items()}


def line(row: Row) -> str:
    """One row of the table."""
    cells = [row.layer, cell(row.products), cell(row.ours), f"{row.ours.milliseconds / row.products.milliseconds:.1f}"]
    cells.append(f"{row.aim:g}")
    if row.transformers is None:
        cells += ["", ""]
    else:
        cells += [cell(row.transformers), f"{row.transformers.milliseconds / row.ours.milliseconds:.1f}"]
    return f"| {' | '.join(cells)} |"


def cell(times: Times) -> str:
    return f"{times.milliseconds:.4g} ({times.least:.4g} to {times.most:.4g}, n = {times.samples})"


def write(rows: list[Row], out: Path, shape: tuple[int, ...]) -> None:
    device = describe_device(choose_device("cpu"))
    facts = {"commit": commit(), "transformers": version_of("transformers"), "load": round(os.getloadavg()[1], 1)}
    B, T, H, D = shape
    lines = [
        "# The matrix recurrence on a CPU",
        "",
        f"Forward and backward in float32, {B} sequences of {T} tokens, {H} heads of {D}: median of milliseconds "
        "(range, n).",
        "",
        "| layer | its matrix products | ours | ours / products | aim | transformers | transformers / ours |",
        "|---|---|---|---|---|---|---|",
        *(line(row) for row in rows),
        "",
        f"{device['name']}, {device['cores']} cores, {device['threads']} threads, torch {device['torch']}, "
        f"transformers {facts['transformers']}, commit {facts['commit']}. Processes that wanted a core, on average "
        f"over five minutes: {facts['load']}; where that is above the cores, only ratios mean something. Written by "
        "`python scripts/benchmark_recurrences.py`.",
        "",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines))
    told = {"device": device, **facts, "shape": shape, "rows": [asdict(row) for row in rows]}
    out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
