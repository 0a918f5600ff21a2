"""The time of a whole network from its measured blocks, and the measuring of those that a table lacks.

A network takes what its blocks and its ends take, because each waits for the one before, and what is lost between
unlike ones (`nas.measure.composition`).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from nas.architecture import Architecture, canonical_id
from nas.devices import DeviceSpec
from nas.measure.block_table import VERSIONS, BlockTable, Entry
from nas.measure.blocks import Bench, measure_block
from nas.measure.composition import ENOUGH, NOTHING_LEARNED, Composition, Whole, composition_of, mixing_of
from nas.measure.conditions import FLAG_KINDS, check_idle, watch
from nas.measure.device import describe_device, pinned_threads, while_it_answers
from nas.measure.lock import DeviceLock
from nas.measure.rivals import library_versions
from nas.measure.sources import operations_of_part
from nas.measure.table_parts import Ends, Part, describe_part, measured_for, parts_of
from nas.measurement import Measurement
from nas.workload import Phase, lengthened


class NotInTable(LookupError):
    """A table lacks blocks that cannot be measured here. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Milliseconds with our kernels and with the fastest at hand, and bytes beyond weights and state at the peak."""

    own: Measurement
    best: Measurement
    work_bytes: int


class TableReader:
    """Entries by block, checked once against the code at hand; measures what is missing where there is a bench."""

    def __init__(self, table: BlockTable, spec: DeviceSpec, dtype: str, bench: Bench | None) -> None:
        self.table = table
        self.spec = spec
        self.dtype = dtype
        self.bench = bench
        self._known: dict[tuple[Part, int, Phase], Entry] = {}
        self._compositions: dict[Phase, Composition] = {}
        self._learned_from: dict[Phase, set[str]] = {}
        self._here = None
        if bench is not None:
            with pinned_threads(bench.threads):
                self._here = describe_device(bench.device)

    def complete(self, architecture: Architecture, phases: set[Phase]) -> None:
        """Measure the blocks of an architecture that the table lacks. Raises NotInTable where that is not possible."""
        wanted = [(part, _phase_of(part, architecture, phase)) for part in parts_of(architecture) for phase in phases]
        missing = [(part, phase) for part, phase in wanted if self.look_up(part, architecture.d_model, phase) is None]
        if not missing:
            return
        if self.bench is None:
            part, phase = missing[0]
            raise NotInTable(
                f"the table of {self.table.device_name} lacks {len(missing)} blocks of this architecture, the first "
                f"{describe_part(part)} at width {architecture.d_model}"
            )
        for part, phase in missing:
            for one in measured_for(part):
                if self.look_up(one, architecture.d_model, phase) is None:
                    self.measure(one, architecture.d_model, phase)
        self.table.save()

    def measure(self, part: Part, d_model: int, phase: Phase) -> Entry:
        """Measure one block and put it into the table, which the caller saves. Raises DeviceBusy and DoesNotFit."""
        assert self.bench is not None
        device = self.bench.device
        with DeviceLock.of(device).exclusive(), pinned_threads(self.bench.threads):
            if self.bench.busy == "refuse":
                check_idle(device)
            with watch(device) as conditions, while_it_answers(device):
                entry = measure_block(part, d_model, phase, self.bench)
        entry = entry.flagged(conditions.flags)
        self.table.add(entry)
        self._known[part, d_model, phase] = entry
        return entry

    def look_up(self, part: Part, d_model: int, phase: Phase) -> Entry | None:
        """The entry of a block if it is there and still true."""
        known = self._known.get((part, d_model, phase))
        if known is not None:
            return known
        entry = self.table.find(part, d_model, phase, self.dtype, counts=self.is_true)
        if entry is not None:
            self._known[part, d_model, phase] = entry
        return entry

    @property
    def _wholes(self) -> list[Whole]:
        return [whole for whole in self.table.wholes.values() if self.from_here(whole.environment)]

    def composition(self, phase: Phase) -> Composition:
        """What whole networks take beyond their blocks in a phase; learned on this very device with its versions."""
        if phase not in self._compositions:
            self._compositions[phase] = composition_of(self._wholes, phase, self.dtype)
        return self._compositions[phase]

    def wants_whole(self, architecture: Architecture, phase: Phase) -> bool:
        """Whether too few networks were measured as a whole in this very phase, and this one was not."""
        if phase not in self._learned_from:
            alike = [whole for whole in self._wholes if (whole.phase, whole.dtype) == (phase, self.dtype)]
            self._learned_from[phase] = {whole.network for whole in alike}
        known = self._learned_from[phase]
        return len(known) < ENOUGH and canonical_id(architecture) not in known

    def learn(self, architecture: Architecture, phase: Phase, own: Measurement) -> None:
        """Keep a network that was measured as a whole beside the sum of its blocks; the caller saves the table."""
        assert self._here is not None, "networks are measured where there is a bench"
        self._compositions.clear()
        self._learned_from.clear()
        network = canonical_id(architecture)
        sum_ms = predict(architecture, phase, self).own.value
        whole = Whole(
            network=network,
            phase=phase,
            dtype=self.dtype,
            mixing=mixing_of(architecture),
            sum_ms=sum_ms,
            own=own,
            environment=self._here,
        )
        self.table.add_whole(whole)

    def is_true(self, entry: Entry) -> bool:
        """Whether an entry was measured with the operations at hand, and on this very device with its versions.

        Of other libraries those must agree that were the fastest; one that is new and faster is not known of.
        """
        environment = entry.environment
        device = "cpu" if environment.get("device") == "cpu" else str(environment.get("name"))
        if operations_of_part(entry.part, entry.d_model, device) != dict(entry.operations):
            return False
        return self.from_here(environment) and (
            self._here is None or library_versions(entry.best_by).items() <= environment.items()
        )

    def from_here(self, environment: Mapping[str, str | int]) -> bool:
        """Whether a number was taken with the versions at hand; where the device is not, any versions count."""
        return self._here is None or all(environment.get(v) == self._here.get(v) for v in VERSIONS)


def predict(
    architecture: Architecture, phase: Phase, reader: TableReader, composition: Composition = NOTHING_LEARNED
) -> Predicted:
    """The sum over an architecture's blocks, which the reader must have (`TableReader.complete`), as composed."""
    entries: list[tuple[Entry, int]] = []
    for part, count in parts_of(architecture).items():
        entry = reader.look_up(part, architecture.d_model, _phase_of(part, architecture, phase))
        assert entry is not None, "complete() comes before predict()"
        entries.append((entry, count))
    mixing = mixing_of(architecture)
    return Predicted(
        own=added([(entry.own, count) for entry, count in entries], composition, mixing),
        best=added([(entry.best, count) for entry, count in entries], composition, mixing),
        work_bytes=sum(entry.bytes_each * count for entry, count in entries)
        + max(entry.bytes_once for entry, _ in entries),
    )


