"""How a model is trained, as plain data: the same recipe for every architecture of a study."""

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Literal, get_args

Schedule = Literal["linear", "cosine", "constant", "wsd"]
Precision = Literal["auto", "32", "bf16-mixed"]


class RecipeError(ValueError):
    """A recipe does not hold. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings.

    Attributes:
        tokens: training tokens; rounded down to whole steps of `batch_size` sequences of the task.
        batch_size: sequences per step, of the task's sequence length.
        warmup: share of the steps over which the rate rises from zero.
        schedule: what the rate does afterwards, down to zero at the end. "wsd" (warm-up, stable, decay: Hu et al.,
            MiniCPM, arXiv 2404.06395, section 4) stays at the peak until the last `decay` share of the steps, so that a
            shorter training can branch off it.
        decay: share of the steps over which "wsd" falls to zero.
        learning_rate_scale: multiplies every rate of the table.
        weight_decay: decoupled, on matrices only (not on norms, biases, decay and gate parameters).
        betas: of AdamW.
        grad_clip: largest gradient norm; 0 is none.
        precision: "auto" is bf16-mixed on a GPU and 32 on a CPU.
    """

    tokens: int
    batch_size: int
    warmup: float = 0.1
    schedule: Schedule = "linear"
    decay: float = 0.2
    learning_rate_scale: float = 1.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.betas, list | tuple):
            raise RecipeError(f"betas must be two numbers from 0 to below 1, but got {self.betas!r}.")
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("tokens", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RecipeError(f"{name} must be a positive integer, but got {value!r}.")
        for name, low, high in (
            ("warmup", 0, 1),
            ("decay", 0, 1),
            ("learning_rate_scale", 0, float("inf")),
            ("weight_decay", 0, float("inf")),
            ("grad_clip", 0, float("inf")),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise RecipeError(f"{name} must be a number from {low} to {high:g}, but got {value!r}.")
        if len(self.betas) != 2 or not all(isinstance(b, float) and 0 <= b < 1 for b in self.betas):
            raise RecipeError(f"betas must be two numbers from 0 to below 1, but got {self.betas!r}.")
        for name, kind in (("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                raise RecipeError(
                    f"{name} must be one of {', '.join(get_args(kind))}, but got {getattr(self, name)!r}."
                )

    def steps(self, sequence_length: int) -> int:
        """Whole optimizer steps that `tokens` pay for; at least one."""
        return max(1, self.tokens // (self.batch_size * sequence_length))

    def steps_until(self, share: float, sequence_length: int) -> int:
        """Steps of a training that stops at that share of the tokens; at least one."""
        return max(1, round(share * self.steps(sequence_length)))

    def stable_steps(self, steps: int) -> int:
        """Of a "wsd" training of so many steps, those before its decay."""
        return steps - round(self.decay * steps)

    def rate_share(self, step: int, total: int, stop: int | None = None) -> float:
        """The rate of step `step` (from 0) as a share of its peak.

        stop: the step before which a "wsd" training ends that branches off the one of `total` steps, whose warm-up it
        has.
        """
        rising = max(1, round(self.warmup * total))
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "wsd":
            end = total if stop is None else stop
            stable = self.stable_steps(end)
            return 1.0 if step < stable else max(0.0, 1 - (step - stable) / max(1, end - stable))
        done = min(1.0, (step - rising) / max(1, total - rising))
        if self.schedule == "linear":
            return 1 - done
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1.0


def recipe_from(options: dict[str, object]) -> Recipe:
    """A recipe from plain options (YAML). Raises RecipeError, with the nearest name, for an unknown one."""
    valid = [f.name for f in fields(Recipe)]
    for name in options:
        if name not in valid:
            near = get_close_matches(str(name), valid, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise RecipeError(f"Unknown recipe option {name!r}. {hint}Valid: {', '.join(valid)}.")
    for name in ("tokens", "batch_size"):
        if name not in options:
            raise RecipeError(f"A recipe needs {name}, but got only {', '.join(map(str, options)) or 'nothing'}.")
    return Recipe(**options)  # type: ignore[arg-type]
