"""AdamW's parameter groups: a rate for every mixer family, and no weight decay where decay would bend the dynamics.

What belongs to no mixer (embedding, last norm, head) gets the geometric mean of the rates of the mixers present,
weighted by their parameters: a design of one family is then trained at exactly the rate that was tuned for it.
"""

import math
from collections.abc import Mapping
from typing import Any

from nas.model import SHARED_FAMILY, Model, no_weight_decay
from nas.training.recipe import Recipe


def parameter_groups(model: Model, recipe: Recipe, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups for the optimizer. Raises KeyError when a family of the model has no rate."""
    families = model.parameter_families()
    scaled = {family: rates[family] * recipe.learning_rate_scale for family in families if family != SHARED_FAMILY}
    weights = {family: sum(p.numel() for _, p in families[family]) for family in scaled}
    scaled[SHARED_FAMILY] = (
        weighted_mean(scaled, weights) if scaled else max(rates.values()) * recipe.learning_rate_scale
    )
    groups = []
    for family, members in families.items():
        for decayed in (True, False):
            chosen = [p for name, p in members if no_weight_decay(name, p) != decayed]
            if chosen:
                weight_decay = recipe.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": scaled[family], "weight_decay": weight_decay})
    return groups


def weighted_mean(rates: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Geometric mean, because rates are tuned on a logarithmic grid."""
    total = sum(weights.values())
    return math.exp(sum(weights[family] * math.log(rate) for family, rate in rates.items()) / total)
