"""What a search asks for the cost of an architecture: measured whole, predicted from blocks, or bounded by a roofline.

`open_meter` chooses by the deployment. Every meter gives the same numbers under the same names, and each number says
where it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from nas.architecture import Architecture
from nas.count import count_parameters
from nas.deployment import CostModel, Deployment
from nas.devices import DeviceSpec
from nas.measure.block_table import SHIPPED, BlockTable
from nas.measure.blocks import Bench
from nas.measure.calibrate import spec_of
from nas.measure.child import resident_peak_bytes
from nas.measure.device import DTYPES, choose_device, choose_dtype, while_it_answers
from nas.measure.lock import DeviceLock
from nas.measure.prediction import TableReader, predict
from nas.measure.rivals import verified_rivals
from nas.measure.timing import Effort, Rivals
from nas.measure.whole_model import (
    OPTIMIZER_BYTES,
    SHARE_OF_TIMING,
    WEIGHT_BYTES,
    Measured,
    check_fits,
    fitting,
    measure_model,
    name_of,
    rooflines,
    state_bytes,
    weighed,
)
from nas.measurement import Measurement, Source
from nas.workload import Phase, TrainStep, WorkloadError


class Meter(Protocol):
    """Gives the cost of deployed architectures."""

    def measure(self, architecture: Architecture) -> Measured:
        """Latency and memory of a deployed architecture. Raises DoesNotFit, and NotInTable where a table must do."""
        ...

    def confirm(self, architecture: Architecture) -> Measured | None:
        """A measurement of the whole network, to stand in for a prediction; None where that is not wanted."""
        ...

    def describe(self) -> dict[str, Any]:
        """Where the numbers come from, for a report."""
        ...


def open_meter(deployment: Deployment, tables: Path) -> Meter:
    """The meter that a deployment asks for.

    tables: the folder of the user's own tables. Raises WorkloadError for a device that is not at hand, and TableError
    for a table that cannot be used.
    """
    if deployment.spec is not None:
        if deployment.cost_model == "roofline" and deployment.method != "table":
            return RooflineMeter(deployment, deployment.spec)
        table = open_table(deployment, deployment.spec, tables)
        if not table.entries:
            raise WorkloadError(
                f"measure=table needs a table of {deployment.spec.name}, but none is shipped and none lies at "
                f"{table.path}; fill one on that device with scripts/measure_table.py, or take "
                "measure.cost_model=roofline."
            )
        reader = TableReader(table, deployment.spec, dtype_of(deployment), None)
        if not any(map(reader.is_true, table.entries.values())):
            raise WorkloadError(
                f"All {len(table.entries)} blocks in the table of {deployment.spec.name} were measured with other code "
                "than that at hand; fill it anew on that device with scripts/measure_table.py, or take "
                "measure.cost_model=roofline."
            )
        return TableMeter(deployment, deployment.spec, reader)
    device = choose_device(deployment.device)
    with DeviceLock.of(device).exclusive():  # a device without a description is measured for one
        spec = spec_of(device, tables)
    whole = ModelMeter(deployment, spec)
    if deployment.method == "model":
        return whole
    effort = effort_of(deployment, deployment.block_seconds)
    bench = Bench(
        device=device,
        dtype=dtype_of(deployment),
        spec=spec,
        effort=effort,
        threads=deployment.threads,
        busy=deployment.busy,
    )
    reader = TableReader(open_table(deployment, spec, tables), spec, bench.dtype, bench)
    return TableMeter(deployment, spec, reader, whole)


def open_table(deployment: Deployment, spec: DeviceSpec, tables: Path) -> BlockTable:
    """The device's table: the shipped one under the user's own, or the file that the deployment names."""
    if deployment.table is not None:
        return BlockTable.open(spec.name, Path(deployment.table))
    shipped = SHIPPED / f"{spec.slug}.json"
    return BlockTable.open(spec.name, tables / f"{spec.slug}.json", also=[shipped])


def dtype_of(deployment: Deployment) -> str:
    """The type in which a deployment is served, by name."""
    if deployment.spec is not None:
        return deployment.spec.dtype if deployment.dtype == "auto" else deployment.dtype
    return name_of(choose_dtype(deployment.dtype, choose_device(deployment.device)))


def effort_of(deployment: Deployment, seconds: float) -> Effort:
    """The effort for one phase. The rivals are verified once in a process, here and not in its children."""
    device = choose_device(deployment.device)
    dtype = choose_dtype(deployment.dtype, device)
    training = any(isinstance(deployment.workload.phase(quantity), TrainStep) for quantity in deployment.quantities)
    return Effort(
        seconds=seconds,
        spread=deployment.spread,
        rivals=of_networks(verified_rivals(device, dtype, gradients=False)),
        training_rivals=of_networks(verified_rivals(device, training_dtype(device), gradients=True))
        if training
        else {},
    )


def of_networks(rivals: Rivals) -> Rivals:
    """Those that whole networks are timed with."""
    return {function: [rival for rival in found if rival.in_networks] for function, found in rivals.items()}


def training_dtype(device: torch.device) -> torch.dtype:
    """The type of products in training: weights are float32, and autocast makes them bfloat16 on a GPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@dataclass(frozen=True)
