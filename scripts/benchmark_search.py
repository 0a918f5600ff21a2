"""Does the search search? Replays every sampler and fidelity on a table that knows the whole space.

    python scripts/benchmark_search.py                            every sampler and fidelity, 20 seeds
    python scripts/benchmark_search.py --variants tpe evolution --problems default budget.trials=32
    python scripts/benchmark_search.py --variants tpe --again     once more, because the code of the sampler changed

The run loop and the samplers are those that users run; numbers come from docs/benchmarks/oracle.json (written by
scripts/build_oracle.py) instead of training. A problem is a file of conf/objectives. Reports, against random search,
the hypervolume after each unit of training, the share of the true front that was found, how many evaluations random
search needs to catch up, and the trials that trained nothing, with intervals over searches (scripts/search_verdict.py).
A table with one seed of each architecture tells no noise; oracle_seeds.json beside it, of the same settings, does.
Every search that ends is kept in searches.jsonl (scripts/searches_done.py), from which any later command on the same
table goes on. Writes search.json, search.md and search.png of all that are known.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.report.search_plot import Panel, write_search_plot
from scripts.command_line import CONF, UserError, composing, speaking_to_users
from scripts.provenance import commit, version_of
from scripts.search_page import page, provenance
from scripts.search_verdict import RANDOM, Found, Recorder, judge
from scripts.searches_done import Run, SearchesDone
from scripts.settings import SearchSettings

if TYPE_CHECKING:
    from nas.study.truth.oracle import Oracle

OUT = Path("docs/benchmarks")
SPACE = ("search_space=oracle", "budget=oracle", "measure=table")
PROBLEMS = ("default", "quality")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as budget.trials=32")
    parser.add_argument("--table", type=Path, default=OUT / "oracle.json", help="of scripts/build_oracle.py")
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, help="files of conf/objectives")
    parser.add_argument("--variants", nargs="+", help="some of the samplers, fidelities and priors alone")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each (default: 20)")
    parser.add_argument("--processes", type=int, default=1, help="that search side by side (default: 1)")
    parser.add_argument("--again", action="store_true", help="replay also searches that are known")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder of the results (default: {OUT})")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Every search that had ended is kept; the same command goes on from there."):
        if arguments.seeds < 2 or arguments.processes < 1:
            raise UserError(
                "--seeds must be at least 2, because one search tells no spread, and --processes at least 1."
            )
        common = [*SPACE, *arguments.overrides]
        wanted = runs_of(arguments.problems, choose_variants(arguments.variants), arguments)
        for run in {run.overrides: run for run in wanted}.values():
            with composing(run.overrides):
                settings_of(run.overrides)
        table = read_table(str(arguments.table), (*common, f"objectives={arguments.problems[0]}"))
        done = SearchesDone(arguments.out / "searches.jsonl", arguments.table, table.entries)
        replay_all([run for run in wanted if arguments.again or done.get(run) is None], arguments.processes, done)
        everything = runs_of(dict.fromkeys((*PROBLEMS, *arguments.problems)), variants(), arguments)
        record = make_record(complete(everything, done), done, arguments)
        write(record, arguments.out)


def runs_of(problems: Iterable[str], chosen: Mapping[str, tuple[str, ...]], arguments: argparse.Namespace) -> list[Run]:
    """Every search of these variants on these problems."""
    common = (*SPACE, *arguments.overrides)
    return [
        Run(problem, variant, (*common, f"objectives={problem}", *overrides), str(arguments.table), seed)
        for problem in problems
        for variant, overrides in chosen.items()
        for seed in range(arguments.seeds)
    ]


def complete(runs: Sequence[Run], done: SearchesDone) -> list[Run]:
    """The searches of those variants of which every seed is known, on problems where random search's are."""
    lacking = {(run.problem, run.variant) for run in runs if done.get(run) is None}
    return [run for run in runs if lacking.isdisjoint({(run.problem, run.variant), (run.problem, RANDOM)})]


def variants() -> dict[str, tuple[str, ...]]:
    """Every sampler and fidelity that has a file, and what a prior adds to two of them."""
    samplers = sorted(path.stem for path in (CONF / "sampler").glob("*.yaml"))
    fidelities = sorted(path.stem for path in (CONF / "fidelity").glob("*.yaml"))
    full = ("fidelity=full",) if fidelities else ()
    found = {sampler: (f"sampler={sampler}", *full) for sampler in samplers}
    for fidelity in fidelities:
        if fidelity != "full":
            found |= {f"{s}+{fidelity}": (f"sampler={s}", f"fidelity={fidelity}") for s in samplers}
    for sampler in (RANDOM, "evolution"):
        found[f"{sampler}+literature"] = (f"sampler={sampler}", *full, "priors=literature")
    return found


