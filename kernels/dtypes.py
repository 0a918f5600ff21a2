"""The types of numbers that every kernel takes, and the refusal of any other: nothing is cast or made up unasked."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_dtype(name: str, tensor: Tensor) -> None:
    """Raises ValueError for a tensor of another type: float64 would come back at the precision of float32."""
    if tensor.dtype not in DTYPES:
        raise ValueError(
            f"{name} must be float32, float16 or bfloat16, but got {tensor.dtype} of shape {list(tensor.shape)}: "
            "convert it first."
        )


def as_autocast(tensor: Tensor, device: torch.device) -> Tensor:
    """In the type that autocast asks for on a device; as it is outside autocast, and where no kernel takes its type."""
    if tensor.dtype not in DTYPES or device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device.type))


def require_state(state: object, form: str, empty: str) -> None:
    """Raises TypeError for a step without the state [`form`] that it goes on from; `empty` is what one starts as."""
    if not isinstance(state, Tensor):
        raise TypeError(
            f"state must be a tensor {form}, because a step goes on from what came before, but got "
            f"{type(state).__name__}: start from {empty}."
        )
