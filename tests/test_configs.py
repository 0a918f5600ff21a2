"""Every file in conf/ composes, and every composed command is accepted by what reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from nas.architecture import read_architecture
from nas.objectives import ObjectiveError
from nas.tasks import TASKS, make_tasks
from nas.training import learning_rates
from scripts.command_line import UserError
from scripts.settings import SearchSettings, plain_config, recipe_for
from scripts.train import training_from
from scripts.tune_lr import DECIDES, pure_design
from search_spaces import SPACES

CONF = Path(__file__).resolve().parents[1] / "conf"
MAD = ("in_context_recall", "fuzzy_recall", "noisy_recall", "selective_copying", "compression", "memorisation")
GROUPS = ("search_space", "task", "objectives", "sampler", "budget", "measure", "tracker")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def settings(*overrides: str) -> SearchSettings:
    return SearchSettings.from_overrides(overrides)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda value: str(value))
def test_every_choice_of_every_group_is_a_search(group, choice):
    overrides = [f"{group}={choice}"]
    if group == "task" and choice != "text_recall":
        overrides.append("optimize=[decode_latency_ms,sequence_bytes]")
    built = settings(*overrides)
    assert built.trials >= 1


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("budget", sorted(path.stem for path in (CONF / "budget").glob("*.yaml")))
def test_every_space_goes_with_every_budget(space, budget):
    built = settings(f"search_space={space}", f"budget={budget}")
    assert built.study == f"{space}-{budget}"


def plain(config_name: str, *overrides: str) -> dict[str, Any]:
    """A command's configuration as it reads it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain_config(compose(config_name, overrides=list(overrides)))


def test_every_command_has_a_test_here():
    assert {path.stem for path in CONF.glob("*.yaml")} == {"config", "train", "tune_lr"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_trained_alone(task, tmp_path):
    composed = plain("train", f"task={task}", "architecture=all-attention", f"output={tmp_path}")
    job = training_from(composed, [f"task={task}"])
    assert job.task.name == task
    assert job.recipe.tokens > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", [*TASKS, "text_recall", "mad"])
def test_rates_are_tuned_for_every_task_family_and_recipe(task):
    composed = plain("tune_lr", f"task={task}")
    tasks = make_tasks(composed["task"])
    for name in tasks:
        assert recipe_for(name, composed["budget"]["train"]).tokens * composed["share"].get(name, 1.0) > 0
        assert name in DECIDES
    for family in composed["families"]:
        design = pure_design(family, next(iter(tasks.values())), composed)
        assert {block.mixer.family for block in design.blocks} == {family}


def test_the_default_search_shows_all_five_reference_designs():
    built = settings()
    names = [name for name, _ in built.space.references(built.designs)]
    assert names == [design.name for design in built.designs]
    assert len(names) == 5


@pytest.mark.parametrize("path", sorted((CONF / "designs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_design_is_an_architecture_of_its_file_name(path):
    assert read_architecture(path).name == path.stem


def test_every_task_has_a_file():
    assert set(TASKS) <= {path.stem for path in (CONF / "task").glob("*.yaml")}


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"text", "recall", "mixed"}))
def test_a_capability_task_runs_beside_the_default_and_may_be_a_bar(name):
    built = settings(f"+task@task.runs.{name}={name}", f"limits.{name}_bits=2", f"require.{name}=0.9")
    assert list(built.tasks) == ["text", "recall", name]
    assert {requirement.name for requirement in built.requirements} == {"recall", name}
    assert built.recipes[name].tokens > 0 and learning_rates(name)


@pytest.mark.parametrize("budget", ["gpu_1h", "gpu_night"])
def test_gpu_budgets_take_the_published_sizes_of_mad(budget):
    published = {name: task().describe() for name, task in TASKS.items() if name in MAD}
    built = settings("task=mad", f"budget={budget}", "optimize=[parameters]")
    assert {name: task.describe() for name, task in built.tasks.items()} == published
    assert {task.score_sequences for task in built.tasks.values()} == {1280}  # type: ignore[attr-defined]


def test_a_score_that_carries_no_signal_at_a_budget_is_named_where_it_is_used():
    silent = "budget.no_signal=[recall,recall_bits]"
    assert settings(silent).no_signal == ("recall",)  # required by default
    assert settings(silent, "require.recall=null").no_signal == ()
    assert settings(silent, "limits.recall_bits=2", "require.recall=null").no_signal == ("recall_bits",)
    with pytest.raises(UserError, match=r"budget\.no_signal names scores of tasks, but parameters is counted"):
        settings("budget.no_signal=[parameters]")
    with pytest.raises(ObjectiveError, match=r"There is no objective 'recal'. Did you mean 'recall'"):
        settings("budget.no_signal=[recal]")


def test_every_space_has_a_file_and_every_file_a_space():
    assert {path.stem for path in (CONF / "search_space").glob("*.yaml")} == set(SPACES)


def test_a_space_with_a_causal_loss_is_the_one_that_was_stored_before_there_was_another():
    stored = json.loads((CONF.parent / "docs/benchmarks/oracle.json").read_text())["provenance"]["settings"]
    space, denoising = (settings("search_space=oracle", *more) for more in ([], ["search_space.loss=masked_diffusion"]))
    assert space.definition["search_space"] == stored["search_space"]
    assert denoising.definition["search_space"] == {**stored["search_space"], "loss": "masked_diffusion"}


def test_a_field_can_be_overridden_by_a_scalar_or_a_list():
    built = settings("search_space.num_layers=12", "search_space.mixers=[attention,mamba2]")
    assert built.space.num_layers == (12,)
    assert set(built.space.mixers) == {"attention", "mamba2"}  # type: ignore[attr-defined]
