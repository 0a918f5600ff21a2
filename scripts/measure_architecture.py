"""Everything that can be measured of one architecture at its deployment: latency, memory, and where the time goes.

    python scripts/measure_architecture.py all-attention
    python scripts/measure_architecture.py outputs/STUDY/architectures/ID.yaml 'measure.workloads=[serve,train_step]'

Prints each timed quantity under the three cost models, memory measured beside memory counted, and a line for each
distinct block with its share of the roofline and how the launches of its kernels were configured. The overrides are
those of search.py.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nas.architecture import Architecture, diagram
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.measure_table import HEAD, line
from scripts.settings import SearchSettings
from scripts.show_resize import proxy_of

if TYPE_CHECKING:
    from nas.measure import Measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "architecture", help="the name of a design in conf/designs, or the path of an architecture file"
    )
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as measure.concurrency=8")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Blocks that were measured are in the table."):
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides(arguments.overrides)
        for text in report(arguments.architecture, settings):
            print(text, flush=True)


def report(name: str, settings: SearchSettings) -> Iterator[str]:
    """The lines of the report, each as soon as it is known."""
    from nas.count import deployed
    from nas.measure import open_meter
    from nas.objectives import OBJECTIVES, with_unit
    from nas.tasks import cache_folder

    deployment = settings.deployment
    if deployment.method == "auto":
        raise UserError("measure_architecture measures one network: take measure=model or measure=table.")
    large = deployed(proxy_of(name, settings), deployment)
    meter = open_meter(deployment, cache_folder() / "tables")
    measured = meter.measure(large)
    yield f"{large.name}: {diagram(large)}, width {large.d_model}"
    for key, value in meter.describe().items():
        yield f"{key}: {value}"
    yield ""
    yield f"{'ms':<30}" + "".join(f"{model:>12}" for model in measured.costs)
    for quantity in deployment.quantities:
        times = [measured.costs[model][quantity] for model in measured.costs]
        yield f"{quantity.removesuffix('_ms'):<30}" + "".join(f"{time.value:>12.4g}" for time in times)
        for time in times[:2]:
            yield f"    {time.low:.4g} to {time.high:.4g} ms, n = {time.n}, {time.source}: {'; '.join(time.notes)}"
    yield ""
    for number, value in measured.numbers.items():
        if number not in deployment.quantities:
            yield f"{number}: {with_unit(value.value, OBJECTIVES[number].unit)} ({value.source})"
    yield from memory(large, settings, measured)
    yield from blocks(large, settings)


def memory(large: Architecture, settings: SearchSettings, measured: "Measured") -> Iterator[str]:
    """What was counted beside what the device said, where both are known."""
    from nas.count import count
    from nas.measure import DTYPES, dtype_of
    from nas.measure.whole_model import state_bytes

    deployment = settings.deployment
    dtype = DTYPES[dtype_of(deployment)]
    counts = count(large, deployment.workload.length, dtype=dtype)
    yield f"counted: {counts.parameters:,} parameters, {counts.weight_bytes:,} bytes of weights, "
    yield f"    {counts.sequence_bytes:,} bytes per sequence at {deployment.workload.length:,} tokens"
    states = [state_bytes(large, phase, dtype) for phase in deployment.phases(large).values()]
    counted = counts.weight_bytes + max(states)
    rows = [
        ("peak_memory_bytes", "weights and the largest state as counted", counted),
        ("peak_reserved_bytes", "weights and the largest state as counted", counted),
        ("train_peak_memory_bytes", "weights, gradients and optimizer as counted", 16 * counts.parameters),
        ("train_peak_reserved_bytes", "weights, gradients and optimizer as counted", 16 * counts.parameters),
    ]
    for name, what, known in rows:
        if name in measured.numbers:
            found = measured.numbers[name].value
            yield f"{name}: {found / known - 1:+.1%} beside {known:,} bytes, {what}; the rest is work space"


def blocks(large: Architecture, settings: SearchSettings) -> Iterator[str]:
    """A line for each distinct block and phase, measured where the table lacks it."""
    from nas.measure import open_meter
    from nas.measure.meter import TableMeter
    from nas.measure.table_parts import parts_of
    from nas.tasks import cache_folder

    if settings.deployment.spec is not None:
        return
    meter = open_meter(replace(settings.deployment, method="table"), cache_folder() / "tables")
    assert isinstance(meter, TableMeter)
    phases = list(dict.fromkeys(settings.deployment.phases(large).values()))
    meter.reader.complete(large, set(phases))
    yield ""
    yield HEAD
    for phase in phases:
        for part in parts_of(large):
            entry = meter.reader.look_up(part, large.d_model, phase)
            assert entry is not None, "complete() comes before look_up()"
            yield line(entry)


if __name__ == "__main__":
    main()
