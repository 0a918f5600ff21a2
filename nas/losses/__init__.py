"""Training losses by the name an architecture carries."""

from nas.losses.causal import Loss as Loss
from nas.losses.causal import causal as causal

LOSSES: dict[str, Loss] = {"causal": causal}
