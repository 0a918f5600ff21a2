"""The tables, one per type of model: which field is which option, which tensor is which parameter."""

from nas.architecture import did_you_mean
from nas.interop.errors import InteropError
from nas.interop.families.linear import LINEAR
from nas.interop.families.state_space import STATE_SPACES
from nas.interop.families.transformer import TRANSFORMERS
from nas.interop.family import Family
from nas.interop.fields import Fields

FAMILIES: dict[str, Family] = {**TRANSFORMERS, **STATE_SPACES, **LINEAR}


def family_of(fields: Fields) -> Family:
    """The table for a model type."""
    if fields.model_type not in FAMILIES:
        raise InteropError(
            f"There is no table for model_type {fields.model_type!r}. {did_you_mean(fields.model_type, FAMILIES)}"
        )
    return FAMILIES[fields.model_type]
