"""A network to measure: built on the device with random weights and a random state, fast.

What is measured does not depend on the values of weights, as long as they are ordinary numbers: denormals are slow on
a CPU, and decay rates of the wrong size make recurrent states denormal. So parameters get their true initialisation,
except that large matrices repeat a short stretch of random numbers: drawing 30 million takes longer than a
measurement should wait for.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas.architecture import Architecture
from nas.compile import compile_architecture
from nas.model import DecodeState, Model, filled_state
from nas.workload import Decode

STRETCH = 1 << 16


class RepeatedRandomNumbers(TorchDispatchMode):
    """While on, in-place normal and uniform draws longer than STRETCH repeat their first STRETCH numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # the signature is torch's
        draws = func in (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)
        if not draws or args[0].numel() <= STRETCH or not args[0].is_contiguous():
            return func(*args, **(kwargs or {}))
        flat = args[0].view(-1)
        func(flat[:STRETCH], *args[1:], **(kwargs or {}))
        whole = flat.numel() // STRETCH * STRETCH
        flat[STRETCH:whole].view(-1, STRETCH).copy_(flat[:STRETCH].expand(whole // STRETCH - 1, STRETCH))
        flat[whole:].copy_(flat[: flat.numel() - whole])
        return args[0]


def random_model(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Model:
    """The architecture on `device` in `dtype`, in evaluation mode, with random weights."""
    with torch.no_grad(), torch.device(device), RepeatedRandomNumbers():
        return compile_architecture(architecture).to(dtype).eval()


def random_state(model: Model, phase: Decode) -> DecodeState:
    """The state of sequences that hold the context, with random contents and room for the token that is decoded."""
    with RepeatedRandomNumbers():
        return filled_state(model, phase.batch, phase.context, 1)
