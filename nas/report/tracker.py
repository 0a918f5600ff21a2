"""Weights & Biases: one run for the study, one for each trial that was trained, grouped by the study's name.

* Offline unless an API key is there; the same code syncs then. `wandb sync` sends what was kept offline.
* Everything of W&B happens in a thread of its own, so that a slow network never holds up training. The first failure is
  reported in one line and ends the tracking, never the search.
* The study's run has an identity that is kept in its folder: a resumed search continues the same run.
* Each further worker of a study has a run of its own in the same group.
"""

import hashlib
import json
import netrc
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args
from urllib.parse import urlparse

from nas.architecture import Architecture, diagram, did_you_mean, to_yaml
from nas.report.errors import ReportError
from nas.report.numbers import members, value_names
from nas.report.sources import labelled, source_label
from nas.study.rows import Row, StudyResult

Mode = Literal["auto", "offline", "online", "disabled"]
MODE_VARIABLE = "WANDB_MODE"
RUN_ID_FILE = "run_id.json"
POINTS_PER_CURVE = 200
SECONDS_TO_START = 30.0
SECONDS_TO_FINISH = 120.0


@dataclass(frozen=True, kw_only=True)
class TrackerSettings:
    """`mode` is `auto`, `offline`, `online` or `disabled`.

    `auto` is what WANDB_MODE says; where it is not set, online with an API key and offline without.
    """

    mode: Mode = "auto"
    project: str = "hybrid-nas"
    entity: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TrackerSettings":
        """Raises ReportError for an unknown field or mode."""
        for name in config:
            if name not in cls.__dataclass_fields__:
                raise ReportError(f"tracker has no field {name!r}. {did_you_mean(name, cls.__dataclass_fields__)}")
        mode = config.get("mode", "auto")
        if mode not in get_args(Mode):
            raise ReportError(f"tracker.mode is {mode!r}. {did_you_mean(mode, get_args(Mode))}")
        return cls(**config)

    def resolved_mode(self) -> Literal["offline", "online", "disabled"]:
        """What `auto` comes to.

        Raises ReportError for `online` without a key (W&B would ask for one and wait), and for a WANDB_MODE that is
        none of the modes.
        """
        mode, source = self.mode, "tracker.mode"
        if mode == "auto" and os.environ.get(MODE_VARIABLE):
            mode, source = mode_of_environment(), MODE_VARIABLE
        if mode == "auto":
            return "online" if has_api_key() else "offline"
        if mode == "online" and not has_api_key():
            raise ReportError(
                f"{source}=online needs an API key, but there is none in WANDB_API_KEY or netrc; run `wandb login`, "
                f"or use {source}=offline."
            )
        return mode


def mode_of_environment() -> Literal["offline", "online", "disabled"]:
    """The mode that WANDB_MODE names; W&B's older words for two of them count too."""
    given = os.environ[MODE_VARIABLE]
    word = {"dryrun": "offline", "run": "online"}.get(given.lower(), given.lower())
    for mode in ("offline", "online", "disabled"):
        if word == mode:
            return mode
    raise ReportError(
        f"{MODE_VARIABLE} is {given!r}. {did_you_mean(word, ('offline', 'online', 'disabled'))} Or set tracker.mode=..."
    )


