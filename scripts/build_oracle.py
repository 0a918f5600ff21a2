"""Evaluates every architecture of a small space, so that searches can be replayed against the truth.

    python scripts/build_oracle.py                       the 256 architectures of search_space=oracle, 3 seeds each
    python scripts/build_oracle.py --limit 600           exit code 3 when 600 seconds were not enough
    python scripts/build_oracle.py --processes 8 --seeds 5 device=cpu
    python scripts/build_oracle.py --stages costs        costs alone, from the table of measured blocks
    python scripts/build_oracle.py --stages train --sample 24 --seeds 2 --out docs/benchmarks/oracle_seeds.json
                                                         what seeds do, of 24 architectures alone

Each architecture is trained on each seed through the rungs of the token budget, the first seed of all of them first,
and priced at the deployment. Writes the table that scripts/benchmark_search.py reads, with device, versions, commit,
settings and seconds; the same command goes on from it. The overrides are those of search.py.
"""

import argparse
import fcntl
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.command_line import UserError, composing, speaking_to_users
from scripts.config_values import time_limit
from scripts.exit_codes import UNFINISHED
from scripts.provenance import commit
from scripts.settings import SearchSettings
from search_spaces import SearchSpace
from search_spaces.every_point import every_point

if TYPE_CHECKING:
    from nas.study.training.rung_training import RungTrainer
    from nas.study.truth.oracle import Entry, Oracle, Scores

OUT = Path("docs/benchmarks/oracle.json")
DEFAULTS = ("search_space=oracle", "budget=oracle", "fidelity=rungs", "measure=table")
STAGES = ("train", "costs")
SECONDS_BETWEEN_WRITES = 10.0


@dataclass(frozen=True)
class Work:
    """One training of all tasks: the point of the space by its parameters, and the seed."""

    id: str
    params: dict[str, Any]
    seed: int