def choose_variants(names: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The named variants beside random search, or all. Raises UserError for a name that is none."""
    from nas.architecture import did_you_mean

    known = variants()
    for name in names or ():
        if name not in known:
            raise UserError(f"There is no variant {name!r}. {did_you_mean(name, known)}")
    return {name: known[name] for name in known if names is None or name in (*names, RANDOM)}


def replay_all(runs: Sequence[Run], processes: int, done: SearchesDone) -> None:
    """Every search, kept as soon as it ended, with a line for each variant once its seeds are done."""
    context, by = multiprocessing.get_context("spawn"), commit()
    seconds: dict[tuple[str, str], list[float]] = {}
    with ProcessPoolExecutor(processes, context) as pool:
        for number, found in enumerate(pool.map(replay, runs) if processes > 1 else map(replay, runs)):
            run = runs[number]
            done.add(run, found, by)
            seconds.setdefault((run.problem, run.variant), []).append(found.seconds)
            if number + 1 == len(runs) or runs[number + 1].variant != run.variant:
                mean = statistics.mean(seconds[run.problem, run.variant])
                print(f"{run.problem}, {run.variant}: {mean:.2f} s a search", flush=True)


@cache
def read_table(path: str, overrides: tuple[str, ...]) -> "Oracle":
    """The table, its architectures known by the ids that they have in the space of these overrides."""
    from nas.study.truth.oracle import Oracle

    return Oracle.read(Path(path)).identified(settings_of(overrides).space.at)


def read_repeats(table: Path) -> "Oracle | None":
    """What seeds do, told by the table beside `table` that has some of its architectures on several, if there is one.

    Raises UserError for one that was trained with other settings.
    """
    from nas.study.truth.oracle import Oracle

    path = table.with_name(f"{table.stem}_seeds{table.suffix}")
    if not path.exists():
        return None
    repeats = Oracle.read(path)
    if repeats.provenance["settings"] != Oracle.read(table).provenance["settings"]:
        raise UserError(
            f"{path} must be trained with the settings of {table}, but has others; build it anew or take it away."
        )
    return repeats


def seeds_of_each(oracle: "Oracle") -> list[int]:
    """The fewest and the most seeds that an architecture of a table has."""
    seeds = [len(entry.scores) for entry in oracle.entries.values()]
    return [min(seeds), max(seeds)]


@cache
def settings_of(overrides: tuple[str, ...]) -> SearchSettings:
    return SearchSettings.from_overrides(overrides)


def replay(run: Run) -> Found:
    """One search on the table, by the run loop and with the wiring of search.py."""
    from nas.study.crew import Crew
    from nas.study.samplers import make_sampler, prior_from
    from nas.study.trials import enqueue_references
    from nas.study.truth.replay import OracleEvaluator, memory_study
    from scripts.search_job import make_loop

    began = time.perf_counter()
    settings = replace(settings_of(run.overrides), seed=run.seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(settings, directory=Path(folder))
        study = memory_study(settings.objectives)
        with Crew(study) as crew:
            study.sampler = make_sampler(
                settings.sampler,
                seed=settings.seed,
                trials=settings.trials,
                already_sampled=0,
                space=settings.space,
                prior=prior_from(settings.priors, settings.space.weighed_as),
            )
            enqueue_references(study, settings.space.references(settings.designs))
            loop = make_loop(settings, study, crew, OracleEvaluator(oracle=read_table(run.table, run.overrides)))
            loop.observer = recorder = Recorder()
            loop.run()
    return recorder.found(run.problem, run.variant, run.seed, time.perf_counter() - began)


def make_record(runs: Sequence[Run], known: SearchesDone, arguments: argparse.Namespace) -> dict[str, Any]:
    """What every variant came to on every problem, and where the numbers come from."""
    from nas.measure import describe_device

    oracle = read_table(runs[0].table, runs[0].overrides)
    repeats = read_repeats(arguments.table)
    searches = {run: done for run in runs if (done := known.get(run)) is not None}
    problems = {}
    for problem in dict.fromkeys(run.problem for run in searches):
        settings = settings_of(next(run.overrides for run in searches if run.problem == problem))
        of_problem = [done.found for run, done in searches.items() if run.problem == problem]
        problems[problem] = judge(of_problem, settings, oracle, repeats)
    commits = sorted({done.commit for done in searches.values()})
    return {
        "environment": describe_device() | {"optuna": version_of("optuna"), "commits": commits},
        "table": {
            "architectures": len(oracle.entries),
            "seeds of each": seeds_of_each(oracle),
            "rungs": oracle.shares,
            "provenance": oracle.provenance,
        },
        "repeats": repeats
        and {
            "architectures": len(repeats.entries),
            "seeds of each": seeds_of_each(repeats),
            "provenance": repeats.provenance,
        },
        "searches of each": arguments.seeds,
        "problems": problems,
        "left out": left_out(problems),
    }


def left_out(problems: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each problem, the variants that there are and that were not replayed."""
    judged = {problem: problems.get(problem, {}).get("variants", {}) for problem in PROBLEMS}
    return {problem: [name for name in variants() if name not in found] for problem, found in judged.items()}


def write(record: dict[str, Any], out: Path) -> None:
    """search.json, search.md and search.png."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "search.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    text = page(record)
    (out / "search.md").write_text(text, encoding="utf-8")
    panels = [
        Panel(
            title=f"{problem}: {', '.join(judged['objectives'])}",
            curves={name: one["volume"] for name, one in judged["variants"].items()},
            errors={name: one["volume_error"] for name, one in judged["variants"].items()},
        )
        for problem, judged in record["problems"].items()
    ]
    write_search_plot(
        out / "search.png",
        panels,
        title=f"Searches replayed on a space of {record['table']['architectures']} known architectures",
        caption=provenance(record),
        baseline=RANDOM,
    )
    print(text)
    print(f"written search.json, search.md and search.png in {out}")


if __name__ == "__main__":
    main()
