"""Workers in processes of their own that only decide together: what each asked for, and who may work on it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2, canonical_id
from nas.measure.child import started
from nas.measurement import Measurement
from nas.objectives import parse_objectives
from nas.study.crew import Crew
from nas.study.rows import Row
from nas.study.storage.studies import open_study
from nas.study.trials import note_row, note_start
from tests.patience import PATIENCE, exit_codes

OBJECTIVES = parse_objectives(["text_loss", "decode_latency_ms"])
ADMITTED = "admitted"
PARTS = {"a": Attention(num_heads=2, head_dim=16), "m": Mamba2(num_heads=2, head_dim=16)}


def space(trial: Any, layers: int) -> Architecture:
    names = [trial.suggest_categorical(f"layers.{i}", ["a", "m"]) for i in range(layers)]
    blocks = tuple(Block(mixer=PARTS[name], ffn=Glu(d_ff=64)) for name in names)
    return Architecture(name="".join(names), d_model=32, vocab_size=256, blocks=blocks)


def open_toy(directory: Path, storage: str | None = None, seed: int = 0) -> Any:
    return open_study(directory, "crew", OBJECTIVES, {"space": "toy"}, RandomSampler(seed=seed), storage=storage)


def work(directory: Path, index: int, options: Mapping[str, Any]) -> None:
    work_on(directory, index, **options)


def work_on(
    directory: Path,
    index: int,
    *,
    total: int,
    storage: str | None = None,
    seconds: float = 0.01,
    layers: int = 6,
    kills_at: int,
    gate: Any,
) -> None:
    """One worker, until `total` architectures are worked on. All begin together, and all end one before any goes on.

    gate: a barrier of all workers. It kills itself while it works on its `kills_at`th.
    """
    study = open_toy(directory, storage, seed=index)
    with Crew(study, index=index, interval=0.2) as crew:
        mine = 0
        gate.wait(PATIENCE)
        while True:
            crew.requeue()
            trial = study.ask()
            crew.claim(trial)
            architecture = space(trial, layers)
            origin = note_start(trial, architecture)
            identity = canonical_id(architecture)
            with crew.turn():
                others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE))
                admitted = [t.user_attrs[ADMITTED] for t in others if ADMITTED in t.user_attrs]
                if len(admitted) < total and identity not in admitted:
                    trial.set_user_attr(ADMITTED, identity)
            full, state = len(admitted) >= total, "duplicate" if identity in admitted else "complete"
            if full or state == "duplicate":
                study.tell(trial, state=TrialState.PRUNED)
                if full and all(t.state == TrialState.COMPLETE for t in others if ADMITTED in t.user_attrs):
                    break
                time.sleep(0.05 if full else 0)
                continue
            if mine == kills_at:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(seconds)
            mine += 1
            note_row(trial, row(trial.number, architecture, origin))
            study.tell(trial, [1.0, 2.0])
            if mine == 1:
                gate.wait(PATIENCE)
        study.set_user_attr(f"last:{index}", crew.is_last())


def row(number: int, architecture: Architecture, origin: str) -> Row:
    values = {
        "text_loss": Measurement.exact(1.0, "bits/byte"),
        "decode_latency_ms": Measurement.exact(2.0, "ms"),
    }
    return Row(
        number=number,
        id=canonical_id(architecture),
        state="complete",
        reason=None,
        origin=origin,
        architecture=architecture,
        deployed=None,
        values=values,
    )


def run_workers(directory: Path, count: int, **options: Any) -> list[int | None]:
    """Exit codes of `count` workers of one study, each in a new process; `kills_at` concerns the first alone.

    Each ends at least one of the `total`, which must be as many at least.
    """
    gate = multiprocessing.get_context("forkserver").Barrier(count)
    kills_at = options.pop("kills_at", -1)
    processes: list[BaseProcess] = []
    for index in range(count):
        own = {**options, "gate": gate, "kills_at": kills_at if index == 0 else -1}
        processes.append(started(work, directory, index, own))
    return exit_codes(processes)


def check_study(study: Any, total: int) -> None:
    """No architecture twice, none lost, the total respected, nothing left running, and one worker was the last."""
    states = [trial.state for trial in study.trials]
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    identities = [trial.user_attrs[ADMITTED] for trial in complete]
    assert len(identities) == len(set(identities)) == total
    assert all("row" in trial.user_attrs for trial in complete)
    assert TrialState.RUNNING not in states
    assert sum(value for key, value in study.user_attrs.items() if key.startswith("last:")) == 1
