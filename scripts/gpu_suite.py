"""Everything that needs a GPU, in stages of under nine minutes each.

    python scripts/gpu_suite.py --out DIR                 all stages
    python scripts/gpu_suite.py --out DIR --only bench    those of a name or group; several by commas
    python scripts/gpu_suite.py --dry-run                 what would run, without a GPU too

Each stage is a process of its own with a time limit; one that reaches it is interrupted, then ended, and leaves what
it has. A stage that succeeded is not run again (--again runs it); one that was stopped goes on where it was. The same
command can be repeated until the summary shows no unfinished stage. DIR receives three files after every stage:
summary.txt, results.json and suite.tar.gz with everything worth keeping; on another machine the suite goes on from
that archive, from which what ships is copied: tuned launches to kernels/tuned, a table of blocks to nas/measure/tables,
pages of benchmarks to docs/benchmarks. Needs no network. Packages beyond torch and triton are named with each stage by
--dry-run; a stage whose package is missing is skipped. They can be handed over as a folder of unpacked wheels on
PYTHONPATH.

Exit code 0 when every stage passed or was skipped, 1 when one failed or is unfinished, 2 without a GPU.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 510.0  # with the grace under nine minutes
GRACE_SECONDS = 20.0  # between the interrupt and the end
UNFINISHED_CODES = (3, 130)  # see scripts/exit_codes.py; this script imports nothing of ours
LARGEST_KEPT_BYTES = 4_000_000
TOTAL_KEPT_BYTES = 60_000_000  # before compression
MEASURE_PACKAGES = ("hydra", "omegaconf", "yaml")
SEARCH_PACKAGES = (*MEASURE_PACKAGES, "optuna", "lightning", "tokenizers", "plotly", "matplotlib", "rich")
TEST_FOLDERS = ("contract", "kernels", "measure")  # with tests that need a GPU
TEST_PACKAGES = ("pytest", *SEARCH_PACKAGES, "fla", "transformers")  # collecting imports every test file
FUNCTIONS = (  # of kernels, which is not imported: the plan is shown at once
    "attention",
    "attention_step",
    "block_sparse_attention",
    "matrix_recurrence",
    "matrix_recurrence_step",
    "mlstm",
    "mlstm_step",
    "selective_scan",
    "selective_scan_step",
    "grouped_matmul",
    "moe_ffn",
    "route_top_k",
    "glu",
    "rms_norm",
    "l2_norm",
    "linear_cross_entropy",
    "rope",
    "short_convolution",
    "short_convolution_step",
    "vector_recurrence",
    "vector_recurrence_step",
    "wkv",
    "wkv_step",
)
FAMILIES = (
    "attention",
    "block_sparse_attention",
    "matrix_recurrence",
    "selective_scan",
    "grouped_matmul",
    "moe",
    "route_top_k",
    "glu",
    "linear_cross_entropy",
    "rms_norm",
    "rope",
    "short_convolution",
    "vector_recurrence",
    "wkv",
)  # of kernels, to be tuned


@dataclass(frozen=True)
class Stage:
    """A command. look_at: what a reader should see, in the folder of the stages. --only takes the group, too."""

    name: str
    command: tuple[str, ...]
    look_at: str
    packages: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Outcome:
    """result: passed, failed, unfinished or skipped."""

    stage: str
    result: str
    seconds: float
    look_at: str
    reason: str = ""


def stages(work: Path, arch: int, device_name: str) -> list[Stage]:
    """All stages, the ones that the others rest on first. arch: compute capability, such as 90."""
    seconds = f"{LIMIT_SECONDS - 120:.0f}"  # what is begun last has to end in time
    compiled = ("--arch", str(arch), "--jobs", str(os.cpu_count() or 1))
    tests = ("--jobs", str(min(8, os.cpu_count() or 1)), "--out", str(work / "tests"))
    tune = [
        Stage(f"tune-{op}", script("tune_kernels", "--op", op, "--seconds", seconds), f"kernels/tuned, {device_name}")
        for op in FAMILIES
    ]
    bench = ("--limit", seconds, "--out", str(work / "bench"))
    return [
        Stage("compile", (sys.executable, "-m", "kernels.ahead_of_time", *compiled), "compile.log"),
        Stage("tests", script("check_kernels", *tests), "tests/findings.json", ("yaml",)),
        *(Stage(f"pytest-{one}", marked(f"tests/{one}"), f"pytest-{one}.log", TEST_PACKAGES) for one in TEST_FOLDERS),
        *tune,
        *(
            Stage(f"bench-{one}", script("benchmark_kernels", "--op", one, *bench), "bench/kernels.md", ("yaml",))
            for one in FUNCTIONS
        ),
        *network_stages(work),
    ]


def network_stages(work: Path) -> list[Stage]:
    """Whole networks: measured, and searched."""

    def search(study: str, *overrides: str) -> tuple[str, ...]:
        return (sys.executable, "search.py", f"study={study}", f"outputs={work}", "tracker=none", *overrides)

    limit = f"{LIMIT_SECONDS - 60:.0f}"
    table = script("measure_table", "--limit", limit, "--out", str(work / "table"), "budget=gpu_1h")
    measurement = script("benchmark_measurement", "--limit", limit, "--out", str(work / "measurement"), "budget=gpu_1h")
    trained = ("--limit", limit, "--seeds", "1", "--out", str(work / "default.json"))
    default = script("benchmark_default", *trained, "budget=gpu_1h")
    real = search("search-real", "budget=gpu_1h", "budget.trials=6")
    return [
        Stage("table", table, "table", MEASURE_PACKAGES),
        Stage("measurement", measurement, "measurement", MEASURE_PACKAGES),
        Stage("search-smoke", search("search-smoke", "budget=smoke"), "search-smoke/trials.csv", SEARCH_PACKAGES),
        Stage("search-real", real, "search-real/trials.csv", SEARCH_PACKAGES),
        Stage("default", default, "default.md", SEARCH_PACKAGES),
    ]


def marked(folder: str) -> tuple[str, ...]:
    """The tests of a folder that need a GPU."""
    return (sys.executable, "-m", "pytest", "-m", "gpu", folder)


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, f"scripts/{name}.py", *arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's background job; stages are to hear interrupts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gpu = find_gpu()
    if gpu is None and not options.dry_run:
        print("The suite needs a CUDA GPU, but torch finds none; --dry-run lists its stages.", file=sys.stderr)
        return 2
    arch, name = gpu if gpu is not None else (90, "a GPU of compute capability 9.0")
    work = options.work.resolve()
    chosen = choose(stages(work, arch, name), options.only)
    if not chosen:
        known = ", ".join(stage.name for stage in stages(work, arch, name))
        print(f"--only must name stages or groups of them, but got {options.only!r}: use {known}.", file=sys.stderr)
        return 2
    if options.dry_run:
        show_plan(chosen)
        return 0
    restore(options.out, work)
    return run_all(chosen, work, options.out, name, again=options.again)


def run_all(chosen: list[Stage], work: Path, out: Path, device_name: str, *, again: bool) -> int:
    """Run what has not passed yet; the results are written after every stage."""
    outcomes = {one.stage: one for one in read_outcomes(work)}
    for stage in chosen:
        before = outcomes.get(stage.name)
        if before is not None and before.result == "passed" and not again:
            print(f"{stage.name}: passed before, {before.seconds:.0f} s", flush=True)
            continue
        print(f"{stage.name}: {shlex.join(stage.command)}", flush=True)
        outcomes[stage.name] = run_stage(stage, work)
        print(f"{stage.name}: {outcomes[stage.name].result} {outcomes[stage.name].reason}", flush=True)
        keep(list(outcomes.values()), work, out, device_name)
    keep(list(outcomes.values()), work, out, device_name)
    print((out / "summary.txt").read_text())
    wrong = [stage for stage in chosen if outcomes[stage.name].result in ("failed", "unfinished")]
    return 1 if wrong else 0


def run_stage(stage: Stage, work: Path) -> Outcome:
    """One stage in a process group of its own, with its output in a log."""
    missing = [name for name in stage.packages if importlib.util.find_spec(name) is None]
    if missing:
        return Outcome(stage.name, "skipped", 0.0, stage.look_at, f"not installed: {', '.join(missing)}")
    work.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    environment["TRITON_INTERPRET"] = "0"  # said, since the tests interpret kernels unless told
    start = time.monotonic()
    log = work / f"{stage.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            stage.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code, stopped = wait(process)
        finally:
            end_group(process)
    seconds = time.monotonic() - start
    if stopped or code in UNFINISHED_CODES:
        return Outcome(stage.name, "unfinished", seconds, stage.look_at, "stopped by the time limit; run it again")
    if code == 0:
        return Outcome(stage.name, "passed", seconds, stage.look_at)
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Outcome(
        stage.name, "failed", seconds, stage.look_at, f"exit code {code}: {lines[-1][:200] if lines else ''}"
    )


def wait(process: subprocess.Popen[bytes]) -> tuple[int, bool]:
    """The exit code, and whether the limit was reached: then an interrupt, which our commands answer, comes first."""
    try:
        return process.wait(LIMIT_SECONDS), False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        return process.wait(GRACE_SECONDS), True
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL, True


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a stage, its workers too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def choose(every: list[Stage], only: str | None) -> list[Stage]:
    """The stages that --only names, by themselves or by group; none if a name is unknown."""
    if only is None:
        return every
    wanted = {word.strip() for word in only.split(",")}
    if wanted - {stage.name for stage in every} - {stage.group for stage in every}:
        return []
    return [stage for stage in every if {stage.name, stage.group} & wanted]


def find_gpu() -> tuple[int, str] | None:
    """Compute capability, as the newest that the compile stage knows and the GPU has, and name."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    known = [arch for arch in (80, 90, 100) if arch <= 10 * major + minor]
    return max(known, default=80), torch.cuda.get_device_name()


