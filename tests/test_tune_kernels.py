"""Tuning: what is refused, what is chosen, what is written, and that crashing launches harm nobody but themselves."""

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.tuned_table import Key, Refused, read_entries
from kernels.tuning import force_launches
from scripts import tune_kernels
from scripts.kernel_lab import tuning_bench
from scripts.kernel_lab.operations import GroupedMatmul, RecurrenceStep
from scripts.kernel_lab.problems import Problem
from scripts.kernel_lab.tuning_problems import small, tuning_problems
from scripts.kernel_lab.tuning_search import check_at_other_sizes, tune
from scripts.kernel_lab.worker_pool import CallFailed, WorkerPool
from scripts.tune_kernels import INTERPRETED, SmallBench, keys_of, tune_all
from tests.patience import PATIENCE

EXPERTS = Problem(name="experts", operation=GroupedMatmul(M=40, E=3, K=32, N=16), dtype="float32", exact=True)
STEP = RecurrenceStep(B=1, Hqk=1, Hv=2, K=16, V=16, gate="head", delta=True)
A, B = Key("op.a", 2, (("D", 64),)), Key("op.b", 2, (("D", 64),))
MULTIPROCESSORS = 132
CONFIGS = [{"BM": 1}, {"BM": 2}, {"BM": 3}]


class FakeBench:
    """Errors, times and complaints by key and block; a problem is as wrong as its worst launch."""

    def __init__(self, errors=None, times=None, complaints=None):
        self.wrong, self.times, self.unfit = errors or {}, times or {}, complaints or {}
        self.timed = []

    def candidates(self, key):
        return [dict(config) for config in CONFIGS]

    def source(self, key):
        return "source"

    def complaints(self, launches):
        return [self.unfit.get((key, config["BM"])) for key, config in launches]

    def errors(self, problem, overrides):
        return [self._error(dict(one)) for one in overrides]

    def _error(self, forced):
        blocks = {key: forced.get(key, CONFIGS[0])["BM"] for key in {A, B, *forced}}
        found = [self.wrong.get(launch, 0.5) for launch in blocks.items()]
        return next((one for one in found if isinstance(one, str)), None) or max(found)

    def milliseconds(self, problem, overrides, key, configs):
        self.timed += [(key, config["BM"]) for config in configs]
        return [self.times.get((key, config["BM"]), 1.0) for config in configs]


def tuned(bench):
    return {entry.key: entry for entry in tune(bench, EXPERTS, [A, B], "3.6.0")}


def test_the_fastest_of_the_right_ones_is_chosen_and_the_default_kept_for_comparison():
    entry = tuned(FakeBench(times={(A, 3): 0.5, (A, 2): 0.7}))[A]
    assert (entry.config, entry.milliseconds, entry.default_milliseconds) == ({"BM": 3}, 0.5, 1.0)
    assert (entry.error, entry.triton, entry.source, entry.problem) == (0.5, "3.6.0", "source", "experts")


def test_a_gain_within_the_noise_keeps_the_default():
    assert tuned(FakeBench(times={(A, 3): 0.995}))[A].config == {"BM": 1}


def test_a_wrong_candidate_is_never_timed_and_its_failure_is_listed():
    bench = FakeBench(errors={(A, 3): 7.0, (A, 2): "the process crashed (SIGABRT)"}, times={(A, 3): 0.1, (A, 2): 0.1})
    entry = tuned(bench)[A]
    assert entry.config == {"BM": 1}
    assert {(A, 2), (A, 3)}.isdisjoint(bench.timed)
    assert [one.config for one in entry.refused] == [{"BM": 2}, {"BM": 3}]
    assert entry.refused[0].reason == "the process crashed (SIGABRT)"
    assert "wrong: 7 times" in entry.refused[1].reason


def test_a_candidate_that_does_not_fit_is_neither_checked_nor_timed():
    bench = FakeBench(complaints={(A, 3): "spills"}, errors={(A, 3): "checked"}, times={(A, 3): 0.1})
    assert tuned(bench)[A].refused == (Refused({"BM": 3}, "spills"),)


def test_a_default_that_does_not_fit_is_compared_all_the_same():
    bench = FakeBench(complaints={(A, 1): "spills"})
    assert tuned(bench)[A].config == {"BM": 1}


