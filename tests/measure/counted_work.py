"""A machine whose time is the work that is done on it: the same on every machine, however busy that is."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OPERATOR_SECONDS = 1e-5
BYTES_PER_SECOND = 1e9


class CountedWork(TorchDispatchMode):
    """Within it, `seconds` grows by what operators take: each a little, and the bytes that it reads and writes.

    Views move no bytes. Threads count for themselves, so a backward pass counts on a CPU alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def perf_counter(self) -> float:
        """Stands in for that of the module `time`; a look takes a nanosecond, so that no two are the same."""
        self.seconds += 1e-9
        return self.seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.seconds += OPERATOR_SECONDS + moved / BYTES_PER_SECOND
        return result
