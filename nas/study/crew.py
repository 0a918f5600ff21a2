"""The workers of one study: who is there, who is gone, whose turn it is.

* Everything is kept in the user attributes of the study, so it works the same over a journal, a database or Optuna's
  gRPC proxy, on one machine or many. No worker is the master, and no clock of one is compared with that of another.
* A worker beats: it changes its record every `interval` seconds, in a thread. On the same machine a worker is gone when
  its process is; on another when its record has stayed the same during `GRACE_BEATS` beats of one's own. Counting one's
  own beats instead of seconds lets a storage be lost for an hour, or a machine sleep, without anybody being buried.
* `turn` lets one worker at a time decide what only one may decide. It is Lamport's bakery (Communications of the ACM
  17(8), 1974): who wants a turn takes a number, and waits for everyone alive with a smaller one.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.study.errors import StorageLost
from nas.study.trials import WORKER, interrupted_trials, requeue_interrupted

BEAT_SECONDS = 20.0
GRACE_BEATS = 6
RECORD, TICKET = "worker:", "ticket:"
CHOOSING, NONE = -1, 0
SHORTEST_WAIT, LONGEST_WAIT = 0.01, 0.5  # seconds between two looks at whose turn it is


class Crew:
    """This worker among the others of its study. A context manager: within it the worker is present and beats.

    me: this worker's name, unique for ever. rank: how many workers had joined the study before, over all its runs; it
    tells the seeds of workers apart. index: the number that the user gave it. label: the same for a person, empty for
    worker 0, with the rank where two have one number.
    """

    def __init__(self, study: optuna.Study, *, index: int = 0, interval: float = BEAT_SECONDS) -> None:
        self.study = study
        self.index = index
        self.interval = interval
        self.me = f"{index}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(3)}"
        self.rank = 0
        self.label = str(index or "")
        self.beats = 0
        self.state = "working"
        self.joined = False
        self.seen: dict[str, tuple[int, int]] = {}  # worker or trial -> its beat, and at which of ours it changed
        self.depth = 0
        self.guard = threading.Lock()
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> "Crew":
        self._record()
        with self.turn():
            records = self._records()
            others = {name: record for name, record in records.items() if name != self.me}
            self.rank = sum(record["joined"] for record in others.values())
            if any(r["index"] == self.index and self._is_alive(name, r) for name, r in others.items()):
                self.label = f"{self.index}.{self.rank}"
            self._record(joined=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leaving.set()
        self.thread.join(self.interval)
        if not isinstance(error, StorageLost):
            self.leave()

    def leave(self) -> None:
        """Say that this worker is gone; from any thread."""
        self._record(state="left")

    def claim(self, trial: optuna.Trial) -> None:
        """Write on a trial that this worker has it; to be called right after it was asked for."""
        trial.set_user_attr(WORKER, self.me)

    def others(self) -> tuple[str, ...]:
        """The names of the other workers that are present and still at work."""
        records = self._records()
        return tuple(n for n, r in records.items() if n != self.me and r["state"] == "working" and self._is_alive(n, r))

    def present(self) -> tuple[str, ...]:
        """The other workers that are at work or write the report, for who has not watched them and does not beat.

        One on another machine counts if its record changes within two beats, which are waited for.
        """
        before = {n: r for n, r in self._records().items() if n != self.me and r["state"] in ("working", "closing")}
        here = [name for name, r in before.items() if r["machine"] == machine() and self._is_alive(name, r)]
        far = {name: r["beat"] for name, r in before.items() if r["machine"] != machine()}
        if far:
            time.sleep(2 * self.interval)
        now = self._records()
        return (*here, *(name for name, beat in far.items() if now[name]["beat"] != beat))

    def dead_trials(self) -> list[FrozenTrial]:
        """The running trials of workers that are gone. To be called between two trials of this worker's own.

        A running trial that nobody has claimed belongs to a worker that was killed in the moment of asking for it.
        """
        # Trials before records: who has a trial has joined.
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        records = self._records()
        alone = not any(name != self.me and self._is_alive(name, record) for name, record in records.items())
        dead = []
        for trial in running:
            owner = trial.user_attrs.get(WORKER)
            if owner is None:
                gone = alone or not self._has_changed(f"trial {trial.number}", 0)
            else:
                gone = owner != self.me and (owner not in records or not self._is_alive(owner, records[owner]))
            if gone:
                dead.append(trial)
        return dead

    def requeue(self) -> int:
        """Queue the trials of workers that are gone, and those that Ctrl-C interrupted; returns how many.

        Cheap where there is nothing to do. To be called between two trials of this worker's own.
        """
        if not self.dead_trials() and not interrupted_trials(self.study):
            return 0
        with self.turn():
            dead, records = self.dead_trials(), self._records()
            # Who left a trial behind on its way out was interrupted; who vanished with it may have been killed by it.
            owners = [records.get(str(trial.user_attrs.get(WORKER))) for trial in dead]
            pairs = zip(dead, owners, strict=True)
            killed = [trial for trial, owner in pairs if owner is not None and owner["state"] != "left"]
            return requeue_interrupted(self.study, dead, killed)

    def is_last(self) -> bool:
        """Whether nobody else is at work any more, so that this worker has to write the report.

        To be called once, when this worker's own work is done: of several workers that end, one is told yes.
        """
        with self.turn():
            records = self._records()
            busy = any(
                name != self.me and record["state"] in ("working", "closing") and self._is_alive(name, record)
                for name, record in records.items()
            )
            self._record(state="done" if busy else "closing")
        return not busy

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Alone among all workers of the study for the block, which should be short; waits for its turn.

        For what must be decided once: whether an architecture is new, whether the budget allows one more training,
        who takes up an interrupted trial. May be nested. Takes three writes to the storage.
        """
        if self.depth == 0:
            self._take_turn()
        self.depth += 1
        lost = False
        try:
            yield
        except StorageLost:
            lost = True
            raise
        finally:
            self.depth -= 1
            if self.depth == 0 and not lost:
                self._attr(TICKET, NONE)

    def _take_turn(self) -> None:
        self._attr(TICKET, CHOOSING)
        # Somebody who is choosing has no number yet.
        ticket = 1 + max(NONE, max(self._tickets(self.study.user_attrs).values(), default=NONE))
        self._attr(TICKET, ticket)
        pause = SHORTEST_WAIT
        while self._waits_for(ticket):
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT)

    def _waits_for(self, ticket: int) -> bool:
        """Whether somebody alive is choosing a number or has a smaller one."""
        attrs = self.study.user_attrs
        for name, other in self._tickets(attrs).items():
            before = other == CHOOSING or (other, name) < (ticket, self.me)
            if before and RECORD + name in attrs and self._is_alive(name, attrs[RECORD + name]):
                return True
        return False

    def _tickets(self, attrs: Mapping[str, Any]) -> dict[str, int]:
        """The numbers of the others that want a turn."""
        found = {key.removeprefix(TICKET): value for key, value in attrs.items() if key.startswith(TICKET)}
        return {name: ticket for name, ticket in found.items() if ticket != NONE and name != self.me}

    def _records(self) -> dict[str, dict[str, Any]]:
        attrs = self.study.user_attrs
        return {key.removeprefix(RECORD): value for key, value in attrs.items() if key.startswith(RECORD)}

    def _is_alive(self, name: str, record: Mapping[str, Any]) -> bool:
        if record["state"] == "left":
            return False
        if record["machine"] == machine():
            return birth(record["pid"]) == record["born"]
        return self._has_changed(name, record["beat"])

    def _has_changed(self, name: str, beat: int) -> bool:
        """Whether the beat of `name` is new or has changed during our last beats."""
        with self.guard:
            last, at = self.seen.get(name, (None, 0))
            if last != beat:
                self.seen[name] = (beat, self.beats)
                return True
            return self.beats - at < GRACE_BEATS

    def _record(self, *, state: str | None = None, joined: bool = False) -> None:
        with self.guard:
            self.state = state or self.state
            self.joined = joined or self.joined
            record = {
                "machine": machine(),
                "pid": os.getpid(),
                "born": birth(os.getpid()),
                "index": self.index,
                "state": self.state,
                "joined": self.joined,
                "beat": self.beats,
            }
            self._attr(RECORD, record)

    def _attr(self, kind: str, value: Any) -> None:
        self.study.set_user_attr(kind + self.me, value)

    def _beat_on(self) -> None:
        while not self.leaving.wait(self.interval):
            try:
                self._record()
                for name, record in self._records().items():
                    if name != self.me:
                        self._is_alive(name, record)
            except StorageLost:
                return  # the worker itself meets the same error, and says so
            self.beats += 1


def machine() -> str:
    """The machine and the name space of its process numbers, as one word: where a process number means the same."""
    boot, names = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    if boot.exists() and names.is_symlink():
        parts += [boot.read_text(encoding="ascii").strip(), str(names.readlink())]
    return " ".join(parts)


def birth(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot (0 where the system does not tell); None if it is gone.

    A process that has ended and that nobody has waited for is gone. proc(5), /proc/pid/stat, fields 3 and 22.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return _birth_without_proc(pid)
    try:
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _birth_without_proc(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0
