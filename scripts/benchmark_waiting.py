"""How long torch's threads should spin before they sleep: a network on an idle and on a busy machine, by spin count.

    python scripts/benchmark_waiting.py            writes docs/benchmarks/waiting.md

Each setting runs in a process of its own, because OpenMP reads it once. `0` never spins, `endless` is what OpenMP does
if nothing is set. Busy is one other process that computes all the time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from scripts.command_line import DESIGNS, speaking_to_users

OUT = Path("docs/benchmarks/waiting.md")
SPINS = ("0", "2000", "20000", "100000", "endless")
DESIGN = DESIGNS / "gated-deltanet-attention-3-1.yaml"
CONTEXT, PROMPT = 4096, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each time (default: 3)")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each setting (default: 3)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the file that is written (default: {OUT})")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with speaking_to_users(interrupted="Nothing was written."):
        if arguments.in_process:
            print(json.dumps(measure(arguments.seconds)))
            return
        text = table(arguments.seconds, arguments.repeats)
        arguments.out.write_text(text)
        print(text)


def measure(seconds: float) -> dict[str, float]:
    """Milliseconds of one decoding step and of one prompt in this process, and what they were taken with."""
    import torch

    from nas.architecture import read_architecture
    from nas.measure import time_call
    from nas.measure.phases import phase_call
    from nas.measure.random_model import random_model
    from nas.workload import Decode, Prefill

    device = torch.device("cpu")
    model = random_model(read_architecture(DESIGN), device, torch.float32)
    phases = {"decode": Decode(batch=1, context=CONTEXT), "prefill": Prefill(batch=1, prompt=PROMPT)}
    return {
        name: time_call(phase_call(model, phase, device), device, seconds=seconds, precision=0.001).value
        for name, phase in phases.items()
    }


def table(seconds: float, repeats: int) -> str:
    """The summary as Markdown: median over the processes, and their range."""
    from nas.measure import choose_device, describe_device

    lines = [
        "# How long threads spin before they sleep",
        "",
        f"{DESIGN.stem}, float32, by `python scripts/benchmark_waiting.py`; "
        + ", ".join(f"{key} {value}" for key, value in describe_device(choose_device("cpu")).items())
        + f"; {repeats} processes for each, settings in turn, {seconds:g} s for each time.",
        "",
        "| spins | machine | decoding a token, ms | range | reading a prompt, ms | range |",
        "|---|---|---|---|---|---|",
    ]
    for machine in ("idle", "busy"):
        found: dict[str, list[dict[str, float]]] = {spins: [] for spins in SPINS}
        with other_work(machine == "busy"):
            for _ in range(repeats):
                for spins, times in found.items():
                    times.append(in_process(spins, seconds))
        for spins, times in found.items():
            cells = []
            for phase in ("decode", "prefill"):
                values = [time[phase] for time in times]
                cells.append(f"{statistics.median(values):.3g} | {min(values):.3g} to {max(values):.3g}")
            lines.append(f"| {spins} | {machine} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def in_process(spins: str, seconds: float) -> dict[str, float]:
    """`measure` in a process with this setting."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {} if spins == "endless" else {"GOMP_SPINCOUNT": spins}
    command = [sys.executable, __file__, "--in-process", "--seconds", str(seconds)]
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@contextmanager
def other_work(wanted: bool):
    """One other process that computes, while the block runs."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
