"""Several workers from one command: what a launcher is given, and what comes back."""

import os
import pickle
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from nas.measure.lock import DeviceLock
from nas.study.errors import StudyError
from nas.study.storage.journal import Journal
from nas.study.trials import PROXY, WORKER
from scripts.command_line import UserError
from scripts.launching import prepare_launch, speaking_to_launcher, stop_like_control_c
from tests.patience import wait_until
from tests.test_command_line import mistake
from tests.test_end_to_end import search


@pytest.mark.parametrize("empty", ["range(0,0)", "range(3,1)"])
def test_zero_workers_are_refused_in_one_sentence(tmp_path, empty):
    sentence = mistake("-m", f"worker={empty}", cwd=tmp_path)
    assert sentence == f"error: There must be at least one worker, but worker={empty} names none; try worker=0,1."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["-m", "worker=range(0,2)"], ["--multirun", "worker=0,1"], ["worker=range(0,0)"], []]
)
def test_launches_that_name_somebody_pass(arguments, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    prepare_launch(arguments)
    assert ("PYTHONPATH" in os.environ) == (arguments[:1] in (["-m"], ["--multirun"])), "what workers inherit"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("worker=-1", "worker must be a whole number of at least 0, but got -1"),
        ("worker=[0,1]", "several workers need -m"),
        ("workers_per_gpu=0", "workers_per_gpu must be a whole number of at least 1, but got 0"),
        ("storage=3", "storage must be a word, but got 3"),
        ("storage=nowhere", "storage must be null, a database's URL"),
    ],
)
def test_a_worker_that_cannot_be_is_one_sentence(tmp_path, argument, sentence):
    assert sentence in mistake(argument, cwd=tmp_path)


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_a_missing_launcher_is_told_with_its_extra(tmp_path):
    sentence = mistake("-m", "hydra/launcher=ray", "worker=0,1", cwd=tmp_path)
    assert sentence == "error: hydra/launcher=ray is not installed; install the extra: pip install -e '.[ray]'."


def test_a_workers_error_is_printed_at_once_and_travels(capsys):
    with pytest.raises(UserError, match="the disk is full") as raised, speaking_to_launcher():
        raise StudyError("the disk is full")
    assert capsys.readouterr().err == "a worker stopped: the disk is full\n"
    assert str(pickle.loads(pickle.dumps(raised.value))) == "the disk is full"


def test_a_mistake_of_our_own_keeps_its_kind():
    with pytest.raises(ZeroDivisionError), speaking_to_launcher():
        raise ZeroDivisionError


def test_a_schedulers_signal_interrupts_as_control_c_does():
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop_like_control_c()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


# Ray starts fewer processes of its own than it would, and as many of ours at once on every machine.
LAUNCHERS = {
    "ray": ["+hydra.launcher.ray.init.include_dashboard=false", "+hydra.launcher.ray.init.num_cpus=2"],
    "submitit_local": [],
}
GIVES_UP = "The current node timed out during startup"  # Ray of itself, after 30 seconds of a busy machine


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "module"), [("ray", "ray"), ("submitit_local", "submitit")])
def test_two_workers_of_a_launcher_share_one_study(tmp_path, launcher, module, lock_of_its_own):
    if find_spec(module) is None or find_spec(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher") is None:
        pytest.skip(f"{module} or Hydra's launcher for it is not installed")
    given = ["study=shared", "budget.trials=4", "budget.noise_seeds=1", "tracker=none"]
    given += ["measure.device=h100", "measure.cost_model=roofline"]  # which takes nobody's lock
    given += [f"hydra/launcher={launcher}", *LAUNCHERS[launcher], "worker=0,1", "-m"]
    folder = tmp_path / "outputs" / "shared"
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def launch():
        """Each gets a trial before any may train, so that none can train all while the other starts."""
        with ThreadPoolExecutor() as threads:
            with lock_of_its_own.exclusive():
                started = threads.submit(search, tmp_path, *given, cache=tmp_path / "cache")
                wait_until(
                    lambda: started.done() or len(workers(folder, TrialState.RUNNING)) == 2,
                    "both workers have a trial",
                    every=0.5,  # reading the study takes longer than most looks
                )
            return started.result()

    done = launch()
    if GIVES_UP in done.stderr:
        done = launch()
    assert done.returncode == 0, done.stderr
    assert sorted(workers(folder, TrialState.COMPLETE)) == ["0", "1"]
    assert len(trials(folder, TrialState.COMPLETE)) == 4
    assert (folder / "front.csv").is_file(), "the last of them has reported"


@pytest.fixture
def lock_of_its_own(monkeypatch):
    """The lock of the CPU for the processes of this test alone."""
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else other tests would take all of the processor
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield DeviceLock("cpu")


def trials(folder, state):
    """Of the study in a folder, those that know their architecture; none before there is a study."""
    if not (folder / "journal.log").exists():
        return []
    try:
        study = optuna.load_study(study_name="shared", storage=JournalStorage(Journal(folder / "journal.log")))
    except KeyError:
        return []
    return [trial for trial in study.get_trials(states=(state,)) if PROXY in trial.user_attrs]


def workers(folder, state):
    return {trial.user_attrs[WORKER].split(".")[0] for trial in trials(folder, state)}
