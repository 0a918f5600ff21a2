import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from nas.study import front_files
from nas.study.candidate import CannotGoOn, Rejected
from nas.study.crew import Crew
from nas.study.front_files import FrontFiles
from nas.study.loop import Loop
from nas.study.storage.studies import StudyError
from tests.study.toys import ALL_ATTENTION, FreeEvaluator, Silent, run_toy

ROOT = Path(__file__).resolve().parents[2]


def test_the_budget_is_a_total_of_trained_architectures_over_all_runs(tmp_path):
    assert run_toy(tmp_path, trials=3).done == 3
    second = run_toy(tmp_path, trials=5)
    assert second.done == 5
    assert len(second.evaluator.trained) == 2
    assert run_toy(tmp_path, trials=5).evaluator.trained == []


def test_no_architecture_is_trained_twice(tmp_path):
    evaluator = FreeEvaluator()
    loop = run_toy(tmp_path, trials=16, evaluator=evaluator, patience=1000)
    names = [name for name, _ in evaluator.trained]
    assert len(names) == len(set(names)) == 16
    assert len(loop.rows) == 16, "what is known is proposed otherwise before a trial takes it"


def test_a_trial_of_a_known_architecture_ends_before_its_training(tmp_path):
    first = run_toy(tmp_path, trials=2)
    first.study.enqueue_trial(ALL_ATTENTION)
    loop = run_toy(tmp_path, trials=3)
    (duplicate,) = (row for row in loop.rows if row.state == "duplicate")
    assert duplicate.reason == "same architecture as trial 0"
    assert len(loop.evaluator.trained) == 1


def test_states_of_the_journal_are_complete_pruned_and_fail(tmp_path):
    loop = run_toy(tmp_path, trials=8, evaluator=FreeEvaluator(fails=frozenset({"mmmm"})), sampler="brute_force")
    states = {row.number: row.state for row in loop.rows}
    expected = {"complete": "COMPLETE", "duplicate": "PRUNED", "rejected": "PRUNED", "failed": "FAIL"}
    for trial in loop.study.trials:
        assert trial.state.name == expected[states[trial.number]]


def test_a_failing_trial_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path):
    loop = run_toy(tmp_path, trials=15, evaluator=FreeEvaluator(fails=frozenset({"mmmm"})), sampler="brute_force")
    failed = [row for row in loop.rows if row.state == "failed"]
    assert [row.reason for row in failed] == ["FloatingPointError: the loss of mmmm is not finite"]
    assert loop.done == 15


def test_a_training_that_runs_out_of_memory_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path):
    def on_train(name):
        if name == "mmmm":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nOf the allocated memory ...")

    loop = run_toy(tmp_path, trials=15, evaluator=FreeEvaluator(on_train=on_train), sampler="brute_force")
    (failed,) = [row for row in loop.rows if row.state == "failed"]
    assert failed.reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB."
    assert failed.architecture.name == "mmmm"
    assert loop.done == 15 and {row.state for row in loop.rows if row is not failed} == {"complete"}


def test_five_failures_at_the_start_stop_the_search_with_the_reason(tmp_path):
    everything = frozenset(f"{a}{b}{c}{d}" for a in "am" for b in "am" for c in "am" for d in "am")
    with pytest.raises(StudyError, match=r"first 5 trials all failed.*is not finite"):
        run_toy(tmp_path, trials=8, evaluator=FreeEvaluator(fails=everything))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "random", "qmc", "brute_force"])
def test_every_sampler_reaches_the_budget_with_pruned_and_constrained_trials(tmp_path, sampler):
    loop = run_toy(
        tmp_path,
        trials=9,
        sampler=sampler,
        require={"recall": 0.6, "decode_latency_ms": 4.5},
        limits={"sequence_bytes": 450},
        evaluator=FreeEvaluator(fails=frozenset({"mama"})),
        patience=1000,
    )
    assert loop.done == 9


def test_brute_force_ends_when_the_space_is_exhausted(tmp_path):
    loop = run_toy(tmp_path, trials=40, sampler="brute_force", patience=1000)
    assert loop.done == 16


def test_an_exhausted_space_ends_the_search_with_a_message(tmp_path):
    loop = run_toy(tmp_path, trials=40, sampler="random", patience=60)
    assert loop.done <= 16
    assert "brought nothing new to train (60 by duplicate)" in loop.observer.messages[-1]


def test_a_limit_that_no_sample_meets_is_named_with_its_count(tmp_path):
    with pytest.raises(StudyError, match=r"20 samples in a row brought nothing new to train \(.*by sequence_bytes"):
        run_toy(tmp_path, trials=4, limits={"sequence_bytes": 0.5}, patience=20)


