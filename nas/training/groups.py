"""AdamW's parameter groups: a rate for every mixer family, and no weight decay where decay would bend the dynamics.

What belongs to no mixer (embedding, last norm, head) gets the geometric mean of the rates of the mixers present,
weighted by their parameters: a design of one family is then trained at exactly the rate that was tuned for it.

Both rest on shapes, so groups are laid out by name while parameters are whole: a strategy that deals parameters out to
several devices leaves flat pieces of them, some empty, and makes the optimizer of these.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.model import SHARED_FAMILY, Model, no_weight_decay
from nas.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters, by their names in the model, that share a rate and a weight decay."""

    names: tuple[str, ...]
    lr: float
    weight_decay: float


def group_layout(model: Model, recipe: Recipe, rates: Mapping[str, float]) -> list[Group]:
    """The groups of a model whose parameters are whole. Raises KeyError when a family of the model has no rate."""
    families = model.parameter_families()
    scaled = {family: rates[family] * recipe.learning_rate_scale for family in families if family != SHARED_FAMILY}
    weights = {family: sum(p.numel() for _, p in families[family]) for family in scaled}
    scaled[SHARED_FAMILY] = (
        weighted_mean(scaled, weights) if scaled else max(rates.values()) * recipe.learning_rate_scale
    )
    groups = []
    for family, members in families.items():
        for decayed in (True, False):
            names = tuple(name for name, p in members if no_weight_decay(name, p) != decayed)
            if names:
                weight_decay = recipe.weight_decay if decayed else 0.0
                groups.append(Group(names=names, lr=scaled[family], weight_decay=weight_decay))
    return groups


def parameter_groups(model: Model, layout: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups as the optimizer takes them, of what the model's parameters are now.

    Raises RuntimeError when the model has other names than those that were laid out: nothing is left untrained.
    """
    parameters = dict(model.named_parameters())
    names = [name for group in layout for name in group.names]
    if sorted(names) != sorted(parameters):
        other = ", ".join(sorted(set(names) ^ parameters.keys())[:3])
        raise RuntimeError(f"The parameters to be trained changed their names while they were dealt out: {other}.")
    return [
        {"params": [parameters[name] for name in group.names], "lr": group.lr, "weight_decay": group.weight_decay}
        for group in layout
    ]


def weighted_mean(rates: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Geometric mean, because rates are tuned on a logarithmic grid."""
    total = sum(weights.values())
    return math.exp(sum(weights[family] * math.log(rate) for family, rate in rates.items()) / total)
