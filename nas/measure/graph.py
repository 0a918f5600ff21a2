"""A call as a CUDA graph: recorded once, replayed without Python and without one launch after another.

Serving engines decode this way, and a small step launched from Python takes several times as long as its kernels. Both
times are worth knowing, so a replay is a call like any other and is timed beside the first.
"""

from collections.abc import Callable

import torch

WARM_UP_CALLS = 3  # kernels are compiled and libraries find their work space before they are recorded


class CannotCapture(Exception):
    """The call cannot be a graph. The message says why, in a few words."""


def capture(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A function that replays on the current stream what `call()` launches on the GPU `device`.

    call: reads and writes the same tensors every time and never waits for the GPU; what it decides in Python is decided
    once. It lives as long as the replay, with the tensors that it holds. Raises CannotCapture, also on a CPU, and
    leaves running out of memory as the error it is.
    """
    if device.type != "cuda":
        raise CannotCapture(f"graphs are recorded on a GPU, not on {device.type}")
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                call()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do on the GPU meanwhile is no part of the graph and must not break it.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.synchronize(device)
            raise CannotCapture(first_reason(error)) from None
    return Replay(graph, call)


class Replay:
    """Replays a graph; keeps the call, whose tensors the graph reads by address."""

    def __init__(self, graph: torch.cuda.CUDAGraph, call: Callable[[], object]) -> None:
        self.graph = graph
        self.call = call

    def __call__(self) -> None:
        self.graph.replay()


def first_reason(error: BaseException) -> str:
    """The first line of the error that came first: leaving a broken recording raises another one after it."""
    while error.__context__ is not None:
        error = error.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