Outcome = tuple[Work, "list[Scores] | str", float]
"""What was done, the scores at each rung or the reason why the training broke, and the seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as device=cpu")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each architecture (default: 3)")
    parser.add_argument("--sample", type=int, help="so many architectures alone, drawn by their ids (default: all)")
    parser.add_argument("--processes", type=int, default=1, help="that train side by side (default: 1)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="what is done (default: both)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which it stops")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the table (default: {OUT})")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="What is finished is in the table; the same command goes on from here."):
        if arguments.seeds < 1 or arguments.processes < 1:
            raise UserError("--seeds and --processes must be at least 1.")
        if arguments.sample is not None and arguments.sample < 1:
            raise UserError(f"--sample must be at least 1, but got {arguments.sample}.")
        time_limit("--limit", arguments.limit)
        overrides = [*DEFAULTS, *arguments.overrides]
        with composing(overrides):
            settings = SearchSettings.from_overrides(overrides)
        deadline = time.monotonic() + arguments.limit
        with only_writer(arguments.out):
            oracle = open_oracle(arguments.out, settings, arguments.sample)
            finished = True
            if "train" in arguments.stages:
                finished = train_all(oracle, settings, arguments, deadline)
            if finished and "costs" in arguments.stages:
                finished = price_all(oracle, settings, arguments.out, deadline)
        print(summary(oracle))
        if not finished:
            sys.exit(UNFINISHED)


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Raises UserError while another process writes the same table."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is being written by another process; --processes trains side by side.") from None
        yield


def open_oracle(out: Path, settings: SearchSettings, sample: int | None = None) -> "Oracle":
    """The table so far, with an entry for each architecture, or for a sample. Raises UserError for other settings."""
    from nas.architecture import canonical_id
    from nas.study.truth.oracle import Entry, Oracle

    trained_as = {key: settings.definition[key] for key in ("search_space", "task", "train", "seed", "fidelity")}
    if out.exists():
        oracle = Oracle.read(out)
        if oracle.provenance["settings"] != trained_as or oracle.shares != settings.fidelity.shares:
            raise UserError(f"{out} was built with other settings; take those back, or name another file with --out.")
        return oracle.identified(settings.space.at)
    entries: dict[str, Entry] = {}
    for params, architecture in every_point(settings.space):
        identity = canonical_id(architecture)
        entries.setdefault(identity, Entry(id=identity, name=architecture.name, params=params))
    entries = {entry.id: entry for entry in in_no_order(entries.values())[:sample]}
    provenance = {"settings": trained_as, "training": [], "costs": None}
    return Oracle(shares=settings.fidelity.shares, provenance=provenance, entries=entries)


def train_all(oracle: "Oracle", settings: SearchSettings, arguments: argparse.Namespace, deadline: float) -> bool:
    """Train what the table lacks; whether nothing is missing any more."""
    missing = missing_work(oracle, settings.seed, arguments.seeds)
    if not missing:
        return True
    for task in settings.tasks.values():
        task.prepare()
    place = {**here(settings), "processes": arguments.processes}
    if place not in oracle.provenance["training"]:
        oracle.provenance["training"].append(place)
    done, written = 0, time.monotonic()
    try:
        for work, scores, seconds in outcomes(settings, missing, arguments.processes, deadline):
            entry = oracle.entries[work.id]
            if isinstance(scores, str):
                entry.failed[work.seed] = scores
            else:
                entry.scores[work.seed] = scores
            entry.seconds += seconds
            done += 1
            print(f"{done} of {len(missing)}: {line(entry, work.seed, scores, seconds)}", flush=True)
            if time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                write(oracle, arguments.out)
                written = time.monotonic()
    finally:
        write(oracle, arguments.out)
    return done == len(missing)


def missing_work(oracle: "Oracle", first_seed: int, seeds: int) -> list[Work]:
    """Every architecture on the first seed, then on the next."""
    order = in_no_order(oracle.entries.values())
    return [
        Work(entry.id, entry.params, seed)
        for seed in range(first_seed, first_seed + seeds)
        for entry in order
        if seed not in entry.scores and seed not in entry.failed
    ]


def in_no_order(entries: "Iterable[Entry]") -> "list[Entry]":
    """In an order that has nothing to do with what the architectures are."""
    return sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())


def outcomes(settings: SearchSettings, missing: Sequence[Work], processes: int, deadline: float) -> Iterator[Outcome]:
    """Results as they come, until all is done or the time is up: what runs then is still waited for."""
    trainer = Trainer.of(settings)
    if processes == 1:
        for work in missing:
            if time.monotonic() > deadline:
                return
            yield trainer(work)
        return
    queue = iter(missing)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=one_thread) as pool:
        running: set[Future[Outcome]] = set()
        while True:
            while len(running) < processes and time.monotonic() < deadline:
                work = next(queue, None)
                if work is None:
                    break
                running.add(pool.submit(trainer, work))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


@dataclass(frozen=True)
class Trainer:
    """Does one piece of work, in this process or another."""

    rungs: "RungTrainer"
    space: SearchSpace
    parameters: int | None

    @classmethod
    def of(cls, settings: SearchSettings) -> "Trainer":
        from nas.measure import choose_device
        from nas.study.training.rung_training import RungTrainer
        from nas.study.training.task_training import make_trainers

        trainers = make_trainers(settings.tasks, settings.recipes, choose_device(settings.device))
        rungs = RungTrainer(trainers=trainers, shares=settings.fidelity.shares)
        return cls(rungs, settings.space, settings.parameters)

    def __call__(self, work: Work) -> Outcome:
        from nas.count import match_parameters
        from nas.study.candidate import describe

        architecture = self.space.at(work.params)
        if self.parameters is not None:
            architecture = match_parameters(architecture, self.parameters)
        began = time.perf_counter()
        try:
            return work, *self.rungs(architecture, work.seed)
        except ArithmeticError as error:  # it diverged: a search records that and goes on, and so does the table
            return work, describe(error), time.perf_counter() - began


def one_thread() -> None:
    """In a process of many: each has one core."""
    import torch

    torch.set_num_threads(1)


def write(oracle: "Oracle", out: Path) -> None:
    """Write the table, whole or not at all."""
    partial = out.with_name(out.name + ".partial")
    partial.write_text(oracle.to_text(), encoding="utf-8")
    partial.replace(out)


def here(settings: SearchSettings) -> dict[str, Any]:
    """Device, versions and commit of numbers that are taken now."""
    from nas.measure import choose_device, describe_device

    return describe_device(choose_device(settings.device)) | {"commit": commit()}


def line(entry: "Entry", seed: int, scores: "list[Scores] | str", seconds: float) -> str:
    """One training for whoever watches."""
    if isinstance(scores, str):
        return f"{entry.name}, seed {seed}: failed, {scores}"
    shown = ", ".join(f"{name} {score.value:.4g}" for name, score in scores[-1].items())
    return f"{entry.name}, seed {seed}: {shown}; {seconds:.1f} s"


def summary(oracle: "Oracle") -> str:
    """How much of the table is there."""
    counts = sorted(len(entry.scores) for entry in oracle.entries.values())
    priced = sum(bool(entry.measurements) for entry in oracle.entries.values())
    seconds = sum(entry.seconds for entry in oracle.entries.values())
    failed = sum(len(entry.failed) for entry in oracle.entries.values())
    return (
        f"{len(counts)} architectures; seeds of each: {counts[0]} to {counts[-1]}, {sum(counts)} trainings in all, "
        f"{seconds:,.0f} s of training; costs of {priced}" + (f"; {failed} trainings broke" if failed else "")
    )


def price_all(oracle: "Oracle", settings: SearchSettings, out: Path, deadline: float) -> bool:
    """Counts and costs of every architecture at the deployment; whether all are known.

    Costs that were taken in another way are taken anew. Blocks that the device's table lacks are measured.
    """
    from nas.measure import choose_device, describe_device, open_meter
    from nas.study.training.evaluator import ProxyEvaluator
    from nas.tasks import cache_folder

    wanted = settings.definition["measure"] | {"timed": settings.definition["timed"]}
    costs = oracle.provenance["costs"]
    if costs is None or costs["settings"] != wanted:
        for entry in oracle.entries.values():
            entry.measurements, entry.costs = {}, {}
    evaluator = ProxyEvaluator(
        trainers={},
        deployment=settings.deployment,
        meter=open_meter(settings.deployment, cache_folder() / "tables"),
        parameters=settings.parameters,
        task_configs={},
    )
    finished = True
    for entry in oracle.entries.values():
        if entry.measurements:
            continue
        if time.monotonic() > deadline:
            finished = False
            break
        candidate = evaluator.admit(settings.space.at(entry.params))
        evaluator.count(candidate)
        evaluator.measure(candidate)
        entry.counts, entry.measurements, entry.costs = candidate.counts, candidate.measurements, candidate.costs
    oracle.provenance["costs"] = {
        "settings": wanted,
        "environment": describe_device(choose_device(settings.device)) | {"commit": commit()},
        "source": evaluator.meter.describe()["costs"],
    }
    write(oracle, out)
    return finished


if __name__ == "__main__":
    main()
