"""Size: parameters and arithmetic of the deployed network, counted without building it."""

from nas.measurement import Measurement
from nas.objectives.base import Candidate, Objective


def parameters(candidate: Candidate) -> Measurement:
    return Measurement.exact(candidate.counts.parameters, "parameters")


def active_parameters(candidate: Candidate) -> Measurement:
    return Measurement.exact(candidate.counts.active_parameters, "parameters")


def flops_per_token(candidate: Candidate) -> Measurement:
    return Measurement.exact(candidate.counts.flops_decode, "FLOPs")


PARAMETERS = Objective(
    name="parameters",
    unit="parameters",
    direction="minimize",
    stage="count",
    help="all parameters, shared ones once",
    read=parameters,
)
ACTIVE_PARAMETERS = Objective(
    name="active_parameters",
    unit="parameters",
    direction="minimize",
    stage="count",
    help="parameters that one token uses: of a mixture of experts, the chosen ones",
    read=active_parameters,
)
FLOPS_PER_TOKEN = Objective(
    name="flops_per_token",
    unit="FLOPs",
    direction="minimize",
    stage="count",
    help="arithmetic of one decoding step at the stated context",
    read=flops_per_token,
)
