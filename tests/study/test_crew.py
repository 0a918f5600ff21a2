"""Several workers on one study: presence, turns, the dead and their trials."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from optuna.trial import TrialState

from nas.measure.child import started
from nas.study import crew as crew_module
from nas.study.crew import CHOOSING, GRACE_BEATS, RECORD, Crew, birth, machine
from nas.study.storage.studies import StudyError, open_study
from nas.study.trials import KILLED, MOST_DEATHS, REASON, RETRY_OF, WORKER, TakenAway, note_row, rows_of
from tests.patience import PATIENCE, wait_until
from tests.study.crews import OBJECTIVES, check_study, open_toy, row, run_workers, space


def test_four_processes_on_a_journal_lose_nothing_repeat_nothing_and_respect_the_total(tmp_path):
    assert run_workers(tmp_path, 4, total=24) == [0] * 4
    study = open_toy(tmp_path)
    check_study(study, 24)
    owners = {trial.user_attrs[WORKER] for trial in study.trials if trial.state == TrialState.COMPLETE}
    assert len(owners) == 4, "every worker has worked"


def test_the_trial_of_a_killed_worker_is_taken_up_by_another_exactly_once(tmp_path):
    assert run_workers(tmp_path, 4, total=16, kills_at=1) == [-signal.SIGKILL, 0, 0, 0]
    study = open_toy(tmp_path)
    check_study(study, 16)
    (lost,) = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert lost.user_attrs[REASON] == "interrupted"
    (again,) = [trial for trial in study.trials if trial.user_attrs.get(RETRY_OF) == lost.number]
    assert again.params == lost.params
    assert again.state == TrialState.COMPLETE


def claim_and_die(directory, ended):
    study = open_toy(directory)
    with Crew(study, interval=60) as crew:
        crew.requeue()
        trial = study.ask()
        crew.claim(trial)
        space(trial, 3)
        ended.set()
        os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(function, *arguments, begin=started):
    ended = multiprocessing.get_context("spawn").Event()
    process = begin(function, *arguments, ended)
    assert ended.wait(PATIENCE)
    return process


def begin_child(function, *arguments):
    """A child of this process and not of a server, which would wait for it."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    return process


def test_a_trial_that_killed_two_workers_is_not_tried_a_third_time(tmp_path):
    for _ in range(MOST_DEATHS):
        in_a_process(claim_and_die, tmp_path).join(PATIENCE)
    study = open_toy(tmp_path)
    with Crew(study) as crew:
        assert crew.requeue() == 0
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * MOST_DEATHS
    assert [trial.user_attrs[REASON] for trial in study.trials] == [
        "interrupted",
        "two workers were killed while it ran",
    ]
    assert all(trial.user_attrs[KILLED] for trial in study.trials)


def test_who_was_killed_and_not_yet_waited_for_is_gone(tmp_path):
    process = in_a_process(claim_and_die, tmp_path, begin=begin_child)  # a zombie until it is joined
    study = open_toy(tmp_path)
    with Crew(study) as crew:
        wait_until(crew.dead_trials, "its trial is seen to be dead")
        assert [trial.number for trial in crew.dead_trials()] == [0]
        assert crew.others() == ()
    process.join(PATIENCE)


def pretend(study, name, **changes):
    """The record of a worker on another machine."""
    record = {"machine": "far away", "pid": 1, "born": 1, "index": 7, "state": "working", "joined": True, "beat": 0}
    study.set_user_attr(RECORD + name, record | changes)


def test_a_worker_far_away_is_dead_when_its_beat_stands_still_and_lives_when_it_goes_on(tmp_path):
    study = open_toy(tmp_path)
    with Crew(study, interval=3600) as crew:
        pretend(study, "far")
        trial = study.ask()
        trial.set_user_attr(WORKER, "far")
        assert crew.others() == ("far",)
        for beat in range(2 * GRACE_BEATS):
            pretend(study, "far", beat=beat)
            assert crew.dead_trials() == []
            crew.beats += 1
        for _ in range(GRACE_BEATS - 1):
            assert crew.dead_trials() == []
            crew.beats += 1
        assert [t.number for t in crew.dead_trials()] == [0]
        pretend(study, "far", beat=10**6)
        assert crew.dead_trials() == []


def test_nobody_is_buried_while_the_watcher_itself_does_not_beat(tmp_path, monkeypatch):
    study = open_toy(tmp_path)
    with Crew(study, interval=3600) as crew:
        pretend(study, "far")
        study.ask().set_user_attr(WORKER, "far")
        assert crew.dead_trials() == []
        monkeypatch.setattr(crew_module.time, "monotonic", lambda: 1e9)
        assert crew.dead_trials() == []