def _phase_of(part: Part, architecture: Architecture, phase: Phase) -> Phase:
    """What a part of the network reads: mixers and FFNs the meta tokens too."""
    return phase if isinstance(part, Ends) else lengthened(phase, architecture.num_meta_tokens)


def added(
    times: list[tuple[Measurement, int]], composition: Composition = NOTHING_LEARNED, mixing: float = 0.0
) -> Measurement:
    """The sum of the times of blocks, each as often as it stands there; spreads of different ones add up in squares.

    mixing: of the network (`mixing_of`); the composition says what is lost by it.
    """
    factor = composition.times(mixing)
    value = factor * math.fsum(time.value * count for time, count in times)
    below = factor * math.sqrt(math.fsum(((time.value - time.low) * count) ** 2 for time, count in times))
    above = factor * math.sqrt(math.fsum(((time.high - time.value) * count) ** 2 for time, count in times))
    kinds = Counter(kind for time, _ in times for kind in kinds_of_flags(time.notes))
    return Measurement(
        value=value,
        unit="ms",
        low=max(0.0, value - below),
        high=value + above,
        n=min(time.n for time, _ in times),
        source="table",
        notes=(
            f"predicted from {len(times)} measured blocks",
            *([composition.describe(mixing)] if composition.networks else []),
            *(f"{kind}: {kinds[kind]} of these blocks were measured so" for kind in FLAG_KINDS if kinds[kind]),
        ),
    )


@lru_cache(maxsize=4096)
def kinds_of_flags(notes: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of disturbance that the notes of a measurement tell of."""
    return tuple(kind for kind in FLAG_KINDS if any(note.startswith(kind) for note in notes))
