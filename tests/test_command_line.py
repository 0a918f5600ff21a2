"""A user's mistakes: one sentence on standard error, a non-zero exit, no traceback, and at once."""

import os
import subprocess
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import torch
import yaml

from scripts import command_line
from scripts.command_line import (
    UserError,
    composing,
    names_group,
    speaking_to_users,
    torch_has_cuda,
    with_default_budget,
    with_overrides,
    write_config,
)
from scripts.settings import SearchSettings
from tests.warm_process import run_script

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, script: str = "search.py", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_script(script, *arguments, cwd=cwd or ROOT)


def run_anew(*arguments: str, script: str = "search.py", cwd: Path) -> subprocess.CompletedProcess[str]:
    """From nothing, as a shell does, imports and all, which stand in the errors, a line each."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def mistake(*arguments: str, cwd: Path, script: str = "search.py") -> str:
    """The one sentence that a mistake is answered with."""
    done = run(*arguments, cwd=cwd, script=script)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("search_space=hybird", "There is no search space 'hybird'. Did you mean 'hybrid'?"),
        ("seach_space=hybrid", "no field or group 'seach_space' (seach_space=hybrid). Did you mean 'search_space'?"),
        ("search_space.num_layer=3", "search_space has no field 'num_layer' (search_space.num_layer=3). Did you mean"),
        ("search_space.mixers=[atention]", "does not know 'atention'. Did you mean 'attention'?"),
        ("search_space.d_model=100", "d_model must be a multiple of head_dim"),
        ("search_space.num_layers=0", "num_layers must be at least 1, but got 0."),
        ("search_space.num_layers=-2", "num_layers must be at least 1, but got -2."),
        ("search_space.num_layers=four", "num_layers must be a whole number"),
        ("budget.trials=ten", "budget.trials must be a whole number of at least 1, but got 'ten'."),
        ("budget.trials=0", "budget.trials must be a whole number of at least 1, but got 0."),
        ("+budget.trial=3", "budget has no field 'trial'. Did you mean 'trials'?"),
        ("sampler=tpee", "There is no sampler 'tpee'. Did you mean 'tpe'?"),
        ("optimize=[text_los]", "There is no objective 'text_los'. Did you mean 'text_loss'?"),
        ("require.recal=0.9", "require has no field 'recal' (require.recal=0.9). Did you mean 'recall'?"),
        ("limits.parameters=many", "limits.parameters must be a number above zero"),
        (
            "limits.parameters=1e6",
            "limits.parameters=1,000,000 can never be met, because every design is deployed with",
        ),
        ("+require.parameters=27000000", "require.parameters=27,000,000 can never be met"),
        ("measure.context=-1", "measure.context must be a whole number of at least 1, but got -1."),
        ("references=[nope]", "There is no design and no file 'nope'."),
        ("study=../elsewhere", "study must be a name of letters, digits, dots and dashes, but got '../elsewhere'."),
        ("~tracker", "tracker is needed, but it was taken away"),
        ("tracker=null", "must name one of its files, such as tracker=none"),
        ("sampler.name=[tpe]", "There is no sampler ['tpe']. Did you mean 'tpe'?"),
        ("sampler.name=tpa", "There is no sampler 'tpa'. Did you mean 'tpe'?"),
        ("+budget.train.text.betas=0.9", "betas must be two numbers"),
        ("budget.train.text=5", "budget.train.text"),
        ("priors.mixers={nosuch: 0.2}", "priors.mixers weighs 'nosuch', which this search space does not offer."),
        ("priors.nosuch={attention: 0.2}", "priors has no field 'nosuch'"),
        ("limits={", "must be field=value or group=choice"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_writes_nothing(tmp_path, argument, sentence):
    folder = tmp_path / "here"
    folder.mkdir()
    assert sentence in mistake(argument, cwd=folder)
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["task=text", "task.datset=x"], "task has no field 'datset' (task.datset=x). Did you mean 'dataset'?"),
        (["task.datset=x", "task=text"], "task has no field 'datset' (task.datset=x). Did you mean 'dataset'?"),
        (["task=text", "task.dataset=x", "budget.trails=3"], "budget has no field 'trails' (budget.trails=3)."),
        (["task=text", "task.runs.text.dataset=x"], "task has no field 'runs' (task.runs.text.dataset=x)."),
        (["seed=1", "+task.runs.text.dataset=x"], "The argument '+task.runs.text.dataset=x' cannot be used: Could not"),
        (["seed=1", "~task.foo"], "task has no field 'foo' (~task.foo). Valid: runs."),
        (["budget=cpu", "+budget=smoke"], "The argument '+budget=smoke' cannot be used: budget appears more than once"),
        (["seed=1,2"], "The argument 'seed=1,2' cannot be used: Ambiguous value"),
        (["measure.context=${nope}"], "Interpolation key 'nope' not found"),
        (["task=text", "task=null"], "must name one of its files"),
    ],
)
def test_the_argument_that_is_wrong_is_blamed_with_the_names_of_the_chosen_group(arguments, sentence):
    with pytest.raises(UserError) as error, composing(arguments):
        SearchSettings.from_overrides(arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [["limits.parameters=27200000"], ["limits.parameters=1e6", "measure.parameters=null", "measure.width=2"]],
)
def test_a_limit_on_parameters_that_some_design_may_meet_is_taken(arguments):
    (limit,) = SearchSettings.from_overrides(arguments).limits
    assert limit.name == "parameters"


def test_a_group_is_named_by_its_choice_and_by_its_fields_alone():
    for override in ("task=text", "task.dataset=x", "+task.dataset=x", "~task.dataset", "task@other=text"):
        assert names_group("task", ["seed=1", override])
    assert not names_group("task", ["tasks=1", "budget.task=2", "--cfg", "job"])


@pytest.mark.parametrize(
    ("version", "arguments", "budget"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", [], ["budget=gpu_1h"]),
        ("cuda = '12.8'\n", ["seed=1"], ["budget=gpu_1h"]),
        ("cuda: Optional[str] = '13.0'\n", ["device=cpu"], []),
        ("cuda: Optional[str] = '13.0'\n", ["budget=smoke"], []),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", [], []),
    ],
)
def test_a_gpu_changes_the_budget_only_where_the_run_will_use_it(tmp_path, monkeypatch, version, arguments, budget):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "version.py").write_text(version)
    spec = spec_from_file_location("torch", tmp_path / "__init__.py")
    monkeypatch.setattr(command_line, "find_spec", lambda name: spec)
    monkeypatch.setattr(command_line, "NVIDIA_DEVICE", tmp_path / "version.py")
    assert with_default_budget(["search.py", *arguments]) == ["search.py", *budget, *arguments]
    monkeypatch.setattr(command_line, "NVIDIA_DEVICE", tmp_path / "none")
    assert with_default_budget(["search.py", *arguments]) == ["search.py", *arguments]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["x=1"]),
        (["seed=1", "~tracker"], ["x=1", "seed=1", "~tracker"]),
        (["seed=1", "--cfg", "job"], ["x=1", "seed=1", "--cfg", "job"]),
        (["--cfg", "job", "seed=1"], ["--cfg", "job", "x=1", "seed=1"]),
        (["--cfg", "job"], ["--cfg", "job", "x=1"]),
    ],
)
def test_overrides_join_those_that_are_there(before, after):
    assert with_overrides(["search.py", *before], ["x=1"]) == ["search.py", *after]


@pytest.mark.parametrize("arguments", [["--cfg", "job", "seed=7"], ["seed=7", "--cfg", "job"]])
def test_the_composed_configuration_is_printed_wherever_the_switch_stands(tmp_path, arguments):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["seed"] == 7
    assert list(tmp_path.iterdir()) == []


def test_the_build_of_torch_is_found_without_importing_it():
    assert torch_has_cuda() == (torch.version.cuda is not None)


def test_control_c_says_what_holds_for_the_command(capsys):
    with pytest.raises(SystemExit) as leaving, speaking_to_users(interrupted="Nothing was written."):
        raise KeyboardInterrupt
    assert leaving.value.code == 130
    assert capsys.readouterr().err == "Interrupted. Nothing was written.\n"


def test_a_written_configuration_reads_as_what_it_was_and_replaces_the_last(tmp_path):
    for config in ({"seed": 0}, {"seed": 1, "task": {"name": "text", "config": None}, "references": ["a", "b"]}):
        write_config(tmp_path, config)
        assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    assert "folder must be writable" in mistake("outputs=file", cwd=tmp_path)
    training = mistake("architecture=all-attention", "output=file", cwd=tmp_path, script="scripts/train.py")
    assert "The output folder must be writable, but file is not" in training


def test_a_mistake_in_a_benchmarks_override_is_one_sentence(tmp_path):
    sentence = mistake("budget=cpuu", cwd=tmp_path, script="scripts/benchmark_default.py")
    assert (
        sentence
        == "error: There is no budget 'cpuu'. Did you mean 'cpu'? Valid: cpu, gpu_1h, gpu_night, oracle, smoke."
    )


def test_overrides_may_stand_before_and_after_the_options(tmp_path):
    arguments = ("budget=smoke", "--samples", "0", "budget.trials=0")
    sentence = mistake(*arguments, cwd=tmp_path, script="scripts/show_space.py")
    assert sentence == "error: budget.trials must be a whole number of at least 1, but got 0."


def test_an_objective_that_no_task_scores_is_one_sentence(tmp_path):
    assert "text_loss is not scored by this run's tasks (recall give" in mistake("task=recall", cwd=tmp_path)


def test_a_missing_data_set_is_one_sentence(tmp_path):
    sentence = mistake("task.runs.text.dataset=/nowhere/at/all", "tracker=none", cwd=tmp_path)
    assert "/nowhere/at/all" in sentence


def test_an_edited_architecture_file_is_one_sentence(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "d_model: 64\nvocab_size: 256\nblocks:\n- mixer: {kind: attention, num_heads: 0}\n"
    )
    sentence = mistake("architecture=a.yaml", cwd=tmp_path, script="scripts/train.py")
    assert "a.yaml: blocks[0].mixer: num_heads must be at least 1, but got 0." in sentence


def test_a_malicious_architecture_file_executes_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert "not a readable architecture file" in mistake("architecture=a.yaml", cwd=tmp_path, script="scripts/train.py")
    assert not (tmp_path / "made").exists()


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The packages that a process of `run_anew` imported."""
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


