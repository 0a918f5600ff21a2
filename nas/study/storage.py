"""The study on disk: one folder, one journal, one process at a time.

* The journal is Optuna's own file; `optuna-dashboard` opens it as it is. A last line that a crash tore is cut off.
* A lock file guards the folder, so that what is marked as running when the lock is taken has been interrupted.
* The definition of the study (space, objectives, tasks, training, measurement) is stored at its start; a run with
  another definition is refused, because its rows could not be compared.
"""

import fcntl
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna import Study as Study
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from nas.objectives import Objective

JOURNAL = "journal.log"
LOCK = ".running"


class StudyError(RuntimeError):
    """The study cannot be opened or go on. The message is one sentence for a user."""


@contextmanager
def study_lock(directory: Path) -> Iterator[None]:
    """Hold the study's folder alone; raises StudyError when it cannot be written or another process holds it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = (directory / LOCK).open("w")
    except OSError as error:
        raise StudyError(
            f"The study's folder must be writable, but {directory} is not ({error.strerror}); set outputs=FOLDER."
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(
                f"Another process is running the study in {directory}; wait for it, or take another name: study=NAME."
            ) from None
        # Only a process that was killed can have left Optuna's own lock behind: this one holds the folder.
        (directory / f"{JOURNAL}.lock").unlink(missing_ok=True)
        yield


def mend_journal(path: Path) -> int:
    """Cut a torn last line off the journal; returns the number of bytes cut (0 for a sound journal)."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    sound = len(data)
    end = data.rfind(b"\n") + 1
    if end != len(data):
        sound = end
    start = data.rfind(b"\n", 0, max(sound - 1, 0)) + 1
    if sound and not _is_json(data[start:sound]):
        sound = start
    if sound < len(data):
        with path.open("r+b") as journal:
            journal.truncate(sound)
    return len(data) - sound


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def open_study(
    directory: Path, name: str, objectives: Sequence[Objective], definition: Mapping[str, Any], sampler: Any
) -> optuna.Study:
    """Create the study, or open it to go on. Hold `study_lock` while using it.

    Raises StudyError when the stored definition differs, or the journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = directory / JOURNAL
    mend_journal(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            directions=[o.direction for o in objectives],
            load_if_exists=True,
        )
    except (ValueError, KeyError, OSError) as error:
        raise StudyError(
            f"The journal {path} cannot be read ({error}); move it away, or start anew with study=NAME."
        ) from None
    stored = study.user_attrs.get("definition")
    if stored is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([o.name for o in objectives])
        study.set_user_attr("definition", dict(definition))
    else:
        changes = differences(stored, json.loads(json.dumps(definition)))
        if changes:
            raise StudyError(
                f"The study {name!r} in {directory} was started with other settings: {'; '.join(changes)}. "
                "Take those back to go on, or start anew with study=NAME."
            )
    return study


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """`place: old -> new` for every leaf that differs between two nested structures."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            inner = f"{place}.{key}" if place else str(key)
            found.extend(differences(old.get(key), new.get(key), inner))
        return found
    return [] if old == new else [f"{place} was {json.dumps(old)} and is now {json.dumps(new)}"]
