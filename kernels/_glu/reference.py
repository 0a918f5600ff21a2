"""The definition of the gate, in float32, differentiated by autograd."""

import math

import torch
from torch import Tensor


def glu(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """As at the public door."""
    return (activated(gate.float(), activation) * up.float()).to(gate.dtype)


def activated(z: Tensor, activation: str) -> Tensor:
    """act(z), by its formula."""
    if activation == "sigmoid":
        return 1 / (1 + torch.exp(-z))
    if activation == "silu":
        return z / (1 + torch.exp(-z))
    if activation == "gelu":
        return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    if activation == "gelu_tanh":
        return z * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    positive = torch.where(z > 0, z, torch.zeros_like(z))
    return positive if activation == "relu" else positive * positive
