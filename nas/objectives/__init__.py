"""What a search may optimise, require and limit. One table; a new cost is a file and a line here, a new task none."""

import math
from collections.abc import Iterable, Mapping

from nas.architecture import did_you_mean
from nas.objectives.bars import Limit as Limit
from nas.objectives.bars import Requirement as Requirement
from nas.objectives.base import STAGES as STAGES
from nas.objectives.base import Candidate as Candidate
from nas.objectives.base import Direction as Direction
from nas.objectives.base import Objective as Objective
from nas.objectives.base import ObjectiveError as ObjectiveError
from nas.objectives.base import Stage as Stage
from nas.objectives.base import with_unit as with_unit
from nas.objectives.latency import (
    BATCHED_DECODE_LATENCY,
    DECODE_LATENCY,
    PREFILL_LATENCY,
    TIME_PER_OUTPUT_TOKEN,
    TIME_TO_FIRST_TOKEN,
    TRAIN_STEP,
)
from nas.objectives.memory import (
    OPTIMIZER_BYTES,
    PEAK_MEMORY,
    PEAK_RESERVED,
    SAVED_FOR_BACKWARD,
    SEQUENCE_BYTES,
    SEQUENCES_THAT_FIT,
    TRAIN_PEAK_MEMORY,
    TRAIN_PEAK_RESERVED,
)
from nas.objectives.quality import QUALITY
from nas.objectives.size import ACTIVE_PARAMETERS, FLOPS_PER_TOKEN, PARAMETERS

OBJECTIVES: dict[str, Objective] = {
    **QUALITY,
    "time_to_first_token_ms": TIME_TO_FIRST_TOKEN,
    "time_per_output_token_ms": TIME_PER_OUTPUT_TOKEN,
    "prefill_latency_ms": PREFILL_LATENCY,
    "decode_latency_ms": DECODE_LATENCY,
    "batched_decode_latency_ms": BATCHED_DECODE_LATENCY,
    "train_step_ms": TRAIN_STEP,
    "sequence_bytes": SEQUENCE_BYTES,
    "sequences_that_fit": SEQUENCES_THAT_FIT,
    "peak_memory_bytes": PEAK_MEMORY,
    "peak_reserved_bytes": PEAK_RESERVED,
    "train_peak_memory_bytes": TRAIN_PEAK_MEMORY,
    "train_peak_reserved_bytes": TRAIN_PEAK_RESERVED,
    "optimizer_bytes": OPTIMIZER_BYTES,
    "saved_for_backward_bytes": SAVED_FOR_BACKWARD,
    "parameters": PARAMETERS,
    "active_parameters": ACTIVE_PARAMETERS,
    "flops_per_token": FLOPS_PER_TOKEN,
}


def find_objective(name: object) -> Objective:
    """The objective of that name; raises ObjectiveError with the nearest valid names."""
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ObjectiveError(f"There is no objective {name!r}. {did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def parse_objectives(names: Iterable[str]) -> tuple[Objective, ...]:
    """`optimize: [text_loss, time_per_output_token_ms]`: at least one, each once."""
    if isinstance(names, str | Mapping) or not isinstance(names, Iterable):
        raise ObjectiveError(f"optimize must be a list of objectives such as [text_loss, recall], but got {names!r}.")
    found = tuple(find_objective(name) for name in names)
    if not found:
        raise ObjectiveError(f"optimize needs at least one objective, but got none. {did_you_mean('', OBJECTIVES)}")
    for objective in found:
        if found.count(objective) > 1:
            raise ObjectiveError(f"optimize must name each objective once, but {objective.name} stands there twice.")
    return found


def parse_requirements(
    require: Mapping[str, float | None] | None, baseline: str = "all-attention"
) -> tuple[Requirement, ...]:
    """`require: {recall: 0.9, decode_latency_ms: 20}`; null sets no bar. baseline: what quality is relative to."""
    return tuple(
        Requirement(objective=objective, bound=bound, relative_to_reference=objective.is_quality, baseline=baseline)
        for objective, bound in parse_bounds("require", require)
    )


def parse_limits(limits: Mapping[str, float | None] | None) -> tuple[Limit, ...]:
    """`limits: {parameters: 3e7, decode_latency_ms: 50}`; null sets no limit."""
    found = parse_bounds("limits", limits)
    for objective, bound in found:
        if objective.unit == "share" and bound > 1:
            raise ObjectiveError(
                f"limits.{objective.name} is a share, which nothing brings above 1, but got {bound:g}; lower it."
            )
    return tuple(Limit(objective=objective, bound=bound) for objective, bound in found)


def parse_bounds(section: str, bounds: Mapping[str, float | None] | None) -> list[tuple[Objective, float]]:
    """Each named objective with its bound as a number above zero; nulls are left out."""
    if bounds is None:
        return []
    if not isinstance(bounds, Mapping):
        raise ObjectiveError(f"{section} must map names to numbers, such as {{recall: 0.9}}, but got {bounds!r}.")
    found = []
    for name, bound in bounds.items():
        objective = find_objective(name)
        if bound is None:
            continue
        number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not number or not 0 < bound < math.inf:
            share = section == "require" and objective.is_quality
            unit = "as a share of what the baseline reaches" if share else f"in {objective.unit}"
            raise ObjectiveError(f"{section}.{name} must be a number above zero {unit}, or null, but got {bound!r}.")
        found.append((objective, float(bound)))
    return found
