"""What one call of the matrix recurrence asks of the kernels: constants, block sizes and launch options.

Launches and ahead-of-time cases read the same plan, so what is checked without a GPU is what runs on one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from kernels._matrix_recurrence.launches import default_launch, launch_key
from kernels.backend import gpu_is_absent, multiprocessors
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run

SUB_CHUNK = 16
FREE = 2  # Plan.delta of erasing freely


@dataclass(frozen=True)
class Plan:
    """The constants of a call: heads, group size, head sizes, and DECAY, DELTA and BEFORE as gpu_tiles has them."""

    heads: int
    group: int
    key_size: int
    value_size: int
    decay: int
    delta: int
    dtype: torch.dtype
    device: torch.device
    before: bool = False

    @classmethod
    def of(
        cls, q: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, a: Tensor | None, bonus: Tensor | None
    ) -> "Plan":
        heads = v.shape[-2]
        decay = 0 if log_decay is None else 1 + (log_decay.ndim == v.ndim)
        sizes = (heads // q.shape[-2], q.shape[-1], v.shape[-1])
        delta = FREE if a is not None else int(beta is not None)
        return cls(heads, *sizes, decay, delta, q.dtype, q.device, bonus is not None)

    @property
    def state_dtype(self) -> torch.dtype:
        """Of the states between chunks that one kernel hands to the next; float16 has no range for them."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32

    @property
    def chunk(self) -> int:
        """Tokens in a chunk. Tiles of 64 tokens in float32, whose products are three of TF32, are more than registers
        hold; and sums of 32 logarithms are twice as exact."""
        return 32 if self.dtype == torch.float32 else 64

    @property
    def gate_size(self) -> int:
        """Numbers of decay per head and token."""
        return self.key_size if self.decay == 2 else 1

    @property
    def multiprocessors(self) -> int:
        return multiprocessors(self.device)

    @property
    def fits_in_one(self) -> bool:
        """Whether the registers of a GPU hold what the fused kernel has of all of K beside the state. In float32 they
        do not; the interpreter, which knows no registers, takes it all the same, so that tests see both forms."""
        interpreted = self.device.type != "cuda" and not gpu_is_absent()
        return self.key_size <= 128 and (self.dtype.itemsize == 2 or interpreted)

    def key(self, kernel: Any) -> Key:
        return _key(self, kernel)

    def config(self, kernel: Any) -> Config:
        """Blocks, warps and stages of a kernel: those measured for it, or its default."""
        return choose(self.key(kernel), kernel, default_launch, self.device)

    def k_blocks(self, kernel: Any) -> int:
        return triton.cdiv(self.key_size, self.config(kernel)["BK"])

    def v_blocks(self, kernel: Any) -> int:
        return triton.cdiv(self.value_size, self.config(kernel)["BV"])

    def default_v_blocks(self, kernel: Any) -> int:
        """Those of the default launch: what decides between kernels must not depend on what was measured for them."""
        return _default_v_blocks(self, kernel)

    def constants(self, kernel: Any, **flags: bool) -> dict[str, Any]:
        """The compile-time arguments of a kernel but those of its launch configuration."""
        known = {
            "H": self.heads,
            "GROUP": self.group,
            "K": self.key_size,
            "V": self.value_size,
            "BT": self.chunk,
            "W": self.heads * self.gate_size,
            "DECAY": self.decay,
            "DELTA": self.delta,
            "BEFORE": self.before,
            "PRECISION": "tf32x3" if self.dtype == torch.float32 else "tf32",
        } | flags
        return {name: known[name] for name in kernel.arg_names if name in known}

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **flags: bool) -> None:
        run(self.key(kernel), kernel, grid, *arguments, **self.constants(kernel, **flags), **self.config(kernel))


@cache
def _key(plan: Plan, kernel: Any) -> Key:
    flags = {"DECAY": plan.decay, "DELTA": plan.delta, "BEFORE": int(plan.before)}
    sizes = (plan.key_size, plan.value_size)
    width = plan.heads * plan.gate_size
    return launch_key(kernel, plan.dtype.itemsize, plan.state_dtype.itemsize, sizes, width, flags)


@cache
def _default_v_blocks(plan: Plan, kernel: Any) -> int:
    return triton.cdiv(plan.value_size, default_launch(plan.key(kernel))["BV"])
