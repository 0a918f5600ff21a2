"""Opens what a study is kept in: a journal in its folder, a database, or Optuna's gRPC proxy."""

import random
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage

from nas.study.errors import StudyError
from nas.study.storage.journal import NAME, Journal
from nas.study.storage.retrying import first_line

GRPC = "grpc://"
HIDDEN = "***"  # in place of a password
SECONDS_TO_CONNECT = 30
TRIES_TO_CONNECT = 6


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
            database = open_database(url)
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


def open_database(url: str) -> RDBStorage:
    """Raises what Optuna and SQLAlchemy raise; one that cannot be opened leaves no connection to be collected."""
    database = RDBStorage.__new__(RDBStorage)
    try:
        database.__init__(url, engine_kwargs={"pool_pre_ping": True, "connect_args": connect_arguments(url)})
    except BaseException:
        if hasattr(database, "engine"):
            database.engine.dispose()
        raise
    return database


def connect_arguments(url: str) -> dict[str, int]:
    """A connection that is dead must be noticed within a minute; a file that another writes to is waited for."""
    if url.startswith("postgresql"):
        return {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return {"timeout": 60} if url.startswith("sqlite") else {}


def shown(url: str) -> str:
    """A URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", rf"\1:{HIDDEN}@", url)