SLOW_TO_IMPORT = {"torch", "triton", "lightning", "optuna", "transformers", "wandb", "matplotlib"}


@pytest.mark.parametrize("script", ["search.py", "scripts/train.py"])
def test_help_explains_the_groups_and_comes_at_once(tmp_path, script):
    done = run_anew("--help", cwd=tmp_path, script=script)
    assert "hydra" in imported(done) and not SLOW_TO_IMPORT & imported(done)
    assert done.returncode == 0
    (tasks,) = [line for line in done.stdout.splitlines() if line.startswith("task: ")]
    assert set(tasks.removeprefix("task: ").split(", ")) == {path.stem for path in (ROOT / "conf/task").glob("*.yaml")}
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_answered_at_once(tmp_path):
    done = run_anew("search_space=hybird", cwd=tmp_path)
    assert "hydra" in imported(done) and not SLOW_TO_IMPORT & imported(done)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said[0].startswith("error: There is no search space 'hybird'. Did you mean 'hybrid'?")


def test_help_names_every_group(tmp_path):
    text = run("--help", cwd=tmp_path).stdout
    for group in (
        "search_space",
        "task",
        "objectives",
        "sampler",
        "priors",
        "fidelity",
        "budget",
        "measure",
        "tracker",
    ):
        assert f"\n  {group} " in text
