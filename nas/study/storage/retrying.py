"""A storage that outlives its storage: what cannot be reached for a while is waited for.

A database that restarts, a proxy whose machine reboots, a disk that is full: each call is tried again with growing
pauses, for minutes, and whoever watches is told once. What is wrong in itself is not tried again.

A call whose answer was lost may have been carried out. Writing the same once more changes nothing, with one exception:
a trial may be created twice, and the first, which nobody has claimed, is found as one that was interrupted.
"""

import sys
import threading
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from nas.study.errors import StorageLost

T = TypeVar("T")
PATIENCE = 600.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
# SQLAlchemy's and gRPC's errors by name: neither library is needed where the study is a journal.
UNREACHABLE = ("OperationalError", "InterfaceError", "TimeoutError", "DisconnectionError", "PendingRollbackError")
UNREACHABLE_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "RESOURCE_EXHAUSTED")


def print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class RetryingStorage(BaseStorage):
    """Passes every call on to `storage`, and waits while that cannot be reached.

    say: told once when the storage is lost and once when it is back; may be replaced. patience: seconds until
    StorageLost is raised. close: ends the connections of `storage`.
    """

    def __init__(
        self,
        storage: BaseStorage,
        *,
        name: str,
        say: Callable[[str], None] = print_to_stderr,
        patience: float = PATIENCE,
        close: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage = storage
        self.name = name
        self.say = say
        self.patience = patience
        self.close = close
        self.sleep = sleep
        self.clock = clock
        self.lost_since: float | None = None
        self.guard = threading.Lock()

    def _try(self, call: Callable[[], T]) -> T:
        pause, began = FIRST_PAUSE, self.clock()
        while True:
            try:
                result = call()
            except Exception as error:
                reason = why_unreachable(error)
                if reason is None:
                    raise
                if self.clock() - began > self.patience:
                    raise StorageLost(
                        f"The study's storage {self.name} could not be used for {self.patience / 60:.0f} minutes "
                        f"({reason}); the same command goes on once it can."
                    ) from None
                self._note_loss(reason)
                # A session whose connection broke within a transaction goes on refusing; rolling it back breaks too.
                with suppress(Exception):
                    self.storage.remove_session()
            else:
                self._note_return()
                return result
            self.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _note_loss(self, reason: str) -> None:
        with self.guard:
            first, self.lost_since = self.lost_since is None, self.lost_since or self.clock()
        if first:
            self.say(
                f"the storage {self.name} cannot be used ({reason}); trying again for {self.patience / 60:.0f} minutes"
            )

    def _note_return(self) -> None:
        if self.lost_since is None:
            return
        with self.guard:
            since, self.lost_since = self.lost_since, None
        if since is not None:
            self.say(f"the storage {self.name} is back after {self.clock() - since:.0f} s")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._try(lambda: self.storage.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        self._try(lambda: self.storage.delete_study(study_id))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._try(lambda: self.storage.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._try(lambda: self.storage.set_study_system_attr(study_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._try(lambda: self.storage.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._try(lambda: self.storage.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._try(lambda: self.storage.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._try(lambda: self.storage.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._try(lambda: self.storage.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._try(self.storage.get_all_studies)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._try(lambda: self.storage.create_new_trial(study_id, template_trial))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._try(lambda: self.storage.set_trial_param(trial_id, param_name, param_value_internal, distribution))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tries = 0

        def call() -> bool:
            nonlocal tries
            tries += 1
            try:
                return self.storage.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                # The first try was carried out, and only its answer was lost.
                if tries > 1 and self.storage.get_trial(trial_id).state == state:
                    return True
                raise

        return self._try(call)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._try(lambda: self.storage.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._try(lambda: self.storage.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._try(lambda: self.storage.set_trial_system_attr(trial_id, key, value))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._try(lambda: self.storage.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._try(lambda: self.storage.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._try(lambda: self.storage.get_all_trials(study_id, deepcopy, states))

    def remove_session(self) -> None:
        self._try(self.storage.remove_session)


def why_unreachable(error: Exception) -> str | None:
    """The reason in a few words if trying again may help: a full disk, a lost connection; None for anything else."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ is not None else error
    kinds = {kind.__name__ for kind in type(cause).__mro__ if kind.__module__.startswith("sqlalchemy.")}
    if kinds.intersection(UNREACHABLE) or getattr(cause, "connection_invalidated", False):
        return first_line(getattr(cause, "orig", None) or cause)
    code = getattr(cause, "code", None)
    if type(cause).__module__.startswith("grpc.") and callable(code):
        name = getattr(code(), "name", "")
        return f"gRPC says {name}" if name in UNREACHABLE_CODES else None
    return None


def first_line(error: object) -> str:
    """The first line of an error's message, at most 200 characters; its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
