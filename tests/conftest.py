"""Settings that must hold before the first kernel is imported, in every test process."""

import gc
import os
import signal

# Triton reads this when a kernel is decorated. With it, kernels run on CPU tensors; tests that compile for a GPU start
# a process of their own without it.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Test processes share the cores: one thread each is a tenth cheaper, and who wants more does not wait by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that starts a process in the background lets it ignore Ctrl-C, and its children inherit that; the tests of
# Ctrl-C need it answered.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--samples", type=int, default=200, help="random samples of the search spaces that the contract is held over"
    )


def pytest_collection_finish():
    """What is imported by now stays to the end; a collection of garbage need not look through it, which takes half a
    second."""
    gc.collect()
    gc.freeze()
