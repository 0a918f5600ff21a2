"""Bars that no design of a search can reach, known before anything is sampled."""

from collections.abc import Iterable

from nas.deployment import MATCHED_WITHIN, Deployment
from nas.objectives import Limit, Requirement
from scripts.command_line import UserError


def refuse_contradictions(limits: Iterable[Limit], requirements: Iterable[Requirement], deployment: Deployment) -> None:
    """Raise UserError for a bar on parameters below the number that every design is matched to.

    A limit and a requirement on one quantity never exclude each other: both bound it from the same side. Where nothing
    is matched (measure.parameters=null), sizes follow from what is sampled, and nothing is refused.
    """
    target = deployment.parameters
    if target is None:
        return
    for section, bars in (("limits", limits), ("require", requirements)):
        for bar in bars:
            if bar.name == "parameters" and bar.bound < target * (1 - MATCHED_WITHIN):
                raise UserError(
                    f"{section}.parameters={bar.bound:,.0f} can never be met, because every design is deployed with "
                    f"measure.parameters={target:,}, within {MATCHED_WITHIN:.0%}; raise the one or lower the other."
                )
