"""Fills the table of measured blocks of the device at hand, from which `measure=table` predicts whole networks.

    python scripts/measure_table.py                             the blocks of the default search space
    python scripts/measure_table.py --samples 1000 search_space=pattern measure.workloads=[serve,train_step]
    python scripts/measure_table.py --out tables --limit 500    into a folder of one's own; exit code 3 when 500 seconds
                                                                were not enough

Random architectures of the space are resized to the deployment, and each distinct block that they are made of is
measured once in each phase, the most frequent first. What is in the table and still true is not measured again, so the
same command goes on where it stopped. The overrides are those of search.py; without --out the table is the user's own,
beside which those of `nas/measure/tables` are read.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture import Architecture
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.config_values import time_limit, whole
from scripts.exit_codes import UNFINISHED
from scripts.settings import SearchSettings
from search_spaces import RandomTrial

if TYPE_CHECKING:
    from nas.measure.block_table import Entry
    from nas.measure.prediction import TableReader
    from nas.measure.table_parts import Part
    from nas.workload import Phase

    Wanted = tuple[Part, int, Phase]

HEAD = f"{'block':<60}{'width':>6}  {'phase':<38}{'ms':>9}{'± %':>6}{'best ms':>9}{'roofline':>9}  launches"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as search_space=pattern")
    parser.add_argument("--samples", type=int, default=300, help="random architectures that are covered (default: 300)")
    parser.add_argument("--out", type=Path, help="the folder of the table (default: the user's own)")
    parser.add_argument("--limit", type=float, help="seconds after which measuring stops (default: none)")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="What was measured is in the table; the same command goes on from here."):
        whole("--samples", arguments.samples)
        time_limit("--limit", arguments.limit)
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides([*arguments.overrides, "measure.method=table"])
        if settings.deployment.spec is not None:
            raise UserError(f"A table is measured on a device at hand, but {settings.deployment.device} is described.")

        from nas.measure.meter import TableMeter, open_meter
        from nas.tasks import cache_folder

        meter = open_meter(settings.deployment, arguments.out or cache_folder() / "tables")
        assert isinstance(meter, TableMeter)
        if not fill(meter.reader, wanted_blocks(settings, arguments.samples), arguments.limit):
            sys.exit(UNFINISHED)


def wanted_blocks(settings: SearchSettings, samples: int) -> "list[Wanted]":
    """The blocks of the reference designs and of random architectures, the most frequent first, with their phases."""
    from nas.measure.table_parts import measured_for, parts_of

    counts: Counter[Wanted] = Counter()
    for architecture in deployed_samples(settings, samples):
        phases = set(settings.deployment.phases(architecture).values())
        for part in parts_of(architecture):
            for block in measured_for(part):
                counts.update((block, architecture.d_model, phase) for phase in phases)
    return [wanted for wanted, _ in counts.most_common()]


def deployed_samples(settings: SearchSettings, samples: int, first_seed: int = 0) -> Iterable[Architecture]:
    """The reference designs in the space and random points of it, parameters matched, at the deployment."""
    from nas.count import CannotMatch, deployed, match_parameters

    placed = [settings.space.at(params) for _, params in settings.space.references(settings.designs)]
    drawn = (settings.space(RandomTrial(seed)) for seed in range(first_seed, first_seed + samples))
    for architecture in (*placed, *drawn):
        try:
            proxy = architecture if settings.parameters is None else match_parameters(architecture, settings.parameters)
            yield deployed(proxy, settings.deployment)
        except CannotMatch:
            continue  # the search rejects it before it is measured, too


def fill(reader: "TableReader", wanted: "list[Wanted]", limit: float | None) -> bool:
    """Measure what the table lacks, a line each, and save as it goes; whether nothing is missing any more."""
    from nas.measure import DoesNotFit
    from nas.measure.table_parts import describe_part

    missing = [key for key in wanted if reader.look_up(*key) is None]
    print(f"{len(wanted)} blocks and phases, {len(missing)} of them to be measured; table {reader.table.path}")
    print(HEAD)
    start = time.perf_counter()
    done, finished = 0, True
    for part, d_model, phase in missing:
        if limit is not None and time.perf_counter() - start > limit:
            print(f"stopped after {limit:g} s with {len(missing) - done} blocks left; the same command goes on")
            finished = False
            break
        try:
            entry = reader.measure(part, d_model, phase)
        except DoesNotFit as error:
            print(f"{describe_part(part)}: {error}")
            continue
        done += 1
        print(line(entry), flush=True)
        reader.table.save()
    seconds = time.perf_counter() - start
    each = f", {seconds / done:.2f} s each" if done else ""
    print(f"{done} blocks measured in {seconds:.0f} s{each}; {len(reader.table.entries)} in {reader.table.path}")
    return finished


def line(entry: "Entry") -> str:
    """One block: what it takes, how sure that is, and how far from what the device could do."""
    from nas.measure.table_parts import describe_part
    from nas.workload import describe_phase

    own = entry.own
    spread = 50 * (own.high - own.low) / own.value if own.value else float("nan")
    return (
        f"{describe_part(entry.part):<60}{entry.d_model:>6}  {describe_phase(entry.phase):<38}{own.value:>9.4g}"
        f"{spread:>6.1f}{entry.best.value:>9.4g}{entry.share_of_roofline:>9.0%}  {entry.launches}"
    )


if __name__ == "__main__":
    main()
