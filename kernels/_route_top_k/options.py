"""What may be asked of a router besides its tensors, as one value for every implementation."""

from dataclasses import dataclass
from typing import Literal

Scoring = Literal["softmax", "sigmoid", "sqrt_softplus"]


@dataclass(frozen=True)
class Options:
    """The options of `kernels.route_top_k`, checked; see there."""

    k: int
    scoring: Scoring
    num_groups: int
    top_groups: int
    normalize: bool
    scale: float
