"""Measure the learning-rate table: each mixer family alone, at several rates, on each task.

A pure design of the family is trained for every rate and seed; the rate with the best mean score on held-out data wins.
The table keeps every score, so that a reader sees how sharp the choice is.
"""

import datetime
import json
import platform
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    GatedDeltaNet,
    GatedLinearAttention,
    Glu,
    Mamba1,
    Mamba2,
    MixerOptions,
    did_you_mean,
)
from nas.tasks import TASKS, Task, make_tasks
from nas.training.recipe import Recipe
from scripts.command_line import UserError, run_command, speaking_to_users
from scripts.config_values import as_list, whole
from scripts.settings import plain_config, recipe_for

# The score that decides; the accuracy of a synthetic task is at chance for too long to tell rates apart.
DECIDES = {name: "text_loss" if name == "text" else f"{name}_bits" for name in TASKS} | {"mixed": "recall_bits"}


@hydra.main(version_base="1.3", config_path="../conf", config_name="tune_lr")
def main(config: DictConfig) -> None:
    with speaking_to_users(
        interrupted="The rows that were finished are in the table; the same command measures all of them again, and "
        "families=[...] and task=... choose the rest."
    ):
        plain = plain_config(config)
        rates = sorted({float(rate) for rate in as_list("rates", plain["rates"])})
        if len(rates) < 4 or rates[0] <= 0:
            raise UserError(f"rates must be at least 4 different positive numbers, but got {plain['rates']!r}.")
        seeds = range(whole("seeds", plain["seeds"]))
        for task in make_tasks(plain["task"]).values():
            recipe = recipe_for(task.name, plain["budget"]["train"])
            recipe = replace(recipe, tokens=round(recipe.tokens * float(plain["share"].get(task.name, 1.0))))
            task.prepare()
            for family in as_list("families", plain["families"]):
                architecture = pure_design(family, task, plain)
                row = tuned(architecture, task, recipe, rates, seeds)
                measured_with = provenance(task, recipe) | {"proxy": proxy_size(plain)}
                write_row(Path(plain["table"]), task.name, family, row, measured_with)


def pure_design(family: str, task: Task, plain: Mapping[str, Any]) -> Architecture:
    """The family's mixer in every layer, with about `params` parameters. Raises UserError for an unknown family."""
    from nas.count import match_parameters

    heads, size = whole("d_model", plain["d_model"]) // whole("head_dim", plain["head_dim"]), plain["head_dim"]
    designs: dict[str, MixerOptions] = {
        "attention": Attention(num_heads=heads, head_dim=size),
        "gated_linear_attention": GatedLinearAttention(num_heads=heads, head_dim=size),
        "mamba2": Mamba2(num_heads=2 * heads, head_dim=size, state_dim=size),
        "mamba1": Mamba1(num_heads=2 * heads, head_dim=size),
        "gated_deltanet": GatedDeltaNet(num_heads=heads, head_dim=size),
    }
    if family not in designs:
        raise UserError(f"families has {family!r}. {did_you_mean(family, designs)}")
    block = Block(mixer=designs[family], ffn=Glu(d_ff=2 * plain["d_model"]))
    architecture = Architecture(
        name=family,
        d_model=plain["d_model"],
        vocab_size=task.vocab_size,
        blocks=(block,) * whole("num_layers", plain["num_layers"]),
    )
    return match_parameters(architecture, whole("params", plain["params"]))


def tuned(architecture: Architecture, task: Task, recipe: Recipe, rates: list[float], seeds: range) -> dict[str, Any]:
    """The best rate and every score, one run at a time; prints a line for each."""
    from nas.compile import compile_architecture
    from nas.training import NonFiniteLoss, evaluate, fit

    metric = DECIDES[task.name]
    scores: dict[float, list[float]] = {rate: [] for rate in rates}
    for rate in rates:
        for seed in seeds:
            model = compile_architecture(architecture, seed=seed)
            try:
                fit(model, task, recipe, seed=seed, learning_rates={architecture.name: rate})
                score = evaluate(model, task, recipe)[metric].value
            except NonFiniteLoss:
                score = float("inf")
            scores[rate].append(score)
            print(f"{task.name:8} {architecture.name:24} rate {rate:<8g} seed {seed}  {metric} {score:.4f}", flush=True)
    means = {rate: statistics.fmean(values) for rate, values in scores.items()}
    best = min(rates, key=lambda rate: means[rate])
    return {
        "rate": best,
        "metric": metric,
        "spread": statistics.stdev(scores[best]) if len(seeds) > 1 else None,
        "n": len(seeds),
        "scores": {f"{rate:g}": [round(value, 4) for value in values] for rate, values in scores.items()},
    }


def provenance(task: Task, recipe: Recipe) -> dict[str, Any]:
    """What the scores were measured with."""
    import torch

    from nas.training.fit import accelerator_name

    gpu = accelerator_name("auto") == "gpu"
    return {
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "task": task.describe(),
        "tokens": recipe.tokens,
        "batch_size": recipe.batch_size,
    }


def proxy_size(plain: Mapping[str, Any]) -> str:
    """The size of the designs that were trained."""
    return f"{plain['num_layers']} layers of width {plain['d_model']}, {plain['params']} parameters"


def write_row(path: Path, task: str, family: str, row: dict[str, Any], measured_with: dict[str, Any]) -> None:
    """Put one row into the table and leave the others."""
    table = json.loads(path.read_text()) if path.exists() else {"tasks": {}}
    table["tasks"].setdefault(task, {})[family] = {**row, "measured_with": measured_with}
    path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, "tune_lr")
