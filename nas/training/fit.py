"""Training a model on a task, and scoring it: the door behind which Lightning works.

torch and Lightning are imported when something is trained, so that settings can be checked without waiting for them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.tasks.base import Score, Task
from nas.training.recipe import Recipe
from nas.training.result import TrainResult

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor

    from nas.model import Model

Device = Literal["auto", "cpu", "gpu"]


def fit(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    learning_rates: Mapping[str, float],
    device: Device = "auto",
    on_step: Callable[[int, int, float], None] | None = None,
    time_limit: float | None = None,
    resume_path: Path | None = None,
    share: float = 1.0,
    branch_path: Path | None = None,
    devices: int = 1,
    strategy: str = "auto",
) -> TrainResult:
    """Train `model` in place on the task's stream with the loss of its kind; it lies on the CPU afterwards.

    Args:
        seed: of the order of the data alone; the weights are the caller's.
        learning_rates: rate by mixer family, from `nas.training.learning_rates(task.name)`.
        device: "auto" takes a GPU if there is one.
        on_step: called with (step from 1, number of steps, loss in nats) whenever the loss is read: at every step on a
            CPU, at every tenth on a GPU.
        time_limit: seconds after which training stops early, whatever the schedule.
        resume_path: written about once a minute, read when it exists, deleted when training is finished. The same call
            with the same arguments goes on from it with the data that would have come next; one that cannot be read is
            put away and training starts anew. Not being able to write it ends nothing.
        share: of the recipe's tokens after which to stop; below 1 only with the schedule "wsd", whose decay then ends
            there.
        branch_path: read, unless there is something to resume, when it exists, and written where the decay begins:
            a later call with a larger share goes on from there, as if it had never stopped. The caller deletes it.
        devices: how many share each step: the sequences of a batch are dealt out, so it must divide the batch size.
            Gradients are averaged over devices, which for a task that asks for unequal numbers of answers in a
            sequence is not quite the mean over the batch.
        strategy: of Lightning, where there are several: "ddp" (each device holds the whole model), or "fsdp" (each
            keeps a part of weights, gradients and optimizer state, and has the whole weights during a pass alone);
            "auto" is "ddp". What one has interrupted the other begins anew.

    Raises:
        NonFiniteLoss, RuntimeError when one of several devices breaks, ValueError for a share below 1 with a schedule
        that has no stable part, and KeyboardInterrupt on Ctrl-C.
    """
    if share != 1 and recipe.schedule != "wsd":
        raise ValueError(f"Only the schedule 'wsd' can stop at a share of the tokens, but got {recipe.schedule!r}.")
    request = {
        "task": task,
        "recipe": recipe,
        "seed": seed,
        "learning_rates": dict(learning_rates),
        "device": device,
        "time_limit": time_limit,
        "resume_path": resume_path,
        "share": share,
        "branch_path": branch_path,
        "devices": devices,
        "strategy": strategy,
    }
    if devices > 1:
        from nas.training.several import fit_on_several

        return fit_on_several(model, request, on_step)
    return fit_here(model, **request, on_step=on_step)[0]


def fit_here(
    model: Model,
    *,
    task: Task,
    recipe: Recipe,
    seed: int,
    learning_rates: Mapping[str, float],
    device: Device,
    time_limit: float | None,
    resume_path: Path | None,
    share: float,
    branch_path: Path | None,
    devices: int,
    strategy: str,
    on_step: Callable[[int, int, float], None] | None,
) -> tuple[TrainResult, dict[str, Tensor]]:
    """`fit` in this process, one rank of several where there are several; also gives the whole model's weights, which
    the model itself may not hold then."""
    from nas.training.loop import (
        Keep,
        KeepBranch,
        KeepForResume,
        KeepWeights,
        Stream,
        TrainingModule,
        interruptible,
        quiet_lightning,
    )

    started = time.perf_counter()
    total = recipe.steps(task.sequence_length)
    stop = recipe.steps_until(share, task.sequence_length)
    accelerator = accelerator_name(device)
    module = TrainingModule(model, recipe, learning_rates, total, stop, on_step, time_limit, accelerator)
    sharded = devices > 1 and strategy == "fsdp"
    resume, notes = _readable(resume_path, sharded)
    if resume is None:
        resume, more = _readable(branch_path, sharded, end=stop)
        notes += more
    keepers: list[Keep] = [] if resume_path is None else [KeepForResume(resume_path)]
    if branch_path is not None:
        keepers.append(KeepBranch(branch_path, recipe.stable_steps(stop)))
    weights = KeepWeights()
    with quiet_lightning(), interruptible():
        trainer = _trainer(
            stop, accelerator, _precision(recipe, accelerator), [*keepers, weights], devices=devices, strategy=strategy
        )
        trainer.fit(module, Stream(task, recipe.batch_size, seed, module), ckpt_path=resume, weights_only=True)
    model.to("cpu")
    if resume_path is not None:
        resume_path.unlink(missing_ok=True)
    notes += [
        f"no checkpoint could be written to {keeper.path} ({keeper.problem}); what would go on from it starts anew"
        for keeper in keepers
        if keeper.problem is not None
    ]
    tail = module.curve[-max(1, len(module.curve) // 10) :]
    result = TrainResult(
        steps=trainer.global_step,
        tokens=trainer.global_step * recipe.batch_size * task.sequence_length,
        seconds=time.perf_counter() - started,
        final_loss=math.fsum(value for _, value in tail) / len(tail),
        loss_curve=module.curve,
        notes=tuple(notes),
    )
    return result, weights.weights


def _readable(path: Path | None, sharded: bool, *, end: float = math.inf) -> tuple[Path | None, list[str]]:
    """The file to resume from, if there is one that can be read, and what to say of one that cannot.

    sharded: whether this training deals the model out, which one that did not cannot be gone on from, nor the reverse.
    end: the last step of this training; a checkpoint of a longer one beyond it is of no use.
    """
    import torch

    from nas.training.loop import SHARDED

    if path is None or not path.exists():
        return None, []
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        step = found["global_step"]
    except Exception as error:  # a torn file raises nearly anything
        path.unlink(missing_ok=True)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return None, [f"the checkpoint {path} cannot be read ({reason[:100]}); training starts anew"]
    if found.get(SHARDED, False) != sharded:
        path.unlink(missing_ok=True)
        return None, [f"the checkpoint {path} was written under another strategy; training starts anew"]
    return (path if step < end else None), []


def evaluate(model: Model, task: Task, recipe: Recipe, *, device: Device = "auto") -> dict[str, Score]:
    """The task's metrics on its held-out set, on the device and in the precision of training."""
    import torch

    from nas.training.predictor import as_scored

    accelerator = accelerator_name(device)
    place = torch.device("cuda" if accelerator == "gpu" else "cpu")
    half = _precision(recipe, accelerator) == "bf16-mixed"
    was_training = model.training
    model.to(place).eval()
    try:
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=half):
            return task.score(as_scored(model), recipe.batch_size)
    finally:
        model.to("cpu").train(was_training)


def accelerator_name(device: Device) -> Literal["cpu", "gpu"]:
    """The device that trains: as asked, or the GPU when torch sees one."""
    import torch

    if device == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return device


def _trainer(
    steps: int,
    accelerator: str,
    precision: Any,
    callbacks: Sequence[pl.Callback],
    *,
    devices: int,
    strategy: str,
) -> pl.Trainer:
    """Lightning's loop for so many steps, which writes nothing but what the callbacks write."""
    import lightning.pytorch as pl

    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=devices,
        strategy=_strategy(strategy, devices),
        use_distributed_sampler=False,
        precision=precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def _strategy(name: str, devices: int) -> Any:
    """What Lightning trains on so many devices with."""
    if devices == 1:
        return "auto"
    if name == "fsdp":
        from nas.training.sharded import Sharded

        return Sharded()
    return "ddp" if name == "auto" else name


def _precision(recipe: Recipe, accelerator: str) -> Any:
    """The name Lightning has for the recipe's precision."""
    if recipe.precision == "auto":
        return "bf16-mixed" if accelerator == "gpu" else "32-true"
    return "32-true" if recipe.precision == "32" else recipe.precision