def test_a_wrong_default_is_replaced_by_what_is_right():
    entries = tuned(FakeBench(errors={(A, 1): 9.0}))
    assert entries[A].config in ({"BM": 2}, {"BM": 3})
    assert entries[A].default_milliseconds is None and entries[A].refused[0].config == {"BM": 1}
    assert entries[B].config == {"BM": 1}, "other kernels are judged beside the launch that is right"


def test_where_nothing_is_right_the_entry_has_no_configuration():
    entries = tuned(FakeBench(errors={(A, 1): 9.0, (A, 2): 9.0, (A, 3): 9.0}))
    assert entries[A].config is None and entries[B].config is None
    assert "wrong with the defaults" in entries[A].refused[-1].reason


def test_launches_that_are_wrong_only_together_are_not_shipped():
    class Clashing(FakeBench):
        def _error(self, forced):
            return 9.0 if {key: config["BM"] for key, config in forced.items()} == {A: 2, B: 2} else 0.5

    entries = tuned(Clashing(times={(A, 2): 0.5, (B, 2): 0.5}))
    assert entries[A].config is None and "beside the others chosen" in entries[A].refused[-1].reason


def test_who_computes_is_decided_last_beside_the_launches_just_chosen():
    choice = Key("op.implementation", 2, (("D", 64),))

    class Choosing(FakeBench):
        def candidates(self, key):
            return [{"torch": 0}, {"torch": 1}] if key == choice else super().candidates(key)

        def errors(self, problem, overrides):
            return [0.5 for _ in overrides]

        def milliseconds(self, problem, overrides, key, configs):
            if key != choice:
                return super().milliseconds(problem, overrides, key, configs)
            self.beside = dict(overrides)
            return [1.0, self.times[choice]]

    for milliseconds, config in ((0.8, {"torch": 1}), (1.2, {"torch": 0})):
        bench = Choosing(times={(A, 3): 0.5, choice: milliseconds})
        entries = {entry.key: entry for entry in tune(bench, EXPERTS, [choice, A, B], "3.6.0")}
        assert entries[choice].config == config
        assert bench.beside == {A: {"BM": 3}, B: {"BM": 1}}


def test_a_key_that_cannot_be_timed_gets_no_entry():
    class Untimed(FakeBench):
        def milliseconds(self, problem, overrides, key, configs):
            return None if key == A else super().milliseconds(problem, overrides, key, configs)

    assert set(tuned(Untimed())) == {B}


def test_tuned_launches_serve_other_sizes_where_they_are_right():
    entries = tuned(FakeBench(times={(A, 2): 0.5}))
    near, wrong = replace(A, sizes=(("D", 128),)), replace(A, sizes=(("D", 32),))
    far, other = replace(A, sizes=(("D", 256),)), replace(A, sizes=(("D", 128),), flags=(("causal", 0),))
    bench = FakeBench(errors={(wrong, 2): 3.0})
    for _ in range(2):
        check_at_other_sizes(bench, EXPERTS, [near, wrong, far, other], entries)
    assert entries[A].checked_sizes == ((("D", 128),),)


@pytest.fixture(scope="module")
def pool():
    with pytest.MonkeyPatch.context() as patch, WorkerPool(1, INTERPRETED) as workers:
        patch.setattr(tune_kernels, "SECONDS_PER_CALL", PATIENCE)  # a busy machine takes its time over imports
        yield workers


class InterpretedBench(SmallBench):
    """On the CPU, where nothing can be compiled."""

    def complaints(self, launches):
        return [None for _ in launches]


def test_a_real_problem_is_checked_timed_and_written(pool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tune_kernels, "small", lambda problem: problem)
    monkeypatch.setattr(tune_kernels, "launch_problems", lambda: [])
    bench = InterpretedBench(pool, "cpu", 90)
    path = tmp_path / "gpu.json"
    table, _ = tune_all([EXPERTS], bench, path, "GPU", again=False, seconds=math.inf)
    assert {key.kernel for key in table} == {"grouped_matmul.rows", "grouped_matmul.matrices"}
    for entry in read_entries(path):
        assert entry == table[entry.key]
        assert entry.config is not None and entry.milliseconds is not None and 0 < (entry.error or 0) <= 1
    capsys.readouterr()
    tune_all([EXPERTS], bench, path, "GPU", again=False, seconds=math.inf)
    assert capsys.readouterr().out == "", "what the table has is not tuned again"


