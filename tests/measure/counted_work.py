"""A machine whose time is the work that is done on it: the same on every machine, however busy that is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.measure import blocks, clock, meter

OPERATOR_SECONDS = 1e-4
BYTES_PER_SECOND = 1e8


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


@contextmanager
def counting_work(patch: pytest.MonkeyPatch) -> Iterator[CountedWork]:
    """All that is measured in the block is timed by its work, and in this process, where that is seen.

    As there is no cache to overflow and no noise to lose a block in, a few blocks make a network.
    """
    with CountedWork() as work:
        patch.setattr(clock, "time", work)
        patch.setattr(blocks, "in_child", lambda function, *given: function(*given))
        patch.setattr(meter, "resident_peak_bytes", lambda function, *given: (function(*given), None))
        patch.setattr(blocks, "MOST_REPEATS", 4)
        yield work