def show_plan(chosen: list[Stage]) -> None:
    for stage in chosen:
        needs = f"   needs {', '.join(stage.packages)}" if stage.packages else ""
        print(f"{stage.name}{needs}\n    {shlex.join(stage.command)}")


def read_outcomes(work: Path) -> list[Outcome]:
    path = work / "outcomes.json"
    return [Outcome(**one) for one in json.loads(path.read_text())] if path.exists() else []


def keep(outcomes: list[Outcome], work: Path, out: Path, device_name: str) -> None:
    """Write the three files: few and small enough to be brought away from a rented machine."""
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    records = [asdict(one) for one in outcomes]
    (work / "outcomes.json").write_text(json.dumps(records, indent=1) + "\n")
    (out / "results.json").write_text(
        json.dumps({"environment": environment(device_name), "stages": records}, indent=1)
    )
    (out / "summary.txt").write_text(summary(outcomes, device_name))
    left = TOTAL_KEPT_BYTES
    with tarfile.open(out / "suite.tar.gz", "w:gz") as archive:
        archive.add(work / "outcomes.json", "work/outcomes.json")
        for folder, prefix in ((work, "work"), (ROOT / "kernels" / "tuned", "kernels/tuned")):
            for path in sorted(folder.rglob("*")):
                size = path.stat().st_size if path.is_file() and not path.is_symlink() else LARGEST_KEPT_BYTES + 1
                if size > min(LARGEST_KEPT_BYTES, left) or path.suffix in (".safetensors", ".ckpt", ".pt"):
                    continue
                if path == work / "outcomes.json":
                    continue
                left -= size
                archive.add(path, f"{prefix}/{path.relative_to(folder)}")