class ModelMeter:
    """Measures each whole network on the device at hand, which it has alone meanwhile.

    On a CPU in a process of its own: what it holds at its peak can then be told from what the search holds, and running
    out of memory ends the process and not the search.
    """

    deployment: Deployment
    spec: DeviceSpec

    def measure(self, architecture: Architecture) -> Measured:
        device = choose_device(self.deployment.device)
        phases = set(self.deployment.phases(architecture).values())
        effort = effort_of(self.deployment, self.deployment.seconds * SHARE_OF_TIMING / max(1, len(phases)))
        with DeviceLock.of(device).exclusive():
            if device.type != "cpu":
                with while_it_answers(device):
                    return measure_model(architecture, self.deployment, self.spec, effort)
            measured = Measured(numbers={}, costs={})
            # Training and inference in a process each: the resident peak of one must not hide that of the other.
            for name, quantities in (
                ("train_peak_reserved_bytes", self.deployment.trained),
                ("peak_reserved_bytes", self.deployment.served),
            ):
                if quantities:
                    deployment = replace(self.deployment, quantities=quantities)
                    found, resident = resident_peak_bytes(measure_model, architecture, deployment, self.spec, effort)
                    if resident is not None:
                        found.numbers[name] = weighed(resident)
                    measured = measured | found
        return measured

    def confirm(self, architecture: Architecture) -> Measured | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"costs": "whole networks, measured", "roofline": self.spec.to_dict()}


@dataclass(frozen=True)
class TableMeter:
    """Predicts from measured blocks.

    whole: measures networks as a whole where the device is at hand: the first few, from which the table learns what
    lies between blocks, and with method `auto` the members of a front before they are reported.
    """

    deployment: Deployment
    spec: DeviceSpec
    reader: TableReader
    whole: ModelMeter | None = None

    def measure(self, architecture: Architecture) -> Measured:
        phases = self.deployment.phases(architecture)
        dtype = DTYPES[self.reader.dtype]
        check_fits(architecture, set(phases.values()), dtype, self.spec.memory_bytes, self.spec.name)
        self.reader.complete(architecture, set(phases.values()))
        self._learn(architecture, phases)
        own, best, peaks = {}, {}, []
        numbers: dict[str, Measurement] = {}
        for quantity, phase in phases.items():
            predicted = predict(architecture, phase, self.reader, self.reader.composition(phase))
            own[quantity], best[quantity] = predicted.own, predicted.best
            if isinstance(phase, TrainStep):
                numbers |= training_memory(architecture, predicted.work_bytes)
            else:
                peaks.append(state_bytes(architecture, phase, dtype) + predicted.work_bytes)
        costs: dict[CostModel, dict[str, Measurement]] = {
            "own": own,
            "best": best,
            "roofline": rooflines(architecture, phases, self.spec, self.reader.dtype),
        }
        if peaks:
            peak = count_parameters(architecture) * dtype.itemsize + max(peaks)
            numbers["peak_memory_bytes"] = replace(Measurement.exact(peak, "bytes"), source="table")
        numbers |= fitting(architecture, self.deployment, self.spec, dtype, numbers)
        return Measured(numbers=numbers | costs[self.deployment.cost_model], costs=costs)

    def _learn(self, architecture: Architecture, phases: Mapping[str, Phase]) -> None:
        """Measure a whole network while the table knows too few."""
        if self.whole is None or not any(self.reader.wants_whole(architecture, phase) for phase in phases.values()):
            return
        measured = self.whole.measure(architecture)
        for quantity, phase in phases.items():
            self.reader.learn(architecture, phase, measured.costs["own"][quantity])
        self.reader.table.save()

    def confirm(self, architecture: Architecture) -> Measured | None:
        if self.whole is None or self.deployment.method != "auto":
            return None
        return self.whole.measure(architecture)

    def describe(self) -> dict[str, Any]:
        return {
            "costs": f"predicted from {len(self.reader.table.entries)} measured blocks",
            "table": str(self.reader.table.path),
            "roofline": self.spec.to_dict(),
        }


def training_memory(
    architecture: Architecture, work_bytes: int, source: Source = "table", notes: tuple[str, ...] = ()
) -> dict[str, Measurement]:
    """Bytes of a training step that takes `work_bytes` beside weights and optimizer at its peak."""
    parameters = count_parameters(architecture)
    peak = parameters * (WEIGHT_BYTES + OPTIMIZER_BYTES) + work_bytes
    return {
        "train_peak_memory_bytes": replace(Measurement.exact(peak, "bytes"), source=source, notes=notes),
        "optimizer_bytes": Measurement.exact(parameters * OPTIMIZER_BYTES, "bytes"),
    }


@dataclass(frozen=True)
class RooflineMeter:
    """Bounds from a description, for a device that is not at hand: estimates, and labelled so."""

    deployment: Deployment
    spec: DeviceSpec

    def measure(self, architecture: Architecture) -> Measured:
        phases = self.deployment.phases(architecture)
        name = dtype_of(self.deployment)
        dtype = DTYPES[name]
        check_fits(architecture, set(phases.values()), dtype, self.spec.memory_bytes, self.spec.name)
        costs = rooflines(architecture, phases, self.spec, name)
        states = [state_bytes(architecture, phase, dtype) for phase in phases.values()]
        parameters = count_parameters(architecture)
        peak = replace(
            Measurement.exact(parameters * dtype.itemsize + max(states), "bytes"),
            source="estimate",
            notes=("weights and state, no work space",),
        )
        numbers = {"peak_memory_bytes": peak}
        if any(isinstance(phase, TrainStep) for phase in phases.values()):
            notes = ("weights, gradients and optimizer, no activations",)
            numbers |= training_memory(architecture, parameters * WEIGHT_BYTES, "estimate", notes)
        numbers |= fitting(architecture, self.deployment, self.spec, dtype, numbers)
        return Measured(numbers=numbers | costs, costs={"roofline": costs})

    def confirm(self, architecture: Architecture) -> Measured | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"costs": "estimates: roofline", "roofline": self.spec.to_dict()}
