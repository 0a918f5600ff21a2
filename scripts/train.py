"""Train one architecture: a member of a front further from its weights, or a design from the start."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from nas.architecture import Architecture, diagram, write_architecture
from nas.tasks import Task, make_tasks
from nas.training.recipe import recipe_from
from scripts.command_line import UserError, run_command, speaking_to_users
from scripts.settings import plain_config, read_design, whole


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with speaking_to_users():
        plain = plain_config(config)
        architecture = read_design(plain["architecture"])
        weights = find_weights(plain["weights"], plain["architecture"])
        tasks = make_tasks(plain["task"])
        if len(tasks) != 1:
            raise UserError(
                f"One task is trained at a time, but task has {', '.join(tasks)}; choose task=text or another."
            )
        (task,) = tasks.values()
        recipe = recipe_from(plain["train"])
        seed = whole("seed", plain["seed"], minimum=0)
        limit = plain["time_limit"]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0):
            raise UserError(f"time_limit must be a number of seconds above zero, or null, but got {limit!r}.")
        fitted = fit_vocabulary(architecture, task, weights)
        train(fitted, task, recipe, seed, weights, plain)


def find_weights(choice: object, architecture: object) -> Path | None:
    """The weights file that `weights` means; None for a fresh start. Raises UserError for a path that is not there."""
    beside = Path(str(architecture)).with_suffix(".safetensors")
    if choice == "none":
        return None
    if choice == "auto":
        return beside if beside.exists() else None
    if not Path(str(choice)).is_file():
        raise UserError(f"weights must be auto, none or the path of a file, but there is no file {choice}.")
    return Path(str(choice))


def fit_vocabulary(architecture: Architecture, task: Task, weights: Path | None) -> Architecture:
    """The architecture with the task's vocabulary; raises UserError where its weights have another."""
    if architecture.vocab_size == task.vocab_size:
        return architecture
    if weights is not None:
        raise UserError(
            f"The weights {weights} were trained with a vocabulary of {architecture.vocab_size}, but the task has "
            f"{task.vocab_size}; choose the task and tokenizer of the search, or weights=none."
        )
    return replace(architecture, vocab_size=task.vocab_size)


def train(
    architecture: Architecture, task: Task, recipe: Any, seed: int, weights: Path | None, plain: dict[str, Any]
) -> None:
    """Score, train, score again, and write architecture, weights and numbers to the output folder."""
    from nas.checkpoint import load_weights, save_weights
    from nas.compile import compile_architecture
    from nas.measure import describe_device
    from nas.objectives import OBJECTIVES, with_unit
    from nas.training import evaluate, fit, learning_rates

    model = compile_architecture(architecture, seed=seed)
    if weights is not None:
        load_weights(weights, model)
    task.prepare()
    before = evaluate(model, task, recipe)
    print(f"{diagram(architecture)}: {sum(p.numel() for p in model.parameters()):,} parameters, ", end="")
    print(f"from {weights}" if weights else "from the start", flush=True)

    def on_step(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // 10) == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss:.4f} nats", flush=True)

    result = fit(
        model,
        task,
        recipe,
        seed=seed,
        learning_rates=learning_rates(task.name),
        on_step=on_step,
        time_limit=plain["time_limit"],
    )
    after = evaluate(model, task, recipe)
    for name in after:
        unit = OBJECTIVES[name].unit
        print(
            f"{name}: {with_unit(before[name].value, unit)} before, {with_unit(after[name].value, unit)} after", end=""
        )
        print(f" (± {after[name].spread:.2g}, n = {after[name].n})")
    folder = Path(plain["output"])
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / Path(str(plain["architecture"])).stem
    write_architecture(stem.with_suffix(".yaml"), architecture)
    save_weights(stem.with_suffix(".safetensors"), model.state_dict(), {"task": task.name})
    numbers = {
        "before": {name: score.value for name, score in before.items()},
        "after": {name: {"value": s.value, "spread": s.spread, "n": s.n} for name, s in after.items()},
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "environment": describe_device(),
    }
    stem.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(f"written {stem}.yaml, .safetensors and .json after {result.seconds:.0f} s")


if __name__ == "__main__":
    run_command(main, "train")
