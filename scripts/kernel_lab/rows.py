"""What a kernel benchmark found out: a row for each implementation of each problem, as JSON and as Markdown tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nas.devices import DeviceSpec
from nas.measurement import Measurement
from scripts.kernel_lab.problems import Check, Problem

OURS = "ours"
COPY = "copy_gigabytes_per_second"  # in the environment: read and written by one large copy, measured once a record


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation at one problem in one direction (`forward`, `forward_backward`, `forward in a graph`).

    status: `right`, `wrong` (no time is taken), `failed` (it raised, see `reason`), `skipped` (nobody could say what is
    right). error: the worst relative error, of the tensor `error_of`. milliseconds: median, 20th and 80th percentile.
    roofline: share of the best possible time on the described device. copy_share: of the bandwidth of a large copy that
    was measured on it, where bytes are the bound. launches: kernel -> tuned, nearest or default; empty for
    implementations that are not ours.
    """

    op: str
    problem: str
    dtype: str
    direction: str
    name: str
    status: str
    reason: str = ""
    error: float | None = None
    error_of: str = ""
    milliseconds: tuple[float, float, float] | None = None
    n: int = 0
    tflops: float | None = None
    gigabytes_per_second: float | None = None
    bound: str = ""
    roofline: float | None = None
    copy_share: float | None = None
    launches: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def right_row(
    problem: Problem,
    direction: str,
    name: str,
    check: Check,
    timing: Measurement,
    spec: DeviceSpec | None,
    launches: Mapping[str, str],
    copy: float | None = None,
) -> Row:
    """With its time, and what that time means. copy: GB/s of a large copy on this device, where it was measured."""
    cost = problem.cost("forward" if direction.startswith("forward in") else direction)
    roofline, bound = None, ""
    if spec is not None:
        peak_type = "float32" if cost.vector else problem.dtype
        arithmetic = spec.milliseconds(cost.flops, 0.0, peak_type)
        traffic = spec.milliseconds(0.0, cost.bytes, peak_type)
        roofline, bound = max(arithmetic, traffic) / timing.value, "FLOP" if arithmetic > traffic else "bytes"
    rate = cost.bytes / timing.value / 1e6
    return Row(
        op=problem.op,
        problem=problem.name,
        dtype=problem.dtype,
        direction=direction,
        name=name,
        status="right",
        error=check.error,
        error_of=check.name,
        milliseconds=(timing.value, timing.low, timing.high),
        n=timing.n,
        tflops=cost.flops / timing.value / 1e9,
        gigabytes_per_second=rate,
        bound=bound,
        roofline=roofline,
        copy_share=rate / copy if copy is not None and bound == "bytes" else None,
        launches=dict(launches),
        notes=timing.notes,
    )


def bad_row(problem: Problem, direction: str, name: str, status: str, reason: str, check: Check | None = None) -> Row:
    """Without a time: its result is wrong, or there is none."""
    return Row(
        op=problem.op,
        problem=problem.name,
        dtype=problem.dtype,
        direction=direction,
        name=name,
        status=status,
        reason=reason,
        error=None if check is None else check.error,
        error_of="" if check is None else check.name,
    )


def key_of(problem: Problem) -> tuple[str, str, str]:
    return problem.op, problem.name, problem.dtype


def done_already(rows: Sequence[Row]) -> set[tuple[str, str, str]]:
    """The problems that have rows, as `key_of` names them."""
    return {(row.op, row.problem, row.dtype) for row in rows}


def write(rows: Sequence[Row], environment: Mapping[str, object], folder: Path) -> None:
    """`kernels.json` and `kernels.md` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"environment": dict(environment), "rows": [asdict(row) for row in rows]}
    (folder / "kernels.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "kernels.md").write_text(markdown(rows, environment))


def read(folder: Path, environment: Mapping[str, object]) -> tuple[list[Row], float | None]:
    """The rows of an earlier run with the same device, versions and commit, and the copy they are compared with.

    Nothing where there is no such run.
    """
    path = folder / "kernels.json"
    if not path.exists():
        return [], None
    record = json.loads(path.read_text())
    copy = record["environment"].pop(COPY, None)
    if record["environment"] != dict(environment):
        return [], None
    rows = []
    for data in record["rows"]:
        times = data["milliseconds"]
        times = None if times is None else tuple(times)
        rows.append(Row(**{**data, "milliseconds": times, "notes": tuple(data["notes"])}))
    return rows, copy


def markdown(rows: Sequence[Row], environment: Mapping[str, object]) -> str:
    """A table for each function, the environment above it."""
    lines = ["# Kernels beside their rivals", ""]
    lines += [f"{name}: {value}  " for name, value in environment.items()]
    lines += [
        "",
        "Milliseconds are medians with their 20th and 80th percentile; `share` is that of the roofline, of FLOP or of "
        "bytes, and on a GPU, where bytes are the bound, also that of the bandwidth of one large copy; `error` is the "
        "worst relative error of outputs and gradients against float32. What is wrong has no time.",
    ]
    for op in dict.fromkeys(row.op for row in rows):
        lines += [
            "",
            f"## {op}",
            "",
            "| problem | direction | implementation | ms | n | rate | share | error | launch |",
        ]
        lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        lines += [table_line(row) for row in rows if row.op == op]
    return "\n".join(lines) + "\n"


def table_line(row: Row) -> str:
    error = "" if row.error is None else f"{row.error:.1e} ({row.error_of})"
    cells = [f"{row.problem}, {row.dtype}", row.direction.replace("_", " + "), row.name]
    if row.milliseconds is None:
        return "| " + " | ".join([*cells, row.status, "", "", "", error, row.reason.replace("|", "/")]) + " |"
    median, low, high = row.milliseconds
    by_bytes = row.bound == "bytes"
    assert row.tflops is not None
    flops = f"{row.tflops:.3g} TFLOP/s" if row.tflops >= 1 else f"{row.tflops * 1e3:.3g} GFLOP/s"
    rate = f"{row.gigabytes_per_second:.0f} GB/s" if by_bytes else flops
    share = "" if row.roofline is None else f"{row.roofline:.0%} of {row.bound}"
    share += "" if row.copy_share is None else f", {row.copy_share:.0%} of a copy"
    launch = ", ".join(sorted(set(row.launches.values())))
    times = f"{median:.4g} ({low:.4g} to {high:.4g})"
    return "| " + " | ".join([*cells, times, str(row.n), rate, share, error, launch]) + " |"
