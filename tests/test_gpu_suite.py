"""The GPU suite: stages that stop in time, go on, and leave few files; its checks of kernels, on the interpreter."""

import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kernels import ahead_of_time
from scripts import check_kernels, gpu_suite
from scripts.gpu_suite import Stage
from scripts.kernel_lab.problem_lists import FUNCTIONS, launch_problems, tiny_problems
from tests.patience import PATIENCE, wait_until

TESTS = Path(__file__).resolve().parent
PASSES = "print('fine')"
FAILS = "import sys; print('a kernel is wrong'); sys.exit(1)"
AT_WORK = """
import os, pathlib, signal, sys, time
def work():
    pathlib.Path(sys.argv[1] + ".new").write_text(str(os.getpid()))
    pathlib.Path(sys.argv[1] + ".new").rename(sys.argv[1])
    time.sleep(3600)
"""
SLOW = f"""{AT_WORK}
try:
    work()
except KeyboardInterrupt:
    pathlib.Path(sys.argv[2]).write_text('what there was')
    sys.exit(130)
"""
DEAF = f"""{AT_WORK}
signal.signal(signal.SIGINT, signal.SIG_IGN)
work()
"""


def stage(name, code, *arguments, packages=()):
    return Stage(name, (sys.executable, "-c", code, *map(str, arguments)), f"{name}.log", packages)


def results(out):
    return {one["stage"]: one for one in json.loads((out / "results.json").read_text())["stages"]}


def test_without_a_gpu_the_plan_is_shown_and_a_run_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_suite.main(["--dry-run"]) == 0
    shown = capsys.readouterr().out
    for name in ("compile", "tests", "tune-attention", "bench-selective_scan", "table", "measurement", "search-real"):
        assert name in shown
    assert "needs hydra" in shown
    assert gpu_suite.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_takes_stages_and_groups_and_names_what_there_is(capsys):
    assert gpu_suite.main(["--dry-run", "--only", "compile,bench"]) == 0
    shown = capsys.readouterr().out
    assert "bench-attention" in shown
    assert "tune" not in shown
    assert gpu_suite.main(["--dry-run", "--only", "benhc"]) == 2
    assert (
        "use compile, tests, pytest-contract, pytest-kernels, pytest-measure, tune-attention" in capsys.readouterr().err
    )


def test_every_function_is_benchmarked_and_every_command_exists(tmp_path):
    assert set(gpu_suite.FUNCTIONS) == set(FUNCTIONS)
    assert set(gpu_suite.FAMILIES) == set(ahead_of_time.OPS)
    for one in gpu_suite.stages(tmp_path, 90, "a GPU"):
        assert one.command[1] == "-m" or (gpu_suite.ROOT / one.command[1]).exists(), one.command


def test_stages_of_many_trainings_or_timings_stop_by_themselves_before_the_limit(tmp_path):
    limits = {}
    for one in gpu_suite.stages(tmp_path, 90, "a GPU"):
        for option in ("--limit", "--seconds"):
            if option in one.command:
                limits[one.name] = float(one.command[one.command.index(option) + 1])
    assert {"tune-attention", "bench-attention", "table", "measurement", "default"} <= set(limits)
    assert all(0 < limit < gpu_suite.LIMIT_SECONDS for limit in limits.values())


def test_kernels_are_compiled_on_every_core(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_suite.os, "cpu_count", lambda: 16)
    compiled = next(one for one in gpu_suite.stages(tmp_path, 90, "a GPU") if one.name == "compile")
    assert compiled.command[-4:] == ("--arch", "90", "--jobs", "16")


def test_a_run_says_what_passed_failed_and_was_skipped_and_goes_on(tmp_path, capsys):
    work, out = tmp_path / "work", tmp_path / "out"
    stages = [stage("a", PASSES), stage("b", FAILS), stage("c", PASSES, packages=("no_such_package",))]
    assert gpu_suite.run_all(stages, work, out, "a GPU", again=False) == 1
    found = results(out)
    assert {name: one["result"] for name, one in found.items()} == {"a": "passed", "b": "failed", "c": "skipped"}
    assert found["b"]["reason"] == "exit code 1: a kernel is wrong"
    assert found["c"]["reason"] == "not installed: no_such_package"
    assert "b                         failed" in (out / "summary.txt").read_text()

    stages[1] = stage("b", PASSES)
    capsys.readouterr()
    assert gpu_suite.run_all(stages, work, out, "a GPU", again=False) == 0
    assert "a: passed before" in capsys.readouterr().out
    assert results(out)["b"]["result"] == "passed"


def test_every_test_that_needs_a_gpu_is_in_a_stage():
    files = [path for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text() and path != Path(__file__)]
    assert {path.relative_to(TESTS).parts[0] for path in files} == set(gpu_suite.TEST_FOLDERS)


def test_tests_marked_gpu_run_with_compiled_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    marked = next(one for one in gpu_suite.stages(tmp_path, 90, "a GPU") if one.name == "pytest-kernels")
    assert marked.command[1:5] == ("-m", "pytest", "-m", "gpu")
    told = "import os; print(os.environ['TRITON_INTERPRET'])"
    assert gpu_suite.run_stage(stage("told", told), tmp_path).result == "passed"
    assert (tmp_path / "told.log").read_text() == "0\n"


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """The file in which a stage tells its number: its limit is over as soon as it has, however long that took."""
    told = tmp_path / "at work"

    class Process(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout == gpu_suite.LIMIT_SECONDS:
                wait_until(told.exists, "the stage is at work")
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait(timeout)

    monkeypatch.setattr(gpu_suite, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Process}))
    return told


