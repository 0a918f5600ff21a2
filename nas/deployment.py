"""Where and how large a searched network will run, and how its cost is found: the `measure` group as checked data.

A proxy of a few million parameters at a few hundred tokens says nothing about latency and memory at the size that is
deployed, so both are always taken at the deployment. Free of torch, so that a mistake is answered before torch loads.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from nas.architecture import Architecture, ArchitectureError, Scale, did_you_mean
from nas.devices import DeviceError, DeviceSpec, described_devices, spec_from
from nas.workload import (
    INFERENCE_MEMORY,
    WORKLOADS,
    Phase,
    TrainStep,
    Workload,
    WorkloadError,
    quantities_behind,
    quantities_of,
    whole_number,
)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Method = Literal["model", "table", "auto"]
CostModel = Literal["own", "best", "roofline"]
Busy = Literal["flag", "refuse"]
MATCHED_WITHIN = 0.03  # of the wanted number of parameters
AT_HAND = re.compile(r"auto|cpu|cuda(:\d+)?")
ONLY_WHOLE = ("peak_reserved_bytes", "train_peak_reserved_bytes", "saved_for_backward_bytes")
CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": get_args(Dtype),
    "method": get_args(Method),
    "cost_model": get_args(CostModel),
    "busy": get_args(Busy),
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The size, the device and the effort of measuring.

    parameters: target count, reached by FFN widths; None leaves the resized network as it is. width: factor on the
    width of the proxy; None solves it from `parameters`. depth, head_dim, vocab_size: see `nas.architecture.Scale`.
    quantities: what is timed (see `nas.workload.QUANTITIES`). device: one at hand (`auto`, `cpu`, `cuda`, `cuda:1`);
    spec: the description of one that is not, which then is the device. method: measure each whole model, predict from a
    table of blocks, or predict and measure the front's members (`auto`). cost_model: whose speed (see
    `nas.measure.meter`). busy: what to do when others use the device. seconds: time for one candidate. spread: sampling
    stops early once the standard error of the median is this share of it. threads: CPU threads; None takes what torch
    uses.
    """

    parameters: int | None = 28_000_000
    width: float | None = None
    depth: float = 2.0
    depth_by: Literal["stack", "stretch"] = "stack"
    head_dim: float = 2.0
    vocab_size: int | None = 4096
    workload: Workload = field(default_factory=Workload)
    quantities: tuple[str, ...] = WORKLOADS["serve"]
    device: str = "auto"
    spec: DeviceSpec | None = None
    dtype: Dtype = "auto"
    method: Method = "model"
    cost_model: CostModel = "own"
    busy: Busy = "flag"
    threads: int | None = None
    seconds: float = 2.0
    block_seconds: float = 0.5
    table: str | None = None
    spread: float = 0.01

    def __post_init__(self) -> None:
        for name in ("parameters", "vocab_size", "threads"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        for name in ("width", "depth", "head_dim", "seconds", "block_seconds", "spread"):
            if getattr(self, name) is not None:
                positive_number(name, getattr(self, name))
        if self.parameters is None and self.width is None:
            raise WorkloadError("measure.width must be given when measure.parameters is null, but both are null.")
        if self.table is not None and not isinstance(self.table, str):
            raise WorkloadError(f"measure.table must be the path of a table, or null, but got {self.table!r}.")
        for name, valid in CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                raise WorkloadError(f"There is no measure.{name} {value!r}. {did_you_mean(value, valid)}")
        if self.spec is not None and self.method == "model" and self.cost_model != "roofline":
            raise WorkloadError(
                f"{self.spec.name} is described, not at hand, so nothing can be measured on it: take "
                "measure.cost_model=roofline, or measure=table where a table of it is shipped."
            )
        if self.spec is not None and self.method == "auto":
            raise WorkloadError(
                f"{self.spec.name} is described, not at hand, so its front cannot be measured: take measure=table."
            )
        try:
            self.scale(1.0)
        except ArchitectureError as error:
            raise WorkloadError(f"measure: {error}") from None

    @property
    def is_estimate(self) -> bool:
        """Whether costs are bounds from a description, not measured."""
        return self.cost_model == "roofline"

    def scale(self, width: float) -> Scale:
        """The factors of `nas.architecture.resized`. Windows stay absolute: text does not grow with the network."""
        return Scale(
            width=width,
            depth=self.depth,
            depth_by=self.depth_by,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
        )

    def asked_for(self, names: Iterable[str]) -> "Deployment":
        """With what the named numbers need measured as well. Raises WorkloadError for what this method cannot give."""
        names = tuple(names)
        for name in names:
            if name in ONLY_WHOLE and (self.method != "model" or self.spec is not None):
                raise WorkloadError(
                    f"{name} is known of whole networks on a device at hand alone; take measure=model, or leave it out."
                )
        needed = [quantity for name in names for quantity in quantities_behind(name)]
        wanted = replace(self, quantities=tuple(dict.fromkeys((*self.quantities, *needed))))
        if wanted.served or not any(name in INFERENCE_MEMORY for name in names):
            return wanted
        return replace(wanted, quantities=(*WORKLOADS["serve"], *wanted.quantities))

    def phases(self, architecture: Architecture) -> dict[str, Phase]:
        """What an architecture does for each quantity."""
        return {q: self.workload.phase(q, causal=architecture.causal) for q in self.quantities}

    @property
    def served(self) -> tuple[str, ...]:
        """The quantities of inference."""
        return tuple(q for q in self.quantities if not isinstance(self.workload.phase(q), TrainStep))

    @property
    def trained(self) -> tuple[str, ...]:
        """The quantities of training."""
        return tuple(q for q in self.quantities if isinstance(self.workload.phase(q), TrainStep))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Deployment":
        """From the `measure` group: the fields of Deployment and of Workload side by side, each of them optional.

        Whole numbers may be written as 3e7. `device` may be a device at hand, the short name of a described one, or its
        description. Raises WorkloadError.
        """
        of_workload = {f.name for f in fields(Workload)}
        own = {f.name for f in fields(cls)} - {"workload", "quantities", "spec"}
        for name in config:
            if name not in own | of_workload | {"workloads"}:
                known = own | of_workload | {"workloads"}
                raise WorkloadError(f"There is no measure.{name}. {did_you_mean(name, known)}")
        given: dict[str, Any] = {
            name: int(v) if isinstance(v, float) and v.is_integer() and name != "spread" else v
            for name, v in config.items()
        }
        workload = Workload(**{name: given[name] for name in of_workload & set(given)})
        chosen = {name: given[name] for name in own & set(given)}
        if "workloads" in given:
            chosen["quantities"] = quantities_of(given["workloads"])
        device = chosen.get("device", "auto")
        try:
            if isinstance(device, Mapping):
                chosen |= {"device": "described", "spec": spec_from(device)}
            elif isinstance(device, str) and device in described_devices():
                chosen["spec"] = described_devices()[device]
            elif not isinstance(device, str) or not AT_HAND.fullmatch(device):
                raise WorkloadError(
                    f"measure.device must be auto, cpu, cuda, cuda:<number> or a described device, but got {device!r}. "
                    f"{did_you_mean(device, ('auto', 'cpu', 'cuda', *described_devices()))}"
                )
        except DeviceError as error:
            raise WorkloadError(str(error)) from None
        return cls(workload=workload, **chosen)


def positive_number(name: str, value: object) -> None:
    """Raise WorkloadError unless `value` is a finite number above zero."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise WorkloadError(f"measure.{name} must be a number above zero, but got {value!r}.")