def test_a_trial_that_nobody_claimed_is_lost_where_one_is_alone_and_waited_for_where_not(tmp_path):
    study = open_toy(tmp_path)
    study.ask()
    with Crew(study, interval=3600) as crew:
        assert len(crew.dead_trials()) == 1
        pretend(study, "far")
        assert crew.dead_trials() == []
        for beat in range(GRACE_BEATS):
            crew.beats += 1
            pretend(study, "far", beat=beat + 1)
        assert len(crew.dead_trials()) == 1


def test_who_comes_back_from_the_dead_is_told_that_its_trial_was_given_away(tmp_path):
    study = open_toy(tmp_path)
    with Crew(study, interval=3600) as crew, Crew(study, interval=3600) as slow:
        trial = study.ask()
        slow.claim(trial)
        architecture = space(trial, 3)
        pretend(study, slow.me)
        assert crew.dead_trials() == []
        crew.beats += GRACE_BEATS
        assert crew.requeue() == 1
        with pytest.raises(TakenAway, match="trial 0 was given to another worker"):
            note_row(trial, row(0, architecture, "sampled"))
    assert rows_of(study) == ()


def test_turns_exclude_each_other_and_may_be_nested(tmp_path):
    study = open_toy(tmp_path)
    inside, most, counts = [0], [0], [0]

    def take_turns():
        own = open_toy(tmp_path)
        with Crew(own, interval=3600) as crew:
            for _ in range(10):
                with crew.turn(), crew.turn():
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.002)
                    counts[0] += 1
                    inside[0] -= 1

    threads = [threading.Thread(target=take_turns) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [30]
    assert most == [1]
    assert study.user_attrs


def test_a_number_is_taken_beside_one_who_is_choosing(tmp_path):
    study = open_toy(tmp_path)
    with Crew(study, interval=3600) as crew:
        pretend(study, "far", machine=machine(), pid=2**22 + 1)
        study.set_user_attr("ticket:far", CHOOSING)
        with crew.turn():
            assert study.user_attrs["ticket:" + crew.me] == 1


def test_a_worker_that_died_in_its_turn_holds_nobody_up(tmp_path):
    study = open_toy(tmp_path)
    pretend(study, "dead", machine=machine(), pid=2**22 + 1)
    study.set_user_attr("ticket:dead", 1)
    with Crew(study, interval=3600) as crew, crew.turn():
        assert crew.others() == ()


def test_ranks_tell_workers_apart_and_labels_tell_equal_numbers_apart(tmp_path):
    study = open_toy(tmp_path)
    with Crew(study, index=0) as first, Crew(study, index=1) as second, Crew(study, index=0) as third:
        assert [c.rank for c in (first, second, third)] == [0, 1, 2]
        assert [c.label for c in (first, second, third)] == ["", "1", "0.2"]
        assert len(first.others()) == 2
    with Crew(study) as later:
        assert later.rank == 3
        assert later.label == ""
        assert later.others() == ()


def test_of_workers_that_end_the_last_one_reports(tmp_path):
    study = open_toy(tmp_path)
    with Crew(study) as a, Crew(study) as b, Crew(study) as c:
        assert [a.is_last(), c.is_last(), b.is_last()] == [False, False, True]
    with Crew(study) as again:
        assert again.is_last()


def test_birth_tells_a_process_from_another_of_the_same_number():
    assert birth(os.getpid()) == birth(os.getpid())
    assert birth(2**22 + 1) is None
    assert birth(1) != birth(os.getpid())


def test_of_two_definitions_of_one_name_one_is_refused(tmp_path):
    open_study(tmp_path, "crew", OBJECTIVES, {"space": "a"}, None)
    with pytest.raises(StudyError, match=r'started with other settings: space was "a" and is now "b"'):
        open_study(tmp_path, "crew", OBJECTIVES, {"space": "b"}, None)


def test_a_study_in_another_form_is_refused(tmp_path):
    study = open_toy(tmp_path)
    study.set_user_attr("format", 99)
    with pytest.raises(StudyError, match=r"has form 99, and this version reads form 1"):
        open_toy(tmp_path)


def test_who_is_killed_while_it_ends_the_trial_of_another_does_not_make_that_deadly(tmp_path):
    in_a_process(claim_and_die, tmp_path).join(PATIENCE)
    study = open_toy(tmp_path)
    (trial,) = study.trials
    study._storage.set_trial_user_attr(trial._trial_id, KILLED, True)  # and then was killed itself
    with Crew(study) as crew:
        assert crew.requeue() == 1
    assert study.trials[0].user_attrs[REASON] == "interrupted"
