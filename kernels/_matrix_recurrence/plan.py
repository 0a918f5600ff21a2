"""What one call of the matrix recurrence asks of the kernels: constants, block sizes and launch options.

Launches and ahead-of-time cases read the same plan, so what is checked without a GPU is what runs on one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

CHUNK = 64
SUB_CHUNK = 16

# Kernel -> largest blocks along K and V, warps, stages. Spills and shared memory are checked ahead of time.
_CONFIG: dict[str, tuple[int, int, int, int]] = {
    "chunk_sum_kernel": (64, 64, 4, 1),
    "scores_kernel": (64, 64, 4, 2),
    "channel_scores_kernel": (32, 64, 4, 1),
    "inverse_kernel": (64, 64, 4, 1),
    "wy_kernel": (64, 64, 4, 2),
    "state_kernel": (64, 64, 4, 2),
    "output_kernel": (32, 64, 4, 2),
    "value_grad_kernel": (64, 64, 4, 2),
    "state_grad_kernel": (64, 64, 8, 1),
    "token_grad_kernel": (64, 64, 8, 1),
    "score_grad_kernel": (64, 64, 4, 2),
    "channel_grad_kernel": (32, 64, 4, 1),
    "wy_grad_kernel": (32, 32, 8, 1),
    "erasing_grad_kernel": (32, 64, 8, 1),
    "step_kernel": (256, 16, 4, 1),
}
_CONFIG_ABOVE_64 = {"token_grad_kernel": (64, 32, 8, 1)}  # for head sizes K or V above 64
# The state of the delta rule is not split along K, because every value that it erases reads all of K.
_WHOLE_K_WITH_DELTA = ("state_kernel", "state_grad_kernel")


@dataclass(frozen=True)
class Plan:
    """The constants of a call: heads, group size, head sizes, kind of decay (0, 1 or 2, see gpu_tiles), delta rule."""

    heads: int
    group: int
    key_size: int
    value_size: int
    decay: int
    delta: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, q: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None) -> "Plan":
        heads = v.shape[-2]
        decay = 0 if log_decay is None else 1 + (log_decay.ndim == v.ndim)
        return cls(heads, heads // q.shape[-2], q.shape[-1], v.shape[-1], decay, beta is not None, q.dtype)

    @property
    def state_dtype(self) -> torch.dtype:
        """Of the states between chunks that one kernel hands to the next; float16 has no range for them."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32

    @property
    def gate_size(self) -> int:
        """Numbers of decay per head and token."""
        return self.key_size if self.decay == 2 else 1

    def blocks(self, kernel: Any) -> tuple[int, int]:
        """(BK, BV) of a kernel."""
        name = kernel.__name__
        most_k, most_v, _, _ = self._config(name)
        whole = max(16, triton.next_power_of_2(self.key_size))
        if self.dtype == torch.float32:
            most_k, most_v = min(most_k, 32), min(most_v, 32)
        if name == "step_kernel":
            most_k = whole
        elif self._needs_whole_k(name):
            most_k, most_v = whole, min(most_v, max(16, 4096 // whole))
        return min(whole, most_k), min(max(16, triton.next_power_of_2(self.value_size)), most_v)

    def _config(self, name: str) -> tuple[int, int, int, int]:
        large = _CONFIG_ABOVE_64 if max(self.key_size, self.value_size) > 64 else {}
        return large.get(name, _CONFIG[name])

    def _needs_whole_k(self, name: str) -> bool:
        return self.delta and name in _WHOLE_K_WITH_DELTA

    def k_blocks(self, kernel: Any) -> int:
        return triton.cdiv(self.key_size, self.blocks(kernel)[0])

    def v_blocks(self, kernel: Any) -> int:
        return triton.cdiv(self.value_size, self.blocks(kernel)[1])

    def constants(self, kernel: Any, **flags: bool) -> dict[str, Any]:
        """The compile-time arguments of a kernel."""
        block_k, block_v = self.blocks(kernel)
        width = self.heads * self.gate_size
        known = {
            "H": self.heads,
            "GROUP": self.group,
            "K": self.key_size,
            "V": self.value_size,
            "BT": CHUNK,
            "BK": block_k,
            "BV": block_v,
            "W": width,
            "BW": min(64, triton.next_power_of_2(width)),
            "DECAY": self.decay,
            "DELTA": self.delta,
            "PRECISION": "tf32x3" if self.dtype == torch.float32 else "tf32",
        } | flags
        return {name: known[name] for name in kernel.arg_names if name in known}

    def options(self, kernel: Any) -> dict[str, int]:
        name = kernel.__name__
        _, _, warps, stages = self._config(name)
        # Tiles of float32 and of K = 256 fill registers and shared memory: more warps to hold them, one stage.
        if self.dtype == torch.float32 or (self._needs_whole_k(name) and self.key_size > 128):
            warps, stages = 8, 1
        return {"num_warps": warps, "num_stages": stages}

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **flags: bool) -> None:
        constants: dict[str, Any] = self.constants(kernel, **flags)
        run: Callable[..., object] = kernel[grid]
        run(*arguments, **constants, **self.options(kernel))