def test_out_of_time_leaves_the_rest_for_the_next_run(pool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tune_kernels, "small", lambda problem: problem)
    bench = InterpretedBench(pool, "cpu", 90)
    assert tune_all([EXPERTS], bench, tmp_path / "gpu.json", "GPU", again=False, seconds=-1) == ({}, False)
    assert "Out of time before experts: run again" in capsys.readouterr().out


def test_a_launch_that_is_truly_wrong_is_found_out(pool):
    problem = Problem(name="step", operation=replace(STEP, K=32), dtype="float32", exact=True)
    [keys] = keys_of([problem], MULTIPROCESSORS)
    step = next(key for key in keys if key.kernel == "matrix_recurrence.step")
    half = tuning_bench.launch_candidates(step)[0] | {"BK": 16}  # half of the keys are never read
    right, wrong = SmallBench(pool, "cpu", 90).errors(problem, [(), ((step, half),)])
    assert isinstance(right, float) and right <= 1
    assert isinstance(wrong, float) and wrong > 100


def test_a_call_that_crashes_hangs_or_raises_is_one_failed_call(pool):
    assert pool.map(divmod, [(7, 2), (1, 0)], seconds=PATIENCE)[0] == (3, 1)
    with pytest.raises(CallFailed, match="ZeroDivisionError"):
        pool.call(divmod, (1, 0), seconds=PATIENCE)
    with pytest.raises(CallFailed, match=r"crashed \(exit code 3\)"):
        pool.call(os._exit, (3,), seconds=PATIENCE)
    with pytest.raises(CallFailed, match=r"crashed \(SIGABRT\)"):
        pool.call(os.abort, (), seconds=PATIENCE)
    with pytest.raises(CallFailed, match=r"not done after 0\.2 seconds"):
        pool.call(time.sleep, (3600,), seconds=0.2)
    assert pool.call(divmod, (7, 2), seconds=PATIENCE) == (3, 1)


def test_small_problems_launch_what_large_ones_do_with_at_most_six_candidates_a_key():
    families = ("matrix_recurrence", "selective_scan")
    chosen = [next(one for one in tuning_problems(op) if "step" in one.name) for op in families]
    chosen += tuning_problems("grouped_matmul")[-1:]
    whole_keys = keys_of(chosen, MULTIPROCESSORS)
    small_keys = keys_of([small(one) for one in chosen], MULTIPROCESSORS)
    for whole, reduced in zip(whole_keys, small_keys, strict=True):
        assert whole == reduced
        for key in whole:
            assert 1 <= len(tuning_bench.launch_candidates(key)) <= 6


def test_what_is_tuned_is_what_runs_in_bfloat16_whatever_the_candidate_and_the_large_gpu():
    chosen = [one for one in tuning_problems("matrix_recurrence") if one.name in ("gla D128", "gla D128 of 64 heads")]
    for problem in chosen:
        listed = [tuning_bench.launched_keys(small(problem), count) for count in (108, 132, 160)]
        assert listed[0] == listed[1] == listed[2]
        keys = {key.kernel.removeprefix("matrix_recurrence."): key for key in listed[0]}
        assert dict(keys["state"].flags)["state_bytes"] == 2, "states of bfloat16 are bfloat16"
        assert ("fused" in keys) == ("64 heads" in problem.name) == ("output" not in keys)
        for key in (keys[name] for name in ("fused", "output", "state") if name in keys):
            for config in tuning_bench.launch_candidates(key):
                with force_launches({key: config}):
                    assert tuning_bench.launched_keys(small(problem), MULTIPROCESSORS) == listed[1]


def test_every_family_is_on_the_list():
    assert len(tuning_problems()) == sum(len(tuning_problems(op)) for op in tune_kernels.OPS)


def test_without_a_gpu_it_says_what_to_do():
    finished = run_script()
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1 and "--dry-run" in finished.stderr


@pytest.mark.slow
def test_a_dry_run_prints_what_fits():
    finished = run_script("--dry-run", "--op", "linear_cross_entropy", "--workers", "2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "linear_cross_entropy.rows" in finished.stdout and "spills" in finished.stdout
    assert "fit sm_90." in finished.stdout.splitlines()[-1]


def run_script(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    script = Path(tune_kernels.__file__)
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=environment)
