"""Runs a function in a process of its own that is ready at once.

What is measured in a child leaves nothing behind, neither memory nor a broken CUDA context, and a child that the system
kills for want of memory takes nothing with it.

* A fork server holds torch and this package imported; a child is forked from it in milliseconds. The server has no
  threads and never touches a GPU, so that its children may. Processes that train come from it too.
* A child ends with the process that asked for it, and leaves Ctrl-C to that process.
* What goes in and comes out is pickled by value: tensors in shared memory would need the child to live on.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from nas.measure.memory import DoesNotFit

P = ParamSpec("P")
T = TypeVar("T")

# The C library's allocator hands large blocks back to the system as soon as they are free, and every use of the next
# one then faults its pages in again, which costs much or nothing by the luck of the sizes. Servers run allocators that
# keep what they have.
KEEPING_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
# Who measures has the device alone, so its threads may spin from one operator to the next, as a server's do. Not for
# ever, which would make a machine that is busy after all many times slower (scripts/benchmark_waiting.py).
SPINNING = {"GOMP_SPINCOUNT": "20000"}
PRELOADED = ["torch", "torch._dynamo", "nas.measure"]  # the second is loaded late, and takes longest
TRAINING = "nas.training"
RESET_PEAK = "5"  # proc_pid_clear_refs(5): set the peak resident set to what is resident now


class ChildFailed(RuntimeError):
    """The child ended without an answer, and not for want of memory."""


def in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args)` in a child with as many torch threads as here; returns its result or raises its exception.

    function: at the top level of its module; it, its arguments and its result can be pickled. Raises DoesNotFit when
    the child is killed, as the system does when memory runs out, and ChildFailed when it breaks in another way.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    job = pickle.dumps((function, args, kwargs))
    process = started(serve, job, torch.get_num_threads(), theirs)
    theirs.close()
    try:
        answer = ours.recv_bytes()
    except (EOFError, ConnectionResetError):
        process.join()
        raise death(process.exitcode) from None
    finally:
        process.kill()  # nothing to a child that has answered; an interrupted parent wants no answer
        process.join()
        process.close()
        ours.close()
    succeeded, result = pickle.loads(answer)
    if not succeeded:
        raise result
    return result


def started(function: Callable[..., None], *args: Any, name: str | None = None) -> BaseProcess:
    """A process that is at `function(*args)` at once, forked from the server; it ends with this one, and leaves Ctrl-C
    to it.

    function: at the top level of its module; it and its arguments can be pickled. Its environment is that of the first
    process that was started so.
    """
    context = multiprocessing.get_context("forkserver")
    # Who has imported training trains, sooner or later, in children.
    context.set_forkserver_preload([*PRELOADED, *({TRAINING} & sys.modules.keys()), function.__module__])
    process = context.Process(target=live, args=(function, *args), name=name, daemon=True)
    with servers_environment():
        process.start()
    return process


def live(function: Callable[..., None], *args: Any) -> None:
    """The life of a process that was forked from the server."""
    gc.freeze()  # what the server has imported stays: no collection of garbage need look through it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    function(*args)


@contextmanager
def servers_environment() -> Iterator[None]:
    """While on, a process that starts allocates and waits as servers do; the fork server reads it, which starts once.

    A policy of waiting that the user has set stays.
    """
    wanted = KEEPING_MEMORY | ({} if "OMP_WAIT_POLICY" in os.environ else SPINNING)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def death(exit_code: int | None) -> Exception:
    """What to raise for a child that ended without an answer."""
    if exit_code == -signal.SIGKILL:
        return DoesNotFit("The measuring process was killed, as the system does when memory runs out.")
    how = f"signal {-exit_code}" if exit_code and exit_code < 0 else f"code {exit_code}"
    return ChildFailed(f"The measuring process ended with {how} and without an answer; see its output above.")


def serve(job: bytes, threads: int, pipe: Connection) -> None:
    """One function, one answer."""
    torch.set_num_threads(threads)
    try:
        function, args, kwargs = pickle.loads(job)
        answer = pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:
        answer = pickled_error(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with suppress(BrokenPipeError):  # who asked is gone, interrupted before it could end this process
        pipe.send_bytes(answer)


def die_with_parent() -> None:
    """The parent is not the fork server but who asked it; the kernel tells of its end through a pipe alone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def pickled_error(error: Exception) -> bytes:
    """The answer of a child that failed. An error that cannot be pickled there and back becomes a ChildFailed."""
    error.add_note("In the child:\n" + "".join(traceback.format_exception(error)))
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
    except Exception:
        return pickle.dumps((False, ChildFailed(f"{type(error).__name__}: {error}")))
    return answer


def resident_peak_bytes(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, int | None]:
    """The result of `function(*args)` in a child, and how many bytes the child's resident set grew at its peak.

    Whatever allocates is in it, scratch space of libraries too, but no pages of program code, which are only read on
    first use. To about a megabyte; None where the system does not say (anywhere but on Linux).
    """
    return in_child(with_resident_peak, function, args, kwargs)


def with_resident_peak(function: Callable[..., T], args: tuple, kwargs: dict) -> tuple[T, int | None]:
    """As `resident_peak_bytes`, in the process that calls it."""
    # The first operator starts the threads and reserves the libraries' space, whatever is measured.
    torch.mm(torch.ones(256, 256), torch.ones(256, 256))
    before = resident() if reset_peak() else None
    result = function(*args, **kwargs)
    if before is None:
        return result, None
    after = resident()
    code = after["RssFile"] - before["RssFile"]
    return result, max(0, after["VmHWM"] - before["VmRSS"] - code)


def reset_peak() -> bool:
    """Whether the system could be asked to watch the peak anew."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def resident() -> dict[str, int]:
    """Bytes of this process by the kernel's names: VmRSS now, VmHWM at the peak, RssFile mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.endswith(" kB")
    }
