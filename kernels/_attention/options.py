"""What may be asked of attention besides its tensors, as one value that every implementation takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The options of `kernels.attention`, checked and with the scale filled in; see there."""

    scale: float
    causal: bool
    window: int | None
    num_global: int
    prefix: int
    softcap: float | None
    return_lse: bool


@dataclass(frozen=True)
class StepOptions:
    """The options of `kernels.attention_step`, likewise; `value_size` is Dv, with a cache of values or without."""

    scale: float
    softcap: float | None
    value_size: int
    return_lse: bool