def restore(out: Path, work: Path) -> None:
    """Go on from the archive of another machine where nothing was done here yet, with the launches tuned there."""
    archive = out / "suite.tar.gz"
    if work.exists() or not archive.exists():
        return
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            if member.name.startswith("work/"):
                member.name = member.name.removeprefix("work/")
                opened.extract(member, work, filter="data")
            elif member.name.startswith("kernels/tuned/") and not (ROOT / member.name).exists():
                opened.extract(member, ROOT, filter="data")


def environment(device_name: str) -> dict[str, str]:
    versions = {}
    for package in ("torch", "triton", "fla-core"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return {"device": device_name, **versions, "python": platform.python_version()}


def summary(outcomes: list[Outcome], device_name: str) -> str:
    """One line a stage."""
    lines = [f"GPU suite on {device_name}", f"{'stage':<26}{'result':<12}{'seconds':>8}  look at"]
    for one in outcomes:
        reason = f"   ({one.reason})" if one.reason else ""
        lines.append(f"{one.stage:<26}{one.result:<12}{one.seconds:>8.0f}  {one.look_at}{reason}")
    return "\n".join(lines) + "\n"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_suite"), help="folder of the three files")
    parser.add_argument("--work", type=Path, default=Path("outputs/gpu_suite_work"), help="folder of the stages")
    parser.add_argument("--only", help="stages or groups by commas, such as compile,tests,bench")
    parser.add_argument("--again", action="store_true", help="run stages that have passed, too")
    parser.add_argument("--dry-run", action="store_true", help="list the stages and what they need")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
