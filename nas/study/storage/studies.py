"""Where a study is kept, and what makes it this study.

* A journal in the study's folder, a database, or Optuna's gRPC proxy; any number of workers at once. Each is waited for
  while it cannot be reached (nas.study.storage.retrying).
* The definition of the study (space, objectives, tasks, training, measurement) is stored by whoever creates it; a run
  with another definition is refused, because its rows could not be compared.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna import Study as Study
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage

from nas.objectives import Objective
from nas.study.crew import Crew
from nas.study.errors import StorageLost as StorageLost
from nas.study.errors import StudyError as StudyError
from nas.study.storage.connect import connect, shown
from nas.study.storage.journal import NAME
from nas.study.storage.retrying import RetryingStorage, first_line, print_to_stderr
from nas.study.storage.versions import is_widened, latest_version, version_name

DEFINITION, FORMAT = "definition", "format"
FORMAT_NUMBER = 1  # of what this project writes into a storage; a change that older code cannot read makes it larger
SECONDS_TO_DEFINE = 15.0


def make_folder(directory: Path) -> None:
    """Make the study's folder; raises StudyError when nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "architectures").mkdir(exist_ok=True)
        (directory / NAME).with_suffix(".probe").touch()
        (directory / NAME).with_suffix(".probe").unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(
            f"The study's folder must be writable, but {directory} is not ({error.strerror}); set outputs=FOLDER."
        ) from None


def open_study(
    directory: Path,
    name: str,
    objectives: Sequence[Objective],
    definition: Mapping[str, Any],
    sampler: Any,
    *,
    storage: str | None = None,
    say: Callable[[str], None] = print_to_stderr,
) -> optuna.Study:
    """Create the study, or open it to go on, beside any number of others that do the same.

    A definition that differs from the study's in more choices of the search space alone opens its next version, which
    begins empty (nas.study.storage.versions; `earlier_version` gives the one before).

    storage: None keeps a journal in `directory`; else the URL of a database, or `grpc://host:port`. say: is told when
    the storage is lost and when it is back.

    Raises StudyError when the storage cannot be used or read, holds the study with another definition, or has workers
    on a version whose space has grown.
    """
    make_folder(directory)
    place = place_of(directory, storage)
    with reading(place):
        backend = open_storage(directory, storage, say)
        version = max(1, latest_version(name, names_in(backend)))
        study = create_or_load(backend, version_name(name, version), objectives, definition, sampler)
        check_form(study, place)
        if is_widened(study.user_attrs[DEFINITION], definition):
            refuse_while_at_work(study)
            study = create_or_load(backend, version_name(name, version + 1), objectives, definition, sampler)
    check_definition(study, definition, place)
    return study


def refuse_while_at_work(study: optuna.Study) -> None:
    """Raise StudyError while a version that another follows has workers: both would keep files in one folder."""
    workers = len(Crew(study).present())
    if workers:
        raise StudyError(
            f"{workers} worker(s) are still at work on {study.study_name}, the space as it was; stop them (Ctrl-C "
            "loses nothing) and start this again."
        )


def earlier_version(study: optuna.Study, name: str) -> optuna.Study | None:
    """The version of a study before the latest, in the same storage; None for a study that has one version alone."""
    version = latest_version(name, [study.study_name])
    if version < 2:
        return None
    return optuna.load_study(study_name=version_name(name, version - 1), storage=study._storage)


def names_in(backend: BaseStorage) -> set[str]:
    return {known.study_name for known in backend.get_all_studies()}


def load_study(
    directory: Path, name: str, *, storage: str | None = None, say: Callable[[str], None] = print_to_stderr
) -> optuna.Study:
    """A study that exists, whatever its definition, for what reads it or adds to its findings.

    Arguments and errors are those of `open_study`; a study that does not exist is a StudyError too.
    """
    place = place_of(directory, storage)
    missing = StudyError(f"There is no study {name!r} in {place}; name one that a search has begun.")
    if storage is None and not (directory / NAME).exists():
        raise missing
    with reading(place):
        backend = open_storage(directory, storage, say)
        version = latest_version(name, names_in(backend))
        if version == 0:
            raise missing
        study = optuna.load_study(study_name=version_name(name, version), storage=backend)
    check_form(study, place)
    return study


def place_of(directory: Path, storage: str | None) -> str:
    """Where the study is kept, as a user may read it."""
    return str(directory / NAME) if storage is None else shown(storage)


def open_storage(directory: Path, storage: str | None, say: Callable[[str], None]) -> RetryingStorage:
    """The storage behind one that waits while it cannot be used."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened, close = connect(directory, storage)
    return RetryingStorage(opened, name=place_of(directory, storage), say=say, close=close)


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Around the first reading of a storage: what cannot be read is one sentence."""
    try:
        yield
    except (ValueError, KeyError, AssertionError, OSError) as error:
        raise StudyError(
            f"The storage {place} cannot be read as a study ({first_line(error)}); it is damaged, or was written by "
            "another version: move it away, or start anew with study=NAME."
        ) from None


def tell_of_storage(study: optuna.Study, say: Callable[[str], None]) -> None:
    """From now on `say` is told when the study's storage is lost and when it is back; it may be called in a thread."""
    retrying(study).say = say


def close_study(study: optuna.Study) -> None:
    """End the connections to the study's storage."""
    retrying(study).close()


def retrying(study: optuna.Study) -> RetryingStorage:
    storage = study._storage
    assert isinstance(storage, RetryingStorage), "open_study makes no other"
    return storage


def create_or_load(
    backend: BaseStorage, name: str, objectives: Sequence[Objective], definition: Mapping[str, Any], sampler: Any
) -> optuna.Study:
    """The study of that name. Exactly one process creates it, and that one defines it."""
    try:
        study = optuna.create_study(
            study_name=name, storage=backend, sampler=sampler, directions=[o.direction for o in objectives]
        )
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=backend, sampler=sampler)
        until = time.monotonic() + SECONDS_TO_DEFINE
        while DEFINITION not in study.user_attrs and time.monotonic() < until:
            time.sleep(0.1)
    if DEFINITION not in study.user_attrs:  # we made it, or who made it was killed before a word was said about it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([objective.name for objective in objectives])
        study.set_user_attr(FORMAT, FORMAT_NUMBER)
        study.set_user_attr(DEFINITION, dict(definition))
    return study


def check_form(study: optuna.Study, place: str) -> None:
    """Raises StudyError when the study was written by a version that writes otherwise."""
    number = study.user_attrs.get(FORMAT, FORMAT_NUMBER)
    if number != FORMAT_NUMBER:
        raise StudyError(
            f"The study {study.study_name!r} in {place} has form {number}, and this version reads form "
            f"{FORMAT_NUMBER}; go on with the version that began it, or start anew with study=NAME."
        )


def check_definition(study: optuna.Study, definition: Mapping[str, Any], place: str) -> None:
    """Raises StudyError when the stored study is another one."""
    changes = differences(study.user_attrs[DEFINITION], json.loads(json.dumps(definition)))
    if changes:
        raise StudyError(
            f"The study {study.study_name!r} in {place} was started with other settings: {'; '.join(changes)}. "
            "Take those back to go on, or start anew with study=NAME."
        )


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """`place: old -> new` for every leaf that differs between two nested structures."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            inner = f"{place}.{key}" if place else str(key)
            found.extend(differences(old.get(key), new.get(key), inner))
        return found
    return [] if old == new else [f"{place} was {json.dumps(old)} and is now {json.dumps(new)}"]