def test_rejected_samples_keep_the_numbers_they_reached(tmp_path):
    loop = run_toy(tmp_path, trials=5, limits={"decode_latency_ms": 3.5})
    rejected = [row for row in loop.rows if row.state == "rejected"]
    assert rejected[0].reason == "decode_latency_ms 5 ms is over the limit of 3.5 ms"
    assert "decode_latency_ms" in rejected[0].values
    assert "text_loss" not in rejected[0].values


def test_the_front_is_shown_with_and_without_the_requirement(tmp_path):
    loop = run_toy(tmp_path, trials=16, sampler="brute_force", require={"recall": 0.75})
    front, required = loop.bars.fronts(loop.rows)
    rows = {row.number: row for row in loop.rows}
    assert {rows[n].values["recall"].value for n in front} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {rows[n].values["recall"].value for n in required} == {0.75, 1.0}


def test_only_members_of_a_front_keep_their_files(tmp_path):
    loop = run_toy(tmp_path, trials=16, sampler="brute_force")
    front, required = loop.bars.fronts(loop.rows)
    ids = {row.id for row in loop.rows if row.number in {*front, *required}}
    assert {p.stem for p in (tmp_path / "architectures").glob("*.yaml")} == ids
    assert {p.stem for p in (tmp_path / "architectures").glob("*.safetensors")} == ids


def test_control_c_leaves_the_trial_as_fail_and_the_next_run_takes_it_up_once(tmp_path):
    def interrupt(name):
        if len(evaluator.trained) == 3:
            raise KeyboardInterrupt

    evaluator = FreeEvaluator(on_train=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, trials=6, evaluator=evaluator)
    interrupted = evaluator.trained[-1][0]
    second = run_toy(tmp_path, trials=6)
    assert second.evaluator.trained[0][0] == interrupted
    assert second.done == 6
    reasons = [row.reason for row in second.rows if row.state == "failed"]
    assert reasons == ["interrupted"]
    third = run_toy(tmp_path, trials=7)
    assert len(third.evaluator.trained) == 1


def test_a_resumed_run_does_not_repeat_the_points_of_the_first(tmp_path):
    whole = run_toy(tmp_path / "whole", trials=12, patience=1000)
    run_toy(tmp_path / "parts", trials=6, patience=1000)
    parts = run_toy(tmp_path / "parts", trials=12, patience=1000)
    sampled = [row.architecture.name for row in parts.rows[1:]]
    first, second = sampled[:6], sampled[6:12]
    assert first != second
    assert whole.done == parts.done == 12


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from tests.study.toys import FreeEvaluator, run_toy

    def die(name):
        if len(evaluator.trained) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluator = FreeEvaluator(on_train=die)
    run_toy(Path(sys.argv[1]), trials=8, evaluator=evaluator)
    """
)


def test_kill_9_loses_no_finished_trial_and_repeats_none(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, cwd=ROOT, timeout=500)
    assert done.returncode == -signal.SIGKILL
    with (tmp_path / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 6, "worker_id": "torn')
    loop = run_toy(tmp_path, trials=8)
    complete = [row for row in loop.rows if row.state == "complete"]
    assert len(complete) == 8
    assert len({row.id for row in complete}) == 8
    assert len(loop.evaluator.trained) == 5
    states = [t.state for t in loop.study.trials]
    assert states.count(TrialState.FAIL) == 1
    assert TrialState.RUNNING not in states


def test_the_journal_opens_with_plain_optuna(tmp_path):
    run_toy(tmp_path, trials=4)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.load_study(study_name="toy", storage=storage)
    assert study.metric_names == ["text_loss", "decode_latency_ms"]
    assert len([t for t in study.trials if t.state == TrialState.COMPLETE]) == 4
    assert all(json.loads(line) for line in (tmp_path / "journal.log").read_text().splitlines())


KILLED_AFTER_THE_ROW = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import nas.study.loop as loop
    from tests.study.toys import run_toy

    def write_and_die(trial, row, write=loop.note_row):
        write(trial, row)
        if row.state == "complete" and row.number >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.note_row = write_and_die
    run_toy(Path(sys.argv[1]), trials=8)
    """
)


def test_a_trial_killed_between_its_row_and_its_end_is_complete_and_not_repeated(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED_AFTER_THE_ROW, str(tmp_path)]
    assert subprocess.run(command, env=environment, cwd=ROOT, timeout=500).returncode == -signal.SIGKILL
    loop = run_toy(tmp_path, trials=8)
    complete = [row for row in loop.rows if row.state == "complete"]
    assert len(complete) == len({row.id for row in complete}) == 8
    states = [trial.state for trial in loop.study.trials]
    assert states.count(TrialState.COMPLETE) == 8
    assert states.count(TrialState.FAIL) == 0


def test_a_trial_may_be_interrupted_by_control_c_as_often_as_one_likes(tmp_path):
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path, trials=2, evaluator=FreeEvaluator(on_train=interrupt_always))
    loop = run_toy(tmp_path, trials=2)
    assert loop.done == 2
    assert loop.evaluator.trained[0][0] == "aaaa", "the trial that was interrupted, the first reference"


