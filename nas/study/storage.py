"""Where a study is kept, and what makes it this study.

* A journal in the study's folder, a database, or Optuna's gRPC proxy; any number of workers at once. Each is waited for
  while it cannot be reached (nas.study.retrying).
* The definition of the study (space, objectives, tasks, training, measurement) is stored by whoever creates it; a run
  with another definition is refused, because its rows could not be compared.
"""

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna import Study as Study
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage

from nas.objectives import Objective
from nas.study.errors import StorageLost as StorageLost
from nas.study.errors import StudyError as StudyError
from nas.study.journal import NAME, Journal
from nas.study.retrying import RetryingStorage, first_line, print_to_stderr
from nas.study.versions import is_widened, latest_version, version_name

DEFINITION, FORMAT = "definition", "format"
FORMAT_NUMBER = 1  # of what this project writes into a storage; a change that older code cannot read makes it larger
GRPC = "grpc://"
SECONDS_TO_DEFINE = 15.0
SECONDS_TO_CONNECT = 30
TRIES_TO_CONNECT = 6


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
    begins empty (nas.study.versions; `earlier_version` gives the one before).

    storage: None keeps a journal in `directory`; else the URL of a database, or `grpc://host:port`. say: is told when
    the storage is lost and when it is back.

    Raises StudyError when the storage cannot be used or read, or holds the study with another definition.
    """
    make_folder(directory)
    place = place_of(directory, storage)
    with reading(place):
        backend = open_storage(directory, storage, say)
        version = max(1, latest_version(name, names_in(backend)))
        study = create_or_load(backend, version_name(name, version), objectives, definition, sampler)
        check_form(study, place)
        if is_widened(study.user_attrs[DEFINITION], definition):
            study = create_or_load(backend, version_name(name, version + 1), objectives, definition, sampler)
    check_definition(study, definition, place)
    return study


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


def connect(directory: Path, storage: str | None) -> tuple[BaseStorage, Callable[[], None]]:
    """The storage itself, opened, and what closes it.

    Raises StudyError when it cannot be opened, and what Optuna raises for a damaged journal.
    """
    if storage is None:
        return JournalStorage(Journal(directory / NAME)), lambda: None
    if storage.startswith(GRPC):
        return connect_to_proxy(storage)
    return connect_to_database(storage)


def connect_to_proxy(url: str) -> tuple[BaseStorage, Callable[[], None]]:
    """Optuna's gRPC proxy at `grpc://host:port`."""
    host, _, port = url.removeprefix(GRPC).rpartition(":")
    if not host or not port.isdigit():
        raise StudyError(f"storage must be like grpc://host:13000, but got {url!r}.")
    try:
        from optuna.storages import GrpcStorageProxy

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            proxy = GrpcStorageProxy(host=host, port=int(port))
    except ImportError as error:
        raise StudyError(
            f"{url} needs gRPC ({first_line(error)}); install the extra: pip install -e '.[grpc]'."
        ) from None
    try:
        proxy.wait_server_ready(timeout=SECONDS_TO_CONNECT)
    except ConnectionError as error:
        raise StudyError(
            f"No gRPC proxy answers at {url} ({first_line(error)}); start one with "
            "optuna.storages.run_grpc_proxy_server."
        ) from None
    return proxy, proxy.close


def connect_to_database(url: str) -> tuple[BaseStorage, Callable[[], None]]:
    """A database that SQLAlchemy knows, its tables made where they are missing.

    Workers that start together may make the same tables; who comes second tries again.
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

    problem: Exception | None = None
    for attempt in range(TRIES_TO_CONNECT):
        try:
            engine = {"pool_pre_ping": True, "connect_args": connect_arguments(url)}
            database = RDBStorage(url, engine_kwargs=engine)
            return get_storage(database), database.engine.dispose
        except (ImportError, ModuleNotFoundError, NoSuchModuleError) as error:
            raise StudyError(
                f"storage={shown(url)} needs a driver that is not installed ({first_line(error)}); for PostgreSQL "
                "install the extra: pip install -e '.[postgresql]'."
            ) from None
        except RuntimeError as error:
            raise StudyError(
                f"The database {shown(url)} was made by another version of Optuna ({first_line(error)}); bring it up "
                "to date with `optuna storage upgrade --storage URL`, or use another database."
            ) from None
        except (ArgumentError, ValueError) as error:
            raise StudyError(
                f"storage must be null, a database's URL such as postgresql+psycopg://user@host/name, or "
                f"grpc://host:port, but got {shown(url)!r} ({first_line(error)})."
            ) from None
        except SQLAlchemyError as error:
            problem = error
            time.sleep((attempt + random.random()) / 4)
    reason = first_line(getattr(problem, "orig", None) or problem)
    advice = "is it running?" if isinstance(problem, OperationalError) else "may this user make tables there?"
    raise StudyError(f"The database {shown(url)} cannot be opened ({reason}); {advice}")


def connect_arguments(url: str) -> dict[str, int]:
    """A connection that is dead must be noticed within a minute; a file that another writes to is waited for."""
    if url.startswith("postgresql"):
        return {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return {"timeout": 60} if url.startswith("sqlite") else {}


def shown(url: str) -> str:
    """A URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """`place: old -> new` for every leaf that differs between two nested structures."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            inner = f"{place}.{key}" if place else str(key)
            found.extend(differences(old.get(key), new.get(key), inner))
        return found
    return [] if old == new else [f"{place} was {json.dumps(old)} and is now {json.dumps(new)}"]
