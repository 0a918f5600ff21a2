"""Calls in processes that may crash, hang or lose their GPU without taking the caller with them.

A wrong launch can read memory that is not its own, which ends every later call on the GPU in that process; a compiler
can abort. Here such a call is one failed call: the process is replaced before the next. A worker is otherwise kept, so
that imports, compiled kernels and inputs are paid for once.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

_starting = threading.Lock()  # the environment is that of the whole process


class CallFailed(Exception):
    """The call raised, crashed its process or took too long; the message says which, in a few words."""


class Worker:
    """One process that runs one call after the other, started at the first and replaced after a failure."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], *, seconds: float) -> Any:
        """function(*arguments) in the process; both must be picklable. Raises CallFailed."""
        connection = self._connection or self._start()
        try:
            connection.send((function, tuple(arguments)))
            if not connection.poll(seconds):
                self.close()
                raise CallFailed(f"not done after {seconds:g} seconds")
            value, failure, is_lost = connection.recv()
        except (EOFError, ConnectionError):
            code = self._exit_code()
            self.close()
            raise CallFailed(f"the process crashed ({code})") from None
        if is_lost:
            self.close()
        if failure is not None:
            raise CallFailed(failure)
        return value

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def interrupt(self) -> None:
        """Make a call that another thread waits for fail at once."""
        if self._process is not None:
            self._process.kill()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        # A new process imports the caller's script before it runs anything, and Triton reads its settings at import.
        with _starting, _changed_environment(self._environment):
            process.start()
        theirs.close()
        self._process, self._connection = process, ours
        return ours

    def _exit_code(self) -> str:
        assert self._process is not None
        self._process.join(60)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


class WorkerPool:
    """Several workers that share a list of calls. `environment` is set in each before it imports anything."""

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        self._workers = [Worker(environment) for _ in range(count)]

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], *, seconds: float) -> Any:
        """One call, on the first worker. Raises CallFailed."""
        return self._workers[0].call(function, arguments, seconds=seconds)

    def map(
        self, function: Callable[..., Any], calls: Sequence[Sequence[Any]], *, seconds: float
    ) -> list[Any | CallFailed]:
        """The value of each call, or what made it fail; in the order of `calls`, each within `seconds`."""
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def one(arguments: Sequence[Any]) -> Any | CallFailed:
            worker = free.get()
            try:
                return worker.call(function, arguments, seconds=seconds)
            except CallFailed as failure:
                return failure
            finally:
                free.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            futures = [threads.submit(one, arguments) for arguments in calls]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # Such as Ctrl-C: calls under way end with their processes, the others never begin.
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in self._workers:
                    worker.interrupt()
                raise

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(connection: Connection) -> None:
    # Ctrl-C reaches the whole group; the caller answers it and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (function(*arguments), None, False)
        except Exception as problem:  # any: it is handed to the caller
            text = (str(problem).strip() or "no message").splitlines()[0]
            # After such an error the GPU answers this process no more.
            is_lost = "CUDA error" in text or "illegal memory access" in text
            answer = (None, f"{type(problem).__name__}: {text}", is_lost)
        connection.send(answer)
