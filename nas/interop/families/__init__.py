"""The tables, one per type of model: which field is which option, which tensor is which parameter."""

from nas.interop.families.transformer import TRANSFORMERS
from nas.interop.family import Family
from nas.interop.fields import Fields

FAMILIES: dict[str, Family] = {**TRANSFORMERS}


def family_of(fields: Fields) -> Family:
    """The table for a model type."""
    return FAMILIES[fields.model_type]
