"""Training on several devices with one of Lightning's strategies, from within a process that goes on with other things.

The ranks are processes of a program of their own (nas/training/ranks.py): Lightning starts them by running the command
again, and the command of a search is not to be run again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nas.training.errors import NonFiniteLoss

if TYPE_CHECKING:
    from nas.model import Model
    from nas.training.result import TrainResult

REQUEST, RESULT, ERROR = "request.pt", "result.pt", "error.json"
PROGRESS = "step "
LINES_KEPT = 20


def fit_on_several(
    model: Model, request: dict[str, Any], on_step: Callable[[int, int, float], None] | None
) -> TrainResult:
    """Train `model` in place. request: the other arguments of `nas.training.fit.fit_here`.

    Raises NonFiniteLoss, RuntimeError with the last words of ranks that died, and whatever `on_step` raises, after
    which no rank is left.
    """
    import torch

    with TemporaryDirectory() as name:
        folder = Path(name)
        torch.save({"model": model, **request}, folder / REQUEST)
        command = [sys.executable, "-m", "nas.training.ranks", str(folder)]
        root = Path(__file__).resolve().parents[2]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        ranks = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said = follow(ranks, on_step)
        finally:
            if ranks.poll() is None:
                os.killpg(ranks.pid, signal.SIGKILL)
                ranks.wait()
            if ranks.stdout is not None:
                ranks.stdout.close()
        if ranks.returncode != 0 or not (folder / RESULT).exists():
            raise failure(folder / ERROR, said)
        found = torch.load(folder / RESULT, weights_only=False)
    model.load_state_dict(found["weights"])
    return found["result"]


def follow(ranks: subprocess.Popen[str], on_step: Callable[[int, int, float], None] | None) -> list[str]:
    """Pass on the progress until the ranks are done; the last other lines that they said."""
    said: deque[str] = deque(maxlen=LINES_KEPT)
    assert ranks.stdout is not None
    for line in ranks.stdout:
        if not line.startswith(PROGRESS):
            said.append(line.rstrip())
        elif on_step is not None:
            step, steps, loss = json.loads(line.removeprefix(PROGRESS))
            on_step(step, steps, loss)
    ranks.wait()
    return list(said)


def failure(path: Path, said: list[str]) -> Exception:
    """What ended the ranks, as the exception that a training on one device raises."""
    if not path.exists():
        return RuntimeError(f"training on several devices broke: {said[-1] if said else 'nothing was said'}")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["kind"] == NonFiniteLoss.__name__:
        return NonFiniteLoss(facts["step"], facts["loss"])
    return RuntimeError(f"training on several devices broke: {facts['kind']}: {facts['text']}")
