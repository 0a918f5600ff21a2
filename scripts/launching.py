"""What `search.py` does differently as one of several workers that a Hydra launcher started (`-m worker='range(0,8)'`).

A launcher carries a worker's error back to the command that started it, so a worker raises where a single run exits.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.types import RunMode

from scripts.command_line import CONF, UserError, is_user_error, speaking_to_users

MULTIRUN = ("-m", "--multirun")


def is_launched() -> bool:
    """Whether this process runs one of several jobs of a launcher. To be asked within the Hydra command."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def speaking() -> AbstractContextManager[None]:
    """Around the body of the command: one sentence and an exit code, or for a worker an error that can travel."""
    stop_like_control_c()
    return speaking_to_launcher() if is_launched() else speaking_to_users()


@contextmanager
def speaking_to_launcher() -> Iterator[None]:
    """Print a user error when it happens, because the others may work for hours yet, and raise it as a UserError."""
    try:
        yield
    except Exception as error:
        if not is_user_error(error):
            raise
        print(f"a worker stopped: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        raise UserError(str(error)) from None


def stop_like_control_c() -> None:
    """A scheduler's SIGTERM interrupts as Ctrl-C does, so that the trial is known to be interrupted, not deadly."""
    at_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if at_default and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def prepare_launch(arguments: Sequence[str]) -> None:
    """Check what only the launching command can see: raises UserError where `worker` names nobody.

    Sets what workers inherit: where this project lies, which a checkout that is not installed does not tell them; and
    that Ray does not hide all GPUs from a job that asked for none, because ours find a free one by themselves.
    """
    if not any(argument in MULTIRUN for argument in arguments):
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    given = [argument for argument in arguments if argument.startswith("worker=")]
    try:
        overrides = OverridesParser.create().parse_overrides(given)
    except OverrideParseException:
        return  # Hydra meets it again, and its error is explained there
    for override in overrides:
        if override.is_sweep_override() and not list(override.sweep_string_iterator()):
            raise UserError(f"There must be at least one worker, but {override.input_line} names none; try worker=0,1.")
