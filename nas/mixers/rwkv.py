"""What the versions of RWKV share: the state beside the last token, and one path for sequences and single tokens."""

from abc import abstractmethod

import torch
from torch import Tensor

from kernels import matrix_recurrence, matrix_recurrence_step
from nas.context import Context
from nas.layers.token_shift import before
from nas.mixers.base import Mixer, State

Pair = tuple[Tensor, Tensor]


class RwkvMixer(Mixer):
    """The state is {"memory": as the version has it, "last": the last input [B, d]}."""

    num_heads: int
    head_dim: int

    @abstractmethod
    def mix(self, x: Tensor, previous: Tensor, memory: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        """x and the tokens before, [B, T, d] or [B, d] of one token, and the memory of all earlier ones -> (y, memory).

        Without a memory a sequence begins, and none is returned.
        """

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        if state is None:
            return self.mix(x, before(x, None), None, context)[0], None
        y, memory = self.mix(x, before(x, state["last"]), state["memory"], context)
        assert memory is not None, "a memory that is given is returned"
        return y, {"memory": memory, "last": x[:, -1].to(state["last"].dtype)}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        y, memory = self.mix(x, state["last"].to(x.dtype), state["memory"], context)
        assert memory is not None, "a memory that is given is returned"
        return y, {"memory": memory, "last": x.to(state["last"].dtype)}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        last = torch.zeros(batch, self.out_proj.out_features, dtype=dtype, device=device)
        return {"memory": self.empty_memory(batch, device), "last": last}

    def empty_memory(self, batch: int, device: torch.device) -> Tensor:
        """Before anything is seen."""
        return torch.zeros(batch, self.num_heads, self.head_dim, self.head_dim, device=device)

    def by_head(self, *tensors: Tensor) -> list[Tensor]:
        """[..., H D] -> [..., H, D]."""
        return [tensor.unflatten(-1, (self.num_heads, self.head_dim)) for tensor in tensors]

    def recur(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        memory: Tensor | None,
        log_decay: Tensor,
        *,
        erase: Pair | None = None,
        bonus: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The matrix recurrence of a sequence from nothing or from a memory, or of one token."""
        if r.ndim == 3:
            assert memory is not None, "a token is read into a memory"
            return matrix_recurrence_step(r, k, v, memory, log_decay=log_decay, erase=erase, bonus=bonus, scale=1.0)
        options = {"log_decay": log_decay, "erase": erase, "bonus": bonus, "scale": 1.0}
        if memory is None:
            o = matrix_recurrence(r, k, v, **options)
            assert isinstance(o, Tensor), "without return_state there is no state"
            return o, None
        return matrix_recurrence(r, k, v, **options, initial_state=memory, return_state=True)  # type: ignore[return-value]
