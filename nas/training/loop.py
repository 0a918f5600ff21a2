"""The Lightning side of training: the module, its data, its checkpoints. `nas/training/fit.py` alone imports it, late,
because importing Lightning takes seconds.
"""

import itertools
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from nas.context import Context
from nas.losses import Loss, Question, loss_of
from nas.model import Model
from nas.tasks.base import Batch, Task
from nas.training.errors import NonFiniteLoss
from nas.training.groups import group_layout, parameter_groups
from nas.training.recipe import Recipe

OnStep = Callable[[int, int, float], None]

# A loss is read every so many steps: reading waits for the device, which costs nothing on a CPU alone.
READ_EVERY = {"cpu": 1, "gpu": 10}
RESUME_SECONDS = 60.0
SHARDED = "sharded"  # in a checkpoint: whether its optimizer's state stands by name, as FSDP has it, or by position


class TrainingModule(pl.LightningModule):
    """The step and the optimizer; the model lies inside, so its parameters are the module's."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        rates: Mapping[str, float],
        total: int,
        stop: int,
        on_step: OnStep | None,
        time_limit: float | None,
        accelerator: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss: Loss = loss_of(model.mask_token)
        self.recipe = recipe
        self.layout = group_layout(model, recipe, rates)
        self.total = total
        self.stop = stop
        self.on_step = on_step
        self.deadline = math.inf if time_limit is None else time.perf_counter() + time_limit
        self.started = time.perf_counter()
        self.curve: list[tuple[int, float]] = []
        self.read_every = READ_EVERY[accelerator]

    def training_step(self, batch: Question, index: int) -> Tensor:
        context = Context()
        x, head = self.model.before_head(batch.tokens, context)
        value, _ = self.loss(x, head, batch, self.model.logits_soft_cap)
        step = self.global_step + 1
        if step % self.read_every == 0 or step in (1, self.stop):
            self._read(step, self.trainer.strategy.reduce(value.detach(), reduce_op="mean").item())
        return value + sum(context.losses, torch.zeros((), device=value.device))

    def _read(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteLoss(step, value)
        self.curve.append((step, value))
        if self.on_step is not None:
            self.on_step(step, self.stop, value)
        if self.deadline < math.inf:  # all ranks stop, or none
            late = time.perf_counter() > self.deadline
            if self.trainer.strategy.reduce_boolean_decision(late, all=False):
                self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.model, self.layout)
        optimizer = torch.optim.AdamW(groups, betas=self.recipe.betas, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.recipe.rate_share(step, self.total, self.stop)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        # By hand, because Lightning refuses to clip for a fused optimizer, which bf16 has no need of.
        if self.recipe.grad_clip > 0:
            whole = self.trainer.model  # where each device holds a part of the model, it knows the norm of all
            if isinstance(whole, FullyShardedDataParallel):
                whole.clip_grad_norm_(self.recipe.grad_clip)
            else:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = self.curve
        checkpoint[SHARDED] = isinstance(self.trainer.strategy, FSDPStrategy)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = [(step, value) for step, value in checkpoint["curve"]]


class Stream:
    """The task's endless batches for Lightning as the loss asks them, without those a resumed run has already seen.

    Of several ranks each takes its sequences of every batch. What is random in a question follows from the seed, the
    step and the rank.
    """

    def __init__(self, task: Task, batch_size: int, seed: int, module: TrainingModule) -> None:
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self.module = module

    def __iter__(self) -> Iterator[Question]:
        batches = self.task.train_batches(self.batch_size, self.seed)
        rank, ranks = self.module.trainer.global_rank, self.module.trainer.world_size
        first = self.module.global_step
        for step, batch in enumerate(itertools.islice(batches, first, None), first):
            mine = Batch(batch.tokens[rank::ranks], batch.targets[rank::ranks]) if ranks > 1 else batch
            drawn = np.random.SeedSequence((self.seed, step, rank)).generate_state(1, np.uint64)[0]
            yield self.module.loss.ask(*mine, torch.Generator().manual_seed(int(drawn >> 1)))


class Keep(pl.Callback):
    """Writes a checkpoint, complete or not at all.

    problem: why none can be written, such as a full disk, in a few words; training goes on without.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None

    def is_due(self, step: int) -> bool:
        """Whether to write after that step."""
        raise NotImplementedError

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        due = self.problem is None and self.is_due(trainer.global_step)
        if trainer.world_size > 1:  # every rank takes part in writing, or none
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if not due:
            return
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                partial.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch raises the second for a disk that is full
            self.problem = str(error).splitlines()[0]
            with suppress(OSError):
                partial.unlink(missing_ok=True)


class KeepWeights(pl.Callback):
    """Keeps the whole model's weights on the CPU where several devices have trained it; empty where one has."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            state = trainer.strategy.lightning_module_state_dict()
            self.weights = {name.removeprefix("model."): tensor.detach().cpu() for name, tensor in state.items()}


class KeepForResume(Keep):
    """About once a minute, for an interrupted training to go on from."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written = time.monotonic()

    def is_due(self, step: int) -> bool:
        if time.monotonic() - self.written < RESUME_SECONDS:
            return False
        self.written = time.monotonic()
        return True


class KeepBranch(Keep):
    """Once, where the decay begins: a longer training goes on from there at the peak rate."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path)
        self.step = step

    def is_due(self, step: int) -> bool:
        return step == self.step


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """No banners, tips and warnings from Lightning; levels are set back afterwards."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lightning answers Ctrl-C with `sys.exit(1)` and ignores every later one; this undoes both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
