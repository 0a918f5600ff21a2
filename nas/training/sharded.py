"""Training on several devices that each keep a part of the model, with the recipe of one device alone."""

from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)
from torch.nn import Module
from torch.optim import Optimizer
from typing_extensions import override


class Sharded(FSDPStrategy):
    """Lightning's FSDP without casts of its own, and on CPUs too.

    Each device keeps its part of weights, gradients and optimizer state; the whole weights are there during a pass. In
    mixed precision Lightning makes all weights, buffers and sums of gradients bfloat16, decay rates and tables of
    angles among them; here autocast alone decides, as on one device, whose training this therefore repeats.
    """

    @override
    def _setup_model(self, model: Module) -> Module:
        return FullyShardedDataParallel(model, device_id=self.root_device, use_orig_params=True)

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights on the first rank, nothing on the others."""
        with self._gathered():
            return self._wrapped.state_dict()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state by name of parameter on the first rank, nothing on the others."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        with self._gathered():
            return FullyShardedDataParallel.optim_state_dict(self._wrapped, inner)

    @property
    def _wrapped(self) -> Module:
        assert self.model is not None
        return self.model

    def _gathered(self) -> AbstractContextManager[Any]:
        # What lies on a CPU already is not copied on its way there, but freed or written over after it was gathered.
        offload = self.root_device.type != "cpu"
        return FullyShardedDataParallel.state_dict_type(
            self._wrapped,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(offload_to_cpu=offload, rank0_only=True),
            FullOptimStateDictConfig(offload_to_cpu=offload, rank0_only=True),
        )
