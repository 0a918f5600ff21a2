"""Tiny models of transformers with random weights, which `nas.interop` is held against."""

from scripts.interop_oracles.attention import ATTENTION
from scripts.interop_oracles.comparison import Comparison as Comparison
from scripts.interop_oracles.comparison import compare as compare
from scripts.interop_oracles.models import Oracle as Oracle
from scripts.interop_oracles.models import saved as saved
from scripts.interop_oracles.recurrent import RECURRENT

ORACLES: dict[str, Oracle] = {**ATTENTION, **RECURRENT}
