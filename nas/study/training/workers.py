"""Trains the tasks of a candidate side by side, each in a process of its own.

Proxies for a CPU are small: two threads on one of them are hardly faster than one, two processes on two are twice as
fast. A worker lives as long as the run. It comes from the server of the processes that measure, which has all imported.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

import torch

from nas.measure.child import started
from nas.study.candidate import TaskFailed
from nas.study.training.outcomes import Outcome
from nas.study.training.task_training import Job, OnStep, TaskTrainer, too_long
from nas.study.training.watch import LENIENCE

MESSAGES_PER_TASK = 200
READY = "ready"


class Workers:
    """One process for each trainer. A context manager; leaving it ends the processes.

    `train` sends one job to all of them and waits for every outcome.
    """

    def __init__(self, trainers: Mapping[str, TaskTrainer]) -> None:
        self.trainers = dict(trainers)
        self.threads = max(1, torch.get_num_threads() // max(1, len(trainers)))
        self.pipes: dict[str, Connection] = {}
        self.processes: dict[str, BaseProcess] = {}

    def __enter__(self) -> "Workers":
        for name in self.trainers:
            self._start(name)
        # Importing keeps the cores busy, and the first measurement must not feel that.
        for pipe in self.pipes.values():
            pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()
        self.processes.clear()

    def train(self, job: Job, on_step: Callable[[str, int, int, float], None]) -> dict[str, Outcome]:
        """Outcomes by task. Raises TaskFailed for a task that breaks, after all have ended."""
        ended = dict(self.attempt(dict.fromkeys(self.trainers, job), on_step))
        outcomes: dict[str, Outcome] = {}
        for name in self.trainers:
            end = ended[name]
            if isinstance(end, str):
                raise TaskFailed(end)
            outcomes[name] = end
        return outcomes

    def attempt(
        self, jobs: Mapping[str, Job], on_step: Callable[[str, int, int, float], None]
    ) -> Iterator[tuple[str, Outcome | str]]:
        """Train the tasks that have a job; as each ends, its outcome, or the reason why it broke."""
        try:
            yield from self._attempt(jobs, on_step)
        except BaseException:
            # An answer that nobody waited for must not be taken for that of the next job.
            self.__exit__(None, None, None)
            raise

    def _attempt(
        self, jobs: Mapping[str, Job], on_step: Callable[[str, int, int, float], None]
    ) -> Iterator[tuple[str, Outcome | str]]:
        for name in self.trainers:
            if name not in self.processes or not self.processes[name].is_alive():
                self._start(name)
                self.pipes[name].recv()
        for name, job in jobs.items():
            self.pipes[name].send(job)
        waiting = {self.pipes[name]: name for name in jobs}
        # A worker gives up by itself between two steps; one that hangs within a step is killed.
        allowed = max(math.inf if job.seconds is None else job.seconds for job in jobs.values())
        deadline = time.monotonic() + LENIENCE * allowed
        while waiting:
            ready = wait(list(waiting), None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
            if not ready:
                self.__exit__(None, None, None)
                names = sorted(waiting.values())
                reason = too_long(f"training {' and '.join(names)}", allowed)
                yield from dict.fromkeys(names, f"TookTooLong: {reason}").items()
                return
            for pipe in ready:
                assert isinstance(pipe, Connection)
                name = waiting[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionResetError):
                    self.processes[name].join()
                    code = self.processes[name].exitcode
                    message = f"the process that trained {name} ended with code {code} (out of memory?)"
                if isinstance(message, tuple):
                    on_step(name, *message)
                    continue
                del waiting[pipe]
                yield name, message

    def _start(self, name: str) -> None:
        self.pipes[name], theirs = multiprocessing.Pipe()
        self.processes[name] = started(serve, self.trainers[name], theirs, self.threads, name=f"train-{name}")
        theirs.close()


def serve(trainer: TaskTrainer, pipe: Connection, threads: int) -> None:
    """What a worker does: train what is asked for."""
    torch.set_num_threads(threads)
    pipe.send(READY)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(trainer(job, _sender(pipe)))
        except Exception as error:
            lines = str(error).strip().splitlines()
            pipe.send(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")


def _sender(pipe: Connection) -> OnStep:
    """Tells the parent of some of the steps: enough for a display, too few to matter."""

    def on_step(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // MESSAGES_PER_TASK) == 0 or step in (1, steps):
            pipe.send((step, steps, loss))

    return on_step