def test_a_stage_at_its_limit_is_interrupted_and_leaves_what_it_has(tmp_path, monkeypatch, at_work):
    monkeypatch.setattr(gpu_suite, "GRACE_SECONDS", PATIENCE)
    work, out, left = tmp_path / "work", tmp_path / "out", tmp_path / "left"
    assert gpu_suite.run_all([stage("slow", SLOW, at_work, left)], work, out, "a GPU", again=False) == 1
    assert results(out)["slow"]["result"] == "unfinished"
    assert left.read_text() == "what there was"


def test_a_stage_that_ignores_the_interrupt_is_ended(tmp_path, monkeypatch, at_work):
    monkeypatch.setattr(gpu_suite, "GRACE_SECONDS", 0.2)
    outcome = gpu_suite.run_stage(stage("deaf", DEAF, at_work), tmp_path)
    assert outcome.result == "unfinished"
    with pytest.raises(ProcessLookupError):
        os.kill(int(at_work.read_text()), 0)


def test_the_archive_holds_what_is_small_and_another_machine_goes_on_from_it(tmp_path, monkeypatch):
    work, out, root = tmp_path / "work", tmp_path / "out", tmp_path / "root"
    monkeypatch.setattr(gpu_suite, "ROOT", root)
    table = root / "kernels" / "tuned" / "a-gpu.json"
    table.parent.mkdir(parents=True)
    table.write_text("{}")
    work.mkdir()
    (work / "rows.json").write_text("[]")
    (work / "model.safetensors").write_text("weights")
    (work / "huge.bin").write_bytes(bytes(gpu_suite.LARGEST_KEPT_BYTES + 1))
    assert gpu_suite.run_all([stage("a", PASSES)], work, out, "a GPU", again=False) == 0
    assert {path.name for path in out.iterdir()} == {"results.json", "summary.txt", "suite.tar.gz"}
    with tarfile.open(out / "suite.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"work/a.log", "work/rows.json", "work/outcomes.json"} <= names
    assert not {"work/model.safetensors", "work/huge.bin"} & names

    elsewhere = tmp_path / "elsewhere"
    table.unlink()
    gpu_suite.restore(out, elsewhere)
    assert (elsewhere / "rows.json").read_text() == "[]"
    assert gpu_suite.read_outcomes(elsewhere)[0].result == "passed"
    assert table.read_text() == "{}"


@pytest.mark.parametrize(
    "problem",
    [one for one in tiny_problems() if one.name in ("step", "window and log-sum-exp", "experts", "step of scan")],
    ids=lambda one: one.op,
)
def test_kernels_are_checked_against_the_definition(problem):
    found = check_kernels.check_problem(problem, torch.device("cpu"))
    assert found.passes, check_kernels.describe(found)
    assert found.error < found.limit


def test_a_wrong_kernel_and_one_that_raises_are_findings(monkeypatch):
    from kernels._attention import gpu

    problem = next(one for one in tiny_problems() if one.op == "attention_step")
    right = gpu.attention_step
    monkeypatch.setattr(gpu, "attention_step", lambda *given: (right(*given)[0] + 0.01, None))
    assert not check_kernels.check_problem(problem, torch.device("cpu")).passes

    def broken(*given):
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(gpu, "attention_step", broken)
    found = check_kernels.check_problem(problem, torch.device("cpu"))
    assert (found.passes, found.reason) == (False, "RuntimeError: illegal memory access")


def test_a_kernel_that_does_not_repeat_itself_is_a_finding(monkeypatch):
    from kernels._attention import gpu

    problem = next(one for one in tiny_problems() if one.op == "attention_step")
    right, factors = gpu.attention_step, itertools.cycle((1.0, 1.0 + 2**-22))
    monkeypatch.setattr(gpu, "attention_step", lambda *given: (right(*given)[0] * next(factors), None))
    found = check_kernels.check_problem(problem, torch.device("cpu"))
    assert (found.passes, found.reason) == (False, "two runs differ in output 0")
    assert found.error < found.limit


def test_a_process_that_dies_is_started_again_behind_the_problem_that_did_it(tmp_path, monkeypatch):
    program = tmp_path / "worker.py"
    program.write_text(
        "import sys, os\n"
        "from pathlib import Path\n"
        "from scripts import check_kernels\n"
        "log, problems = Path(sys.argv[4]), check_kernels.launch_problems()\n"
        "for number in map(int, sys.argv[2].split(',')):\n"
        "    if number == 1:\n"
        "        sys.exit('illegal address')\n"
        "    check_kernels.append(log, check_kernels.finding(problems[number], passes=True))\n"
    )
    monkeypatch.setattr(check_kernels, "__file__", str(program))
    monkeypatch.setenv("PYTHONPATH", str(gpu_suite.ROOT))
    check_kernels.check_slice([0, 1, 2], tmp_path / "findings-0.jsonl")
    problems, found = launch_problems(), check_kernels.read_findings(tmp_path)
    assert [(one.problem, one.passes) for one in found] == [
        (problems[0].name, True),
        (problems[1].name, False),
        (problems[2].name, True),
    ]
    assert found[1].reason == "the process ended with exit code 1: illegal address"
