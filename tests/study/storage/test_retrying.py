"""A storage that cannot be reached for a while is waited for; that is said once, and no mistake is hidden."""

import errno

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from nas.study.errors import StorageLost, StudyError
from nas.study.storage.retrying import RetryingStorage, why_unreachable

GONE = OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly\n\tThis probably means"))


class Moody(InMemoryStorage):
    """Raises what `errors` holds, one for each call, before it answers; `after` raises once the work is done."""

    def __init__(self):
        super().__init__()
        self.errors = []
        self.after = []

    def set_trial_user_attr(self, trial_id, key, value):
        if self.errors:
            raise self.errors.pop(0)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id, state, values=None):
        done = super().set_trial_state_values(trial_id, state, values)
        if self.after:
            raise self.after.pop(0)
        return done


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def moody():
    backend, clock, said = Moody(), Clock(), []
    storage = RetryingStorage(backend, name="db", say=said.append, patience=300.0, sleep=clock.sleep, clock=clock)
    study = optuna.create_study(storage=storage)
    return backend, clock, said, study


def internal(cause):
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error", [GONE, internal(GONE), OSError(errno.ENOSPC, "No space left on device")], ids=["lost", "wrapped", "full"]
)
def test_what_passes_is_waited_for_and_said_once(moody, error):
    backend, clock, said, study = moody
    trial = study.ask()
    backend.errors = [error] * 10
    trial.set_user_attr("a", 1)
    assert study.trials[0].user_attrs == {"a": 1}
    assert clock.now == 0.5 + 1 + 2 + 4 + 8 + 5 * 15, "more than a minute"
    assert len(said) == 2
    assert "the storage db cannot be used (" in said[0] and "\n" not in said[0]
    assert said[1] == "the storage db is back after 90 s"


def test_who_has_waited_long_enough_is_told_in_one_sentence(moody):
    backend, clock, _, study = moody
    trial = study.ask()
    backend.errors = [GONE] * 1000
    with pytest.raises(StorageLost, match=r"db could not be used for 5 minutes \(server closed.*the same command goes"):
        trial.set_user_attr("a", 1)
    assert 300 < clock.now < 320
    assert issubclass(StorageLost, StudyError)


def test_a_mistake_is_raised_at_once(moody):
    backend, clock, said, study = moody
    trial = study.ask()
    for error in (ValueError("wrong"), internal(IntegrityError("INSERT", {}, Exception("duplicate")))):
        backend.errors = [error]
        with pytest.raises(type(error)):
            trial.set_user_attr("a", 1)
    assert clock.now == 0 and said == []


def test_an_end_whose_answer_was_lost_counts_once(moody):
    backend, _, _, study = moody
    backend.after = [GONE]
    study.tell(study.ask(), 1.0)
    assert study.trials[0].state == TrialState.COMPLETE


def test_ending_a_trial_that_another_has_ended_is_an_error(moody):
    _, _, _, study = moody
    trial = study.ask()
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])


def test_a_proxy_that_is_unavailable_is_waited_for_and_one_that_refuses_is_not():
    grpc = pytest.importorskip("grpc")

    class Call(grpc.RpcError):
        def __init__(self, code):
            self._code = code

        def code(self):
            return self._code

    Call.__module__ = "grpc._channel"
    assert why_unreachable(Call(grpc.StatusCode.UNAVAILABLE)) == "gRPC says UNAVAILABLE"
    assert why_unreachable(Call(grpc.StatusCode.PERMISSION_DENIED)) is None