def interrupt_always(name):
    raise KeyboardInterrupt


def test_a_device_that_cannot_measure_stops_the_search_and_the_next_run_takes_the_trial_up_again(tmp_path):
    def gone(name):
        if len(evaluator.trained) == 3:
            refused.append(name)
            raise CannotGoOn("cuda:0 does not answer any more")

    refused: list[str] = []
    evaluator = FreeEvaluator(on_measure=gone)
    with pytest.raises(StudyError, match=r"^cuda:0 does not answer any more$"):
        run_toy(tmp_path, trials=6, evaluator=evaluator)
    assert len(evaluator.trained) == 3
    assert len(refused) == 1, "no other trial is tried on a device that is gone"
    second = run_toy(tmp_path, trials=6)
    assert second.done == 6
    assert second.evaluator.trained[0][0] == refused[0]
    assert [row.reason for row in second.rows if row.state == "failed"] == ["interrupted"]


def test_a_device_that_is_gone_while_members_are_confirmed_is_one_sentence_too(tmp_path):
    class Gone(FreeEvaluator):
        def measure(self, candidate):
            super().measure(candidate)
            candidate.measurements = {
                name: replace(time, source="table") for name, time in candidate.measurements.items()
            }

        def confirm(self, candidate):
            raise CannotGoOn("the device is busy")

    with pytest.raises(StudyError, match=r"^the device is busy$"):
        run_toy(tmp_path, trials=3, evaluator=Gone())
    assert run_toy(tmp_path, trials=3).done == 3, "what was trained is kept"


def test_what_the_device_cannot_hold_is_rejected_with_the_reason_and_the_search_goes_on(tmp_path):
    def too_large(name):
        if name.count("a") == 4:
            raise Rejected("aaaa needs 9 bytes more than there are", "memory")

    loop = run_toy(tmp_path, trials=15, sampler="brute_force", evaluator=FreeEvaluator(on_measure=too_large))
    (rejected,) = [row for row in loop.rows if row.state == "rejected"]
    assert rejected.reason == "aaaa needs 9 bytes more than there are"
    assert "sequence_bytes" in rejected.values and "decode_latency_ms" not in rejected.values
    assert loop.done == 15


def test_the_tools_own_time_is_what_lies_around_measuring_and_training(tmp_path):
    now = [0.0]

    @dataclass
    class Slow(FreeEvaluator):
        """Five seconds of measuring; a training of 100 seconds of which 90 were spent on it."""

        def measure(self, candidate):
            now[0] += 5.0
            super().measure(candidate)

        def train(self, candidate, seed, observer, share=1.0):
            now[0] += 100.0
            super().train(candidate, seed, observer, share)
            candidate.train_seconds = 90.0

    first = run_toy(tmp_path / "a", trials=1, evaluator=Slow())
    crew = Crew(first.study)
    loop = Loop(
        study=first.study,
        crew=crew,
        space=first.space,
        evaluator=Slow(),
        bars=first.bars,
        observer=Silent(),
        directory=tmp_path / "a",
        trials=4,
        seed=0,
        patience=50,
        clock=lambda: now[0],
    )
    with crew:
        loop.run()
    assert loop.done == 4
    assert loop.work_seconds == 3 * (5.0 + 90.0)
    assert loop.rows[-1].seconds == {"count": 0.0, "measure": 5.0, "train": 100.0}


def test_a_disk_that_is_full_costs_the_weights_and_not_the_trial(tmp_path):
    class NoRoom(FreeEvaluator):
        def save(self, candidate, stem):
            raise OSError(28, "No space left on device")

    loop = run_toy(tmp_path, trials=3, evaluator=NoRoom())
    assert loop.done == 3
    assert "the files of trial 0 were not written ([Errno 28] No space left on device)" in loop.observer.messages[0]


def test_a_disk_that_is_full_when_a_late_member_is_written_is_told_in_one_sentence(tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise OSError(28, "No space left on device")

    row = run_toy(tmp_path, trials=1).rows[0]
    said = Silent()
    files = FrontFiles(folder=tmp_path / "late", evaluator=FreeEvaluator(), say=said.message)
    files.folder.mkdir()
    monkeypatch.setattr(front_files, "write_architecture", no_room)
    files.write([row], {row.number})
    assert said.messages == [
        "the architecture file of trial 0 was not written ([Errno 28] No space left on device); its row is kept"
    ]


def test_control_c_between_the_row_and_its_end_loses_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nas.study.loop.tell_row", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path, trials=2)
    loop = run_toy(tmp_path, trials=2)
    assert [row.state for row in loop.rows] == ["complete", "complete"]
    assert len(loop.evaluator.trained) == 1
