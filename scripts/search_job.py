"""The wiring of one search: rooms that do not know each other meet here."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from nas.report import Progress, Tracker, check_ready, print_summary
from nas.study.bars import Bars
from nas.study.beginning.bring_over import bring_version_over
from nas.study.beginning.warm_start import warm_start
from nas.study.candidate import CannotGoOn, Evaluator
from nas.study.crew import Crew
from nas.study.events import Observer, Watchers
from nas.study.gpu_claim import claimed_gpus
from nas.study.loop import Loop
from nas.study.noise import stored_floors
from nas.study.rows import NoiseFloor, StudyResult
from nas.study.samplers import check_sampler, make_sampler, prior_from
from nas.study.storage.connect import shown as shown_url
from nas.study.storage.studies import Study, close_study, earlier_version, make_folder, open_study, tell_of_storage
from nas.study.training.evaluator import forget, open_evaluator
from nas.study.trials import enqueue_references
from nas.tasks import cache_folder, task_configs
from scripts.baseline import OutOfReach, refuse_excluded_baseline, tell_of_baseline
from scripts.command_line import write_config
from scripts.confirm import confirm_at_end
from scripts.search_result import TrialsTable, make_result, measured_on, shown, write_files, writing
from scripts.settings import SearchSettings

APART = 10_007  # between the seeds of two workers, more than a study has trials


def run_search(settings: SearchSettings, *, start: float) -> StudyResult | None:
    """Run or resume a study to its budget as one of its workers; the last one writes the files and prints the fronts.

    start: `time.perf_counter()` when the process began, so that the tool's own time counts from there. Returns None for
    a worker that ends while others go on.
    """
    directory = settings.directory
    with ExitStack() as stack:
        study, crew, definition = join_study(settings, stack)
        for task in settings.tasks.values():
            task.prepare()
        references = settings.space.references(settings.designs)
        with crew.turn():
            began_with = begin(study, settings)
            enqueue_references(study, references)
        requeued = crew.requeue()
        evaluator = stack.enter_context(
            open_evaluator(
                settings.tasks,
                settings.recipes,
                settings.deployment,
                settings.parameters,
                task_configs(settings.config["task"]),
                device=settings.device,
                tables=cache_folder() / "tables",
                checkpoints=directory / "checkpoints",
                trial_seconds=None if settings.trial_minutes is None else 60 * settings.trial_minutes,
                devices=settings.devices_per_trial,
                strategy=settings.strategy,
            )
        )
        tracker = Tracker(settings.study, directory, settings.tracker, definition, worker=crew.label)
        loop = make_loop(settings, study, crew, evaluator)
        refuse_excluded_baseline(loop.bars, evaluator, settings.space, references)
        evaluator.on_hang = loop.give_up
        progress = stack.enter_context(Progress(shown(settings), rows=loop.rows, front=loop.bars.fronts(loop.rows)[0]))
        with tracker:
            table = TrialsTable(directory / "trials.csv", shown(settings), loop)
            loop.observer = Watchers([progress, tracker, table, OutOfReach(loop.bars, loop.rows, progress)])
            tell_of_storage(study, progress.message)
            announce(settings, loop.bars, [name for name, _ in references], requeued, progress)
            for sentence in began_with:
                progress.message(sentence)
            announce_worker(settings, crew, progress)
            loop.run()
            if not crew.is_last():
                progress.message(f"worker {settings.worker} is done; {len(crew.others())} go on, the last one reports")
                return None
            loop.confirm()
            report_unjudged(loop, progress)
            noise = measure_noise(settings, loop)
            forget(directory / "checkpoints")
            result = make_result(settings, loop, noise, evaluator.meter.describe(), start)
            files = write_files(directory, result, settings, loop)
            tracker.finish(result, files)
        # The page and the W&B runs are written: their time counts as the tool's own.
        seconds = time.perf_counter() - start
        result = replace(result, seconds=seconds, tool_seconds=seconds - loop.work_seconds)
        requirements = loop.bars.applicable(loop.rows)
        print_summary(result, settings.objectives, requirements, progress.console, files=files)
        if settings.confirm_seeds:
            confirm_at_end(settings, loop, evaluator, progress)
        return result


def join_study(settings: SearchSettings, stack: ExitStack) -> tuple[Study, Crew, dict[str, Any]]:
    """The study with its sampler, this worker's place in its crew, and the definition; closing `stack` leaves them."""
    directory = settings.directory
    check_sampler(settings.sampler)
    prior = prior_from(settings.priors, settings.space.weighed_as)
    make_folder(directory)
    check_ready(directory, settings.tracker)
    # Before anything asks torch for a device.
    stack.enter_context(claimed_gpus(settings.device, settings.workers_per_gpu, settings.devices_per_trial))
    # A name such as `auto` may be another device when the study is taken up again.
    definition = settings.definition | {"measured on": measured_on(settings.deployment)}
    study = open_study(directory, settings.study, settings.objectives, definition, None, storage=settings.storage)
    stack.callback(close_study, study)
    crew = stack.enter_context(Crew(study, index=settings.worker))
    with writing(directory):
        write_config(directory, without_password(settings.config))
    study.sampler = make_sampler(
        settings.sampler,
        space=settings.space,
        prior=prior,
        seed=settings.seed,
        trials=settings.trials,
        # Workers that start together must not propose the same.
        already_sampled=len(study.get_trials(deepcopy=False)) + APART * crew.rank,
    )
    return study, crew, definition


