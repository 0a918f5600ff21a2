"""Where and how large a searched network will run: the deployment, and the work it does there.

A proxy of a few million parameters at a few hundred tokens says nothing about latency and memory at the size that is
deployed, so both are always taken at the deployment. Free of torch, so that a mistake in a configuration is answered
before torch is imported.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from nas.architecture import ArchitectureError, Scale, did_you_mean

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class WorkloadError(ValueError):
    """A configuration of the deployment breaks a rule. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked of the deployed network.

    prompt: tokens read at once in prefill. context: tokens a sequence holds while it is continued. batch: sequences
    processed together. new_tokens: room for tokens beyond the context.
    """

    prompt: int = 512
    context: int = 4096
    batch: int = 1
    new_tokens: int = 16

    def __post_init__(self) -> None:
        for f in fields(self):
            whole_number(f.name, getattr(self, f.name))

    @property
    def capacity(self) -> int:
        """Tokens for which the state of a sequence has room."""
        return max(self.prompt, self.context) + self.new_tokens


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The size, the device and the effort of measuring.

    parameters: target count, reached by FFN widths; None leaves the resized network as it is. width: factor on the
    width of the proxy; None solves it from `parameters`. depth, head_dim, vocab_size: see `nas.architecture.Scale`.
    seconds: time for one candidate. threads: CPU threads; None takes what torch uses.
    """

    parameters: int | None = 28_000_000
    width: float | None = None
    depth: float = 2.0
    depth_by: Literal["stack", "stretch"] = "stack"
    head_dim: float = 2.0
    vocab_size: int | None = 4096
    workload: Workload = field(default_factory=Workload)
    device: str = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None
    seconds: float = 2.0

    def __post_init__(self) -> None:
        for name in ("parameters", "vocab_size", "threads"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        for name in ("width", "depth", "head_dim", "seconds"):
            if getattr(self, name) is not None:
                positive_number(name, getattr(self, name))
        if self.parameters is None and self.width is None:
            raise WorkloadError("measure.width must be given when measure.parameters is null, but both are null.")
        if self.dtype not in get_args(Dtype):
            raise WorkloadError(
                f"There is no measure.dtype {self.dtype!r}. {did_you_mean(self.dtype, get_args(Dtype))}"
            )
        try:
            self.scale(1.0)
        except ArchitectureError as error:
            raise WorkloadError(f"measure: {error}") from None

    def scale(self, width: float) -> Scale:
        """The factors of `nas.architecture.resized`. Windows stay absolute: text does not grow with the network."""
        return Scale(
            width=width,
            depth=self.depth,
            depth_by=self.depth_by,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Deployment":
        """From the `measure` group: the fields of Deployment and of Workload side by side, each of them optional.

        Whole numbers may be written as 3e7.
        """
        of_workload = {f.name for f in fields(Workload)}
        own = {f.name for f in fields(cls)} - {"workload"}
        for name in config:
            if name not in own | of_workload:
                raise WorkloadError(f"There is no measure.{name}. {did_you_mean(name, own | of_workload)}")
        given: dict[str, Any] = {
            name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in config.items()
        }
        workload = Workload(**{name: given[name] for name in of_workload & set(given)})
        return cls(workload=workload, **{name: given[name] for name in own & set(given)})


def whole_number(name: str, value: object) -> None:
    """Raise WorkloadError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WorkloadError(f"measure.{name} must be a whole number of at least 1, but got {value!r}.")


def positive_number(name: str, value: object) -> None:
    """Raise WorkloadError unless `value` is a finite number above zero."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise WorkloadError(f"measure.{name} must be a number above zero, but got {value!r}.")