def has_api_key() -> bool:
    """Whether W&B finds a key: in WANDB_API_KEY, or in the netrc file for the host of WANDB_BASE_URL."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return host is not None and netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Tracker:
    """Watches a study (`nas.study.events.Observer`) and tells W&B. A context manager; leaving it ends the runs.

    `settings` are the fields of TrackerSettings; `definition` becomes the study run's config. `worker` tells the runs
    of several workers apart, and is empty for the first.
    """

    def __init__(
        self,
        study: str,
        directory: Path,
        settings: Mapping[str, Any],
        definition: Mapping[str, Any],
        *,
        worker: str = "",
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = TrackerSettings.from_config(settings)
        self.mode = self.settings.resolved_mode()
        self.study = study
        self.directory = directory
        self.definition = dict(definition)
        self.suffix = f"-worker-{worker}" if worker else ""
        self.report = report or _print_to_stderr
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.may_work = threading.Event()
        self.may_work.set()
        self.failed = False
        self.study_run: Any = None
        self.seconds = 0.0

    def __enter__(self) -> "Tracker":
        if self.mode != "disabled":
            self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self.thread.start()
            self.jobs.put(self._open_study)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.thread is None:
            return
        code = 0 if kind is None else 1
        self.may_work.set()
        self.jobs.put(lambda: self._close_study(code))
        self.jobs.put(None)
        self.thread.join(SECONDS_TO_FINISH)
        if self.thread.is_alive():
            self.report(f"W&B did not finish within {SECONDS_TO_FINISH:.0f} s; `wandb sync` can send the rest.")

    def trial_started(self, number: int, architecture: Architecture, origin: str, done: int, total: int) -> None:
        self.curves = {}

    def stage_started(self, stage: str) -> None:
        """Nothing is sent while latency is measured: it would be felt. What waits is sent during training."""
        if stage == "measure":
            self.may_work.clear()
        else:
            self.may_work.set()

    def step(self, task: str, step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // POINTS_PER_CURVE) == 0 or step == steps:
            self.curves.setdefault(task, []).append((step, loss))

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        self.may_work.set()
        if self.thread is None:
            return
        curves = self.curves
        if row.state == "complete":
            self.jobs.put(lambda: self._log_trial(row, curves))
        self.jobs.put(lambda: self._log_study({"trained": done, "trials": row.number + 1, "front_size": len(front)}))

    def message(self, text: str) -> None:
        """Messages are for the person at the terminal."""

    def finish(self, result: StudyResult, files: Sequence[Path] = ()) -> None:
        """Give the study's run its front table, its picture (a PNG among `files`) and its summary."""
        if self.thread is not None:
            pictures = [path for path in files if path.suffix == ".png"]
            self.jobs.put(lambda: self._log_result(result, pictures))

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.may_work.wait()
            if self.failed:
                continue
            began = time.perf_counter()
            try:
                job()
            except Exception as error:  # W&B raises many kinds; none may end a search
                self.failed = True
                self.report(f"W&B tracking stopped: {' '.join(str(error).split()) or type(error).__name__}")
            self.seconds += time.perf_counter() - began

    def _start(self, *, run_id: str, name: str, job_type: str, config: Mapping[str, Any]) -> Any:
        import wandb

        (self.directory / "wandb").mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.settings.project,
            entity=self.settings.entity,
            group=self.study,
            job_type=job_type,
            id=run_id,
            name=name,
            config=dict(config),
            dir=str(self.directory),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                mode="offline" if self.mode == "offline" else "online",
                silent=True,
                console="off",
                init_timeout=SECONDS_TO_START,
                disable_git=True,
                save_code=False,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_save_requirements=False,
            ),
        )

    def _open_study(self) -> None:
        self.study_run = self._start(
            run_id=study_run_id(self.directory, self.study) + self.suffix,
            name=self.study + self.suffix,
            job_type="study",
            config=self.definition,
        )

    def _close_study(self, code: int) -> None:
        self.study_run.finish(exit_code=code)

    def _log_study(self, numbers: Mapping[str, float]) -> None:
        self.study_run.log(dict(numbers))

    def _log_trial(self, row: Row, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        config = {
            "number": row.number,
            "id": row.id,
            "origin": row.origin,
            "pattern": diagram(row.architecture),
            "seed": row.seed,
            "architecture": to_yaml(row.architecture),
        }
        run_id = f"{study_run_id(self.directory, self.study)}-{row.number}"
        run = self._start(run_id=run_id, name=f"{self.study}-{row.number}", job_type="trial", config=config)
        for task in curves:
            run.define_metric(f"{task}/loss", step_metric=f"{task}/step")
        for task, points in curves.items():
            for step, loss in points:
                run.log({f"{task}/step": step, f"{task}/loss": loss})
        # A number that was not measured has a name of its own: W&B would draw it among measured ones of other studies.
        run.summary.update({labelled(name, source_label([m])): m.value for name, m in row.values.items()})
        run.summary.update({f"seconds/{stage}": seconds for stage, seconds in row.seconds.items()})
        run.finish()

    def _log_result(self, result: StudyResult, pictures: Sequence[Path]) -> None:
        import wandb

        rows = members(result)
        names = value_names(rows, ())
        columns: list[str | int] = ["number", "id", "pattern", "origin", "on_front", "meets_requirements"]
        columns += [] if result.robust is None else ["robust"]
        columns += [labelled(name, source_label(r.values[name] for r in rows if name in r.values)) for name in names]
        table = wandb.Table(columns=columns)
        for row in rows:
            found = [row.values[name].value if name in row.values else None for name in names]
            flags = [row.number in result.front, row.number in result.front_required]
            flags += [] if result.robust is None else [row.number in result.robust]
            table.add_data(row.number, row.id, diagram(row.architecture), row.origin, *flags, *found)
        images = {path.stem + "_plot": wandb.Image(str(path)) for path in pictures}
        self.study_run.log({"front": table, **images})
        self.study_run.summary.update(
            {
                "front_size": len(result.front),
                "front_size_required": len(result.front_required),
                "hypervolume": result.hypervolume,
                "seconds": result.seconds,
                "tool_seconds": result.tool_seconds,
                **{f"noise/{floor.name}": floor.sd for floor in result.noise},
            }
        )


def study_run_id(directory: Path, study: str) -> str:
    """The study run's identity from its name and the time of its first tracking, kept in its folder."""
    path = directory / "wandb" / RUN_ID_FILE
    if not path.exists():
        created = time.time_ns()
        run_id = hashlib.sha256(f"{study} {created}".encode()).hexdigest()[:12]
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f".{run_id}-{secrets.token_hex(4)}.json")
        own.write_text(json.dumps({"id": run_id, "study": study, "created_ns": created}), encoding="utf-8")
        with suppress(FileExistsError):  # of workers that start together, the first decides
            path.hardlink_to(own)
        own.unlink()
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