def begin(study: Study, settings: SearchSettings) -> list[str]:
    """Bring over what an earlier version and the studies to learn from know; sentences on it for the user."""
    said = []
    earlier = earlier_version(study, settings.study)
    if earlier is not None and (count := bring_version_over(study, earlier, settings.space)):
        said.append(f"the space has grown: {study.study_name} goes on with {count} trials of {earlier.study_name}")
    return said + warm_start(study, settings.space, settings.objectives, settings.earlier, settings.warm_designs)


def without_password(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it may be written down."""
    return {**config, "storage": None if config["storage"] is None else shown_url(config["storage"])}


def make_loop(settings: SearchSettings, study: Study, crew: Crew, evaluator: Evaluator) -> Loop:
    """The run loop of a search; whoever runs it sets its observer."""
    return Loop(
        study=study,
        crew=crew,
        space=settings.space,
        evaluator=evaluator,
        bars=Bars(
            objectives=settings.objectives,
            requirements=settings.requirements,
            limits=settings.limits,
            reference=settings.baseline,
        ),
        observer=Watchers([]),
        directory=settings.directory,
        trials=settings.trials,
        seed=settings.seed,
        patience=settings.patience,
        fidelity=settings.fidelity,
        noise_seeds=settings.noise_seeds,
    )


def announce(
    settings: SearchSettings, bars: Bars, references: Sequence[str], requeued: int, progress: Observer
) -> None:
    """What a user should know before the first trial."""
    placed = ", ".join(references) or "none"
    progress.message(f"study {settings.study} in {settings.directory}; reference designs in this space: {placed}")
    for name, task in settings.tasks.items():
        progress.message(f"task {name}: {task.describe()}")
    for design in settings.designs:
        if design.name not in references:
            progress.message(f"the design {design.name} does not lie in this space or coincides with another")
    tell_of_baseline(bars, settings.designs[0].name, references, progress)
    if requeued:
        progress.message(f"{requeued} interrupted trials are taken up again")
    for requirement in settings.ignored_requirements:
        progress.message(f"require.{requirement.name} is not applied: no task of this run scores it")
    for name in settings.no_signal:
        progress.message(
            f"{name} does not tell designs apart at this budget (budget.no_signal, docs/benchmarks/signal.md): what it "
            "sorts or rejects, luck does; choose a larger budget or leave it out"
        )


def announce_worker(settings: SearchSettings, crew: Crew, progress: Observer) -> None:
    """Which worker this is, where it is not the only one."""
    others = crew.others()
    if others or settings.worker:
        progress.message(f"this is worker {settings.worker}; {len(others)} other(s) are at work on this study")


def report_unjudged(loop: Loop, progress: Observer) -> None:
    """Say which requirement could not be judged, because the baseline was not trained."""
    for requirement in loop.bars.requirements:
        if requirement not in loop.bars.applicable(loop.rows):
            progress.message(
                f"require.{requirement.name} is relative to {loop.bars.reference}, which was not trained here: no "
                "design can be said to meet it."
            )


def measure_noise(settings: SearchSettings, loop: Loop) -> tuple[NoiseFloor, ...]:
    """The noise floor of the baseline, or of the first trained row where the baseline is not in the space."""
    complete = [row for row in loop.rows if row.state == "complete"]
    row = loop.bars.reference_row(loop.rows) or (complete[0] if complete else None)
    if row is None or settings.noise_seeds < 2:
        return ()
    try:
        loop.repeat(row)
    except CannotGoOn as error:
        loop.observer.message(f"noise floor: no further seed can be trained ({error})")
    return stored_floors(loop.study, row, loop.rows)
