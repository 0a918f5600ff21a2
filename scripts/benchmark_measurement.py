"""How good is the measurement? Predictions from blocks against whole networks, repeatability, and what it costs.

    python scripts/benchmark_measurement.py                         50 random architectures of the default search space
    python scripts/benchmark_measurement.py --out DIR --limit 500   exit code 3 when 500 seconds were not enough

Random architectures of equal parameters are measured as whole networks and predicted from a table that is filled on the
way. Per phase: the error of the prediction (median and worst), and of the pairs whose measured times lie within a tenth
of each other, the share that the prediction orders right, beside what the roofline and the number of active parameters
achieve. All are then measured a second time, because no prediction can do better than the device repeats itself, and
one again and again. Writes measurement.json, from which the same command goes on, measuring anew what a busy device
had flagged, and measurement.md (scripts/measurement_page.py).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture, canonical_id
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.config_values import time_limit, whole
from scripts.exit_codes import UNFINISHED
from scripts.measure_table import deployed_samples
from scripts.measurement_page import summary
from scripts.settings import SearchSettings

if TYPE_CHECKING:
    from nas.measure.meter import TableMeter
    from nas.measurement import Measurement

OUT = Path("docs/benchmarks")
UNSEEN, UNSEEN_SEED = 100, 1_000_000
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as search_space=pattern")
    parser.add_argument("--architectures", type=int, default=50, help="random architectures (default: 50)")
    parser.add_argument("--repeats", type=int, default=20, help="measurements of one architecture (default: 20)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder of the results (default: {OUT})")
    parser.add_argument("--limit", type=float, help="seconds after which measuring stops (default: none)")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="What was measured is kept; the same command goes on from here."):
        whole("--architectures", arguments.architectures)
        whole("--repeats", arguments.repeats)
        time_limit("--limit", arguments.limit)
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides([*arguments.overrides, "measure=auto"])
        finished = run(settings, arguments.architectures, arguments.repeats, arguments.out, arguments.limit)
        if not finished:
            sys.exit(UNFINISHED)


def run(settings: SearchSettings, architectures: int, repeats: int, out: Path, limit: float | None) -> bool:
    """Measure what the record lacks, and write it and its summary; whether all of it is there."""
    from nas.measure.composition import ENOUGH
    from nas.measure.meter import TableMeter, open_meter

    out.mkdir(parents=True, exist_ok=True)
    record = open_record(out / "measurement.json", settings)
    # A table of its own: every block is measured in this benchmark, so that its cost is known.
    deployment = replace(settings.deployment, table=str(out / "measurement-blocks.json"))
    meter = open_meter(deployment, out)
    assert isinstance(meter, TableMeter) and meter.whole is not None
    deadline = time.perf_counter() + limit if limit is not None else float("inf")
    found = distinct(settings, ENOUGH + architectures)
    learned, chosen = found[:ENOUGH], found[ENOUGH:]
    for architecture in learned:  # what is predicted of the others was not learned from them
        if time.perf_counter() > deadline:
            break
        meter.measure(architecture)
    for architecture in chosen:
        if canonical_id(architecture) not in record["architectures"]:
            if time.perf_counter() > deadline:
                break
            record["architectures"][canonical_id(architecture)] = compare(architecture, meter, settings)
            save(record, out)
            print(f"{len(record['architectures'])} of {len(chosen)}: {progress(record, architecture)}", flush=True)
    for architecture in chosen:
        row = record["architectures"].get(canonical_id(architecture))
        if row is not None and "again" not in row and time.perf_counter() < deadline:
            whole = meter.whole.measure(architecture).costs["own"]
            row["again"], row["flags_again"] = values_of(whole), flags_of(whole)
            save(record, out)
            print(f"again: {', '.join(f'{q} {value:.4g} ms' for q, value in row['again'].items())}", flush=True)
    while len(record["repeats"]) < repeats and time.perf_counter() < deadline:
        whole = meter.whole.measure(chosen[0]).costs["own"]
        record["repeats"].append({"times": values_of(whole), "flags": flags_of(whole)})
        save(record, out)
    record["predictions_per_second"] = prediction_rate(chosen, meter, record)
    record["deployed_per_second"] = deploying_rate(settings)
    save(record, out)
    text = summary(record)
    (out / "measurement.md").write_text(text)
    print(text)
    complete = len(record["architectures"]) >= len(chosen) and len(record["repeats"]) >= repeats
    return complete and all("again" in row for row in record["architectures"].values())


def open_record(path: Path, settings: SearchSettings) -> Record:
    """The record that an earlier run left, if it was made alike; else a new one. Raises UserError for a torn one."""
    from nas.measure import choose_device, describe_device

    deployment = settings.deployment
    made = {
        "environment": describe_device(choose_device(deployment.device)),
        "deployment": json.loads(json.dumps(settings.definition["measure"])),
        "search_space": settings.definition["search_space"]["kind"],
    }
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if {key: found.get(key) for key in made} == made:
                return without_flagged(found)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no record of this command ({type(error).__name__}: {error}); "
                "move it away, and everything is measured anew."
            ) from None
    made |= {"seconds_allowed": deployment.seconds, "block_seconds_allowed": deployment.block_seconds}
    return {**made, "architectures": {}, "repeats": []}


def without_flagged(record: Record) -> Record:
    """The record without what was measured on a busy, throttled or swapping device, which is measured anew."""
    rows = {identity: dict(row) for identity, row in record["architectures"].items() if not row["flags"]}
    for row in rows.values():
        if row.get("flags_again"):
            del row["again"], row["flags_again"]
    repeats = [repeat for repeat in record["repeats"] if not repeat["flags"]]
    return {**record, "architectures": rows, "repeats": repeats}


def save(record: Record, out: Path) -> None:
    partial = out / "measurement.json.partial"
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(out / "measurement.json")


def distinct(settings: SearchSettings, wanted: int) -> list[Architecture]:
    """So many different deployed architectures: the reference designs, and random ones."""
    found: dict[str, Architecture] = {}
    for architecture in deployed_samples(settings, 20 * wanted):
        found.setdefault(canonical_id(architecture), architecture)
        if len(found) == wanted:
            break
    return list(found.values())


def compare(architecture: Architecture, meter: "TableMeter", settings: SearchSettings) -> Record:
    """One architecture predicted and measured, and the seconds of each."""
    from nas.count import count

    assert meter.whole is not None
    phases = set(settings.deployment.phases(architecture).values())
    blocks = len(meter.reader.table.entries)
    filling, _ = timed(lambda: meter.reader.complete(architecture, phases))
    measuring, whole = timed(lambda: meter.whole.measure(architecture))  # type: ignore[union-attr]
    predicted = meter.measure(architecture)
    counts = count(architecture, settings.deployment.workload.length)
    return {
        "measured": values_of(whole.costs["own"]),
        "spread": {q: (m.high - m.low) / 2 / m.value for q, m in whole.costs["own"].items()},
        "flags": flags_of(whole.costs["own"]),
        "predicted": values_of(predicted.costs["own"]),
        "roofline": values_of(predicted.costs["roofline"]),
        "parameters": counts.parameters,
        "active_parameters": counts.active_parameters,
        "peak_memory_bytes": predicted.numbers["peak_memory_bytes"].value,
        "measured_peak_memory_bytes": whole.numbers["peak_memory_bytes"].value,
        "new_blocks": len(meter.reader.table.entries) - blocks,
        "seconds": {"blocks": filling, "whole": measuring},
    }


def prediction_rate(architectures: Sequence[Architecture], meter: "TableMeter", record: Record) -> float:
    """Predictions a second of architectures that were not seen before, of blocks that are known."""
    known = [a for a in architectures if canonical_id(a) in record["architectures"]]
    for architecture in known:
        meter.measure(architecture)
    unseen = [replace(architecture, name=f"{architecture.name} again") for architecture in known]
    seconds, _ = timed(lambda: [meter.measure(architecture) for architecture in unseen])
    return len(known) / seconds if known else 0.0


def deploying_rate(settings: SearchSettings) -> float:
    """Architectures a second that are sampled, matched and resized, none of them seen before."""
    seconds, found = timed(lambda: list(deployed_samples(settings, UNSEEN, first_seed=UNSEEN_SEED)))
    return len(found) / seconds


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def values_of(times: Mapping[str, "Measurement"]) -> dict[str, float]:
    return {quantity: time.value for quantity, time in times.items()}


def flags_of(times: Mapping[str, "Measurement"]) -> list[str]:
    """What forbids to trust these times: the device was busy, throttled or swapping."""
    from nas.measure.conditions import FLAG_KINDS

    return sorted({note for time in times.values() for note in time.notes if note.startswith(FLAG_KINDS)})


def progress(record: Record, architecture: Architecture) -> str:
    found = record["architectures"][canonical_id(architecture)]
    errors = (
        f"{quantity} {found['measured'][quantity]:.4g} ms, predicted {found['predicted'][quantity] / value - 1:+.1%}"
        for quantity, value in found["measured"].items()
    )
    return ", ".join(errors)


if __name__ == "__main__":
    main()
