"""Weights on disk: safetensors, which hold tensors and strings and execute nothing when they are read."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class CheckpointError(RuntimeError):
    """A weights file cannot be read or belongs to another architecture. The message is one sentence for a user."""


def save_weights(path: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a `state_dict()`, with strings that say what it is; whole or not at all. Raises OSError for a full disk."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in weights.items()}
    try:
        save_file(tensors, partial, metadata=dict(metadata or {}))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error})") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The strings that `save_weights` wrote beside the tensors. Raises CheckpointError when the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {path} cannot be read ({error}).") from None


def load_weights(path: str | Path, model: nn.Module) -> dict[str, str]:
    """Fill `model` from a file of `save_weights`; returns its metadata.

    Raises CheckpointError when the file cannot be read, or when a tensor is missing, left over or of another shape.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {path} cannot be read ({error}).") from None
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"The weights {path} do not fit the architecture: tensor {name} is missing.")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"The weights {path} do not fit the architecture: {name} has shape {tuple(tensors[name].shape)}, "
                f"and {tuple(tensor.shape)} is needed."
            )
    for name in tensors:
        if name not in wanted:
            raise CheckpointError(f"The weights {path} do not fit the architecture: tensor {name} is left over.")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
    return metadata
