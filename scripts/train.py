"""Train one architecture: a member of a front further from its weights, or a design from the start."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from nas.architecture import Architecture, diagram, write_architecture
from nas.tasks import Task, make_tasks, task_configs
from nas.training.recipe import Recipe, recipe_from
from scripts.command_line import UserError, names_group, run_command, speaking_to_users
from scripts.config_values import whole
from scripts.settings import plain_config, read_design


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training, checked. `config` is everything it was asked for, with the task as it is trained."""

    architecture: Architecture
    weights: Path | None
    task: Task
    recipe: Recipe
    seed: int
    time_limit: float | None
    stem: Path
    config: dict[str, Any]


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with speaking_to_users(interrupted="Nothing was written; the same command starts again from where this one began."):
        train(training_from(plain_config(config), HydraConfig.get().overrides.task))


def training_from(plain: dict[str, Any], overrides: Sequence[str]) -> Training:
    """The training that a composed `conf/train.yaml` asks for. Raises one of the user errors for what does not hold."""
    architecture = read_design(plain["architecture"])
    weights = find_weights(plain["weights"], plain["architecture"])
    task_config = chosen_task(plain["task"], weights, overrides)
    (task,) = make_tasks(task_config).values()
    limit = plain["time_limit"]
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0):
        raise UserError(f"time_limit must be a number of seconds above zero, or null, but got {limit!r}.")
    return Training(
        architecture=fit_vocabulary(architecture, task, weights),
        weights=weights,
        task=task,
        recipe=recipe_from(plain["train"]),
        seed=whole("seed", plain["seed"], minimum=0),
        time_limit=limit,
        stem=Path(str(plain["output"])) / Path(str(plain["architecture"])).stem,
        config={**plain, "task": task_config},
    )


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


def chosen_task(composed: Any, weights: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of the task to train on: what the command line names, else what the weights were trained on.

    composed: the `task` group as it was composed. Prints a line where a named task is not that of the weights, or
    where the weights do not say on which data they were trained. Raises UserError where they only say that it was
    another task than the default, or several tasks are named.
    """
    stored, stored_name = (None, None) if weights is None else trained_on(weights)
    if stored is not None and not names_group("task", overrides):
        return stored
    if not isinstance(composed, Mapping):
        raise UserError(f"task must be a task such as task=text, but got {composed!r}.")
    configs = task_configs(composed)
    if len(configs) != 1:
        raise UserError(
            f"One task is trained at a time, but task has {', '.join(configs)}; choose task=text or another."
        )
    (config,) = configs.values()
    if stored is not None:
        if changed := differing(stored, config):
            print(f"the weights were trained on another task ({', '.join(changed)}); the command line's is used")
    elif stored_name is not None and not names_group("task", overrides):
        if stored_name != config.get("name"):
            raise UserError(
                f"The weights {weights} were trained on the task {stored_name!r} and do not hold its settings; name "
                f"it with the fields that the search had: task={stored_name}."
            )
        print("the weights do not say on which data they were trained; the default task is used")
    return config


def trained_on(weights: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The configuration and the name of the task that the weights were trained on, each None where they do not say it.

    Raises CheckpointError when the file or its note cannot be read.
    """
    from nas.checkpoint import CheckpointError, read_metadata

    metadata = read_metadata(weights)
    if "task_config" not in metadata:
        return None, metadata.get("task")
    try:
        config = json.loads(metadata["task_config"])
    except ValueError:
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise CheckpointError(f"The weights {weights} do not say readably what they were trained on; name it: task=...")
    return config, config["name"]


def differing(old: Mapping[str, Any], new: Mapping[str, Any], place: str = "") -> list[str]:
    """`field: old -> new` for every field that shapes the data and differs; where it is cached does not."""
    found: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        was, is_now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            found.extend(differing(was, is_now, f"{place}{key}."))
        elif was != is_now and key != "cache_dir":
            found.append(f"{place}{key}: {json.dumps(was)} -> {json.dumps(is_now)}")
    return found


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


def train(job: Training) -> None:
    """Score, train, score again, and write architecture, weights and numbers to the output folder."""
    from nas.checkpoint import load_weights
    from nas.compile import compile_architecture
    from nas.training import evaluate, fit, learning_rates

    model = compile_architecture(job.architecture, seed=job.seed)
    if job.weights is not None:
        load_weights(job.weights, model)
    make_folder(job.stem.parent)
    job.task.prepare()
    before = evaluate(model, job.task, job.recipe)
    print(f"task {job.task.name}: {job.task.describe()}")
    print(f"{diagram(job.architecture)}: {sum(p.numel() for p in model.parameters()):,} parameters, ", end="")
    print(f"from {job.weights}" if job.weights else "from the start", flush=True)

    def on_step(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // 10) == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss:.4f} nats", flush=True)

    result = fit(
        model,
        job.task,
        job.recipe,
        seed=job.seed,
        learning_rates=learning_rates(job.task.name),
        on_step=on_step,
        time_limit=job.time_limit,
    )
    after = evaluate(model, job.task, job.recipe)
    numbers = {
        "before": {name: score.value for name, score in before.items()},
        "after": {name: {"value": s.value, "spread": s.spread, "n": s.n} for name, s in after.items()},
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
    }
    print_scores(numbers)
    write_results(job, model.state_dict(), numbers)
    print(f"written {job.stem}.yaml, .safetensors and .json after {result.seconds:.0f} s")


def make_folder(folder: Path) -> None:
    """Make the output folder before anything is trained for it; raises UserError when that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The output folder must be writable, but {folder} is not ({error.strerror}); set output=FOLDER."
        ) from None


def print_scores(numbers: Mapping[str, Any]) -> None:
    """A line for each metric, before and after."""
    from nas.objectives import OBJECTIVES, with_unit

    for name, after in numbers["after"].items():
        unit = OBJECTIVES[name].unit
        change = f"{with_unit(numbers['before'][name], unit)} before, {with_unit(after['value'], unit)} after"
        print(f"{name}: {change} (± {after['spread']:.2g}, n = {after['n']})")


def write_results(job: Training, weights: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """The trained architecture, its weights with the task they were trained on, and the numbers with their settings."""
    from nas.checkpoint import save_weights
    from nas.measure import describe_device

    name = job.stem.name
    write_architecture(job.stem.with_name(f"{name}.yaml"), job.architecture)
    task = {"task": job.task.name, "task_config": json.dumps(job.config["task"])}
    save_weights(job.stem.with_name(f"{name}.safetensors"), weights, task)
    record = {**numbers, "config": job.config, "environment": describe_device()}
    job.stem.with_name(f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main, "train")
