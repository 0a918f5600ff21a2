"""Tensors that somebody else saved: read by name, joined to the shapes of ours, and none of them forgotten."""

import json
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas.interop.errors import InteropError

DERIVED = ("inv_freq",)
"""Last words of the names of tensors that old checkpoints hold though they follow from the configuration."""

READ_AS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of weights that are numbers by themselves, without scales beside them."""

Join = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Source:
    """Where a parameter of ours comes from: names of theirs, and how they become one tensor.

    A name without `.weight` or `.bias` at its end stands for both. Where `{}` stands in a name, it is read for each
    expert and the results are stacked.
    """

    names: tuple[str, ...]
    join: Join

    def of(self, leaf: str) -> "Source":
        """For one parameter of the module that the names stand for."""
        return Source(tuple(f"{name}.{leaf}" for name in self.names), self.join)


def rows(*names: str) -> Source:
    """Those tensors one below the other."""
    return Source(names, torch.cat)


def plus_one(*names: str) -> Source:
    """Weights of a norm that multiplies by 1 + w: as ours multiply by w, the sum is the weight."""
    return Source(names, lambda tensors: torch.cat([1 + tensor for tensor in tensors]))


def rest_of_one(*names: str) -> Source:
    """1 - w of each of those vectors, one below the other."""
    return Source(names, lambda tensors: torch.stack([1 - tensor.flatten() for tensor in tensors]))


def filters(*names: str) -> Source:
    """The filters of depthwise convolutions side by side, [C, 1, W] -> [C, W]."""
    return Source(names, lambda tensors: torch.cat(tensors).squeeze(1))


def transposed(name: str) -> Source:
    """A stack of matrices, each transposed."""
    return Source((name,), lambda tensors: tensors[0].mT)


def evens_then_odds(name: str) -> Source:
    """The last axis of a tensor that alternates between two things, the first of them before the second."""
    return Source((name,), lambda tensors: torch.cat((tensors[0][..., ::2], tensors[0][..., 1::2]), dim=-1))


def transposed_rows(*names: str) -> Source:
    """Those matrices one below the other, and that transposed."""
    return Source(names, lambda tensors: torch.cat(tensors).t())


class Weights:
    """The safetensors files of a directory, opened together; remembers which tensors were read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file_of = _files(directory)
        self._stored = {name: name for name in self._file_of}
        self._open = ExitStack()
        self._handles: dict[str, Any] = {}
        self._read: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._stored)

    def respell(self, spellings: Iterable[tuple[str, str]]) -> None:
        """Call tensors by the name in a table, where theirs is one of several spellings of it."""
        for pattern, name in spellings:
            self._stored = {re.sub(pattern, name, known): stored for known, stored in self._stored.items()}

    def get(self, name: str) -> Tensor:
        """Raises InteropError for a tensor that is missing, cannot be read or is quantised."""
        if name not in self._stored:
            raise InteropError(f"{self.directory} lacks the tensor {name}, which its configuration asks for.")
        self._read.add(name)
        stored = self._stored[name]
        file = self._file_of[stored]
        tensor: Tensor = _reading(self.directory / file, lambda: self._handle(file).get_tensor(stored))
        if tensor.dtype not in READ_AS:
            raise InteropError(
                f"{self.directory} holds the tensor {name} as {tensor.dtype}, but weights must be float64, float32, "
                "float16 or bfloat16; save the model without quantisation."
            )
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that is there, without reading it."""
        stored = self._stored[name]
        file = self._file_of[stored]
        return _reading(self.directory / file, lambda: tuple(self._handle(file).get_slice(stored).get_shape()))

    def take(self, source: Source, experts: int) -> Tensor:
        """A parameter of ours."""
        if not any("{}" in name for name in source.names):
            return self._joined(source, source.names)
        each = (tuple(name.format(expert) for name in source.names) for expert in range(experts))
        joined = [self._joined(source, names) for names in each]
        shapes = sorted({tuple(tensor.shape) for tensor in joined})
        if len(shapes) > 1:
            raise InteropError(
                f"The tensors {', '.join(source.names)} of all experts must have one shape, but got {shapes[0]} and "
                f"{shapes[1]}."
            )
        return torch.stack(joined)

    def refuse_unread(self, derived: Collection[str] = ()) -> None:
        """Raise InteropError for tensors that no parameter of ours came from; derived: last words of names to pass."""
        passed = (*DERIVED, *derived)
        unread = sorted(name for name in self.names - self._read if name.rpartition(".")[2] not in passed)
        if unread:
            more = f" and {len(unread) - 1} more" if unread[1:] else ""
            raise InteropError(
                f"{self.directory} holds the tensor {unread[0]}{more}, which nothing in the architecture takes; the "
                "model computes something that is not understood."
            )

    def _joined(self, source: Source, names: tuple[str, ...]) -> Tensor:
        tensors = [self.get(name) for name in names]
        try:
            return source.join(tensors)
        except (RuntimeError, IndexError, ValueError):
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True))
            raise InteropError(f"The tensors of {self.directory} do not go together: {shapes}.") from None

    def _handle(self, file: str) -> Any:
        if file not in self._handles:
            self._handles[file] = self._open.enter_context(safe_open(self.directory / file, framework="pt"))
        return self._handles[file]


def _files(directory: Path) -> dict[str, str]:
    """Tensor -> file. Raises InteropError where there are no readable safetensors."""
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.exists():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {str(name): str(file) for name, file in listed.items() if Path(file).name == file}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InteropError(f"{index} is not a readable index of tensors ({type(error).__name__}).") from None
    if not single.exists():
        raise InteropError(
            f"{directory} has no model.safetensors; weights in other formats can execute code and are not read."
        )

    def names() -> list[str]:
        with safe_open(single, framework="pt") as file:
            return list(file.keys())

    return dict.fromkeys(_reading(single, names), single.name)


def _reading(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, SafetensorError) as error:
        raise InteropError(f"The weights {path} cannot be read ({error}).") from None
