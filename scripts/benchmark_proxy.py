"""Does the proxy predict? Architectures matched in parameters, ranked by each rung and by longer and larger training.

    python scripts/benchmark_proxy.py                          24 architectures of the default search
    python scripts/benchmark_proxy.py --limit 600              exit code 3 when 600 seconds were not enough
    python scripts/benchmark_proxy.py --larger 8 --longer 8 budget=gpu_1h

For each rung and score: the share of pairwise decisions that agree with the large training, and the regret of picking
by the proxy, beside the noise of the large training and beside two guesses that train nothing, the number of parameters
and the FLOPs. Writes proxy.json, from which the same command goes on, and proxy.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture import Architecture, canonical_id, to_dict
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.config_values import time_limit
from scripts.exit_codes import UNFINISHED
from scripts.provenance import commit
from scripts.proxy_page import Record, page
from scripts.settings import SearchSettings
from search_spaces import RandomTrial

if TYPE_CHECKING:
    from nas.study.training.rung_training import RungTrainer

OUT = Path("docs/benchmarks")
TRIES = 20  # random points for each architecture that is wanted
APART = 10_000  # between the seeds of the proxy and those of the large training, which must not share their luck


@dataclass(frozen=True, kw_only=True)
class Plan:
    """architectures: how many. larger, longer: factors of the large training on parameters and tokens. seeds: of the
    proxy; large_seeds: of the large training, whose spread is the noise."""

    architectures: int
    larger: float
    longer: float
    seeds: int
    large_seeds: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as search_space=pattern")
    parser.add_argument("--architectures", type=int, default=24, help="random architectures (default: 24)")
    parser.add_argument("--larger", type=float, default=4.0, help="times the parameters (default: 4)")
    parser.add_argument("--longer", type=float, default=4.0, help="times the tokens (default: 4)")
    parser.add_argument("--seeds", type=int, default=1, help="of the proxy (default: 1)")
    parser.add_argument("--large-seeds", type=int, default=2, help="of the large training (default: 2)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which it stops")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder of the results (default: {OUT})")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="What is finished is kept; the same command goes on from here."):
        time_limit("--limit", arguments.limit)
        plan = checked_plan(arguments)
        overrides = ["fidelity=rungs", *arguments.overrides]
        with composing(overrides):
            settings = SearchSettings.from_overrides(overrides)
        finished = run(settings, plan, arguments.out, time.monotonic() + arguments.limit)
        if not finished:
            sys.exit(UNFINISHED)


def checked_plan(arguments: argparse.Namespace) -> Plan:
    """Raises UserError for numbers that cannot be used."""
    for name, least in (("architectures", 3), ("seeds", 1), ("large_seeds", 1), ("larger", 1.0), ("longer", 1.0)):
        if getattr(arguments, name) < least:
            given = f"--{name.replace('_', '-')}"
            raise UserError(f"{given} must be at least {least}, but got {getattr(arguments, name)}.")
    return Plan(
        architectures=arguments.architectures,
        larger=arguments.larger,
        longer=arguments.longer,
        seeds=arguments.seeds,
        large_seeds=arguments.large_seeds,
    )


def run(settings: SearchSettings, plan: Plan, out: Path, deadline: float) -> bool:
    """Train what the record lacks, write it and its summary; whether all of it is there."""
    from nas.measure import choose_device
    from nas.study.training.rung_training import RungTrainer
    from nas.study.training.task_training import make_trainers

    out.mkdir(parents=True, exist_ok=True)
    path = out / "proxy.json"
    record = open_record(path, settings, plan)
    for task in settings.tasks.values():
        task.prepare()
    place = choose_device(settings.device)
    trainers = make_trainers(settings.tasks, settings.recipes, place)
    proxy = RungTrainer(trainers=trainers, shares=settings.fidelity.shares)
    recipes = {
        name: replace(recipe, tokens=round(plan.longer * recipe.tokens)) for name, recipe in settings.recipes.items()
    }
    large = RungTrainer(trainers=make_trainers(settings.tasks, recipes, place), shares=(1.0,))
    finished = True
    for key, kind, one, seed in missing(record, settings, plan):
        if time.monotonic() > deadline:
            finished = False
            break
        print(train(record["architectures"][key], kind, proxy if kind == "proxy" else large, one, seed), flush=True)
        write(path, record)
    write(path, record)
    text = page(record)
    (out / "proxy.md").write_text(text, encoding="utf-8")
    print(text)
    return finished


def train(entry: Record, kind: str, trainer: "RungTrainer", one: Architecture, seed: int) -> str:
    """One training into an entry of the record, or the reason why it diverged; a line on it."""
    from nas.study.candidate import describe

    try:
        scores, seconds = trainer(one, seed)
    except ArithmeticError as error:  # it diverged and would again; the others can be judged without it
        entry["failed"][f"{kind} {seed}"] = describe(error)
        return f"{entry['name']}, {kind}, seed {seed}: failed, {describe(error)}"
    entry[kind][str(seed)] = [{name: score.value for name, score in rung.items()} for rung in scores]
    entry["seconds"][kind] = entry["seconds"].get(kind, 0.0) + seconds
    return f"{entry['name']}, {kind}, seed {seed}: {seconds:.1f} s"


def write(path: Path, record: Record) -> None:
    """Write the record, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def open_record(path: Path, settings: SearchSettings, plan: Plan) -> Record:
    """The record so far. Raises UserError for one of another plan."""
    from nas.measure import choose_device, describe_device

    wanted = {
        "plan": asdict(replace(plan, architectures=0, seeds=0, large_seeds=0)),
        "settings": {key: settings.definition[key] for key in ("search_space", "task", "train", "seed", "fidelity")},
        "rungs": list(settings.fidelity.shares),
    }
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if {key: record.get(key) for key in wanted} != wanted:
            raise UserError(f"{path} was measured with other settings; take those back, or name a folder with --out.")
        return record
    here = describe_device(choose_device(settings.device)) | {"commit": commit()}
    return {"environment": here, **wanted, "architectures": {}}


def missing(record: Record, settings: SearchSettings, plan: Plan) -> Iterator[tuple[str, str, Architecture, int]]:
    """What is to be trained: key in the record, `proxy` or `large`, architecture, seed; all once before any again."""
    chosen = {canonical_id(proxy): (proxy, large) for proxy, large in architectures(settings, plan)}
    for key, (proxy, large) in chosen.items():
        record["architectures"].setdefault(key, described(proxy, large))
    for number in range(max(plan.seeds, plan.large_seeds)):
        for key, (proxy, large) in chosen.items():
            known = record["architectures"][key]
            for kind, one, seeds, first in (
                ("proxy", proxy, plan.seeds, settings.seed),
                ("large", large, plan.large_seeds, settings.seed + APART),
            ):
                seed = first + number
                there = str(seed) in known[kind] or f"{kind} {seed}" in known["failed"]
                if number < seeds and not there:
                    yield key, kind, one, seed


def architectures(settings: SearchSettings, plan: Plan) -> list[tuple[Architecture, Architecture]]:
    """Different random architectures of equal parameters, each with itself at the larger size.

    Raises UserError where the space does not have as many.
    """
    from nas.count import CannotMatch, count_parameters, deployed, match_parameters
    from nas.deployment import Deployment

    found: dict[str, tuple[Architecture, Architecture]] = {}
    for seed in range(TRIES * plan.architectures):
        sampled = settings.space(RandomTrial(seed))
        try:
            proxy = match_parameters(sampled, settings.parameters or settings.space.params)
            size = round(plan.larger * count_parameters(proxy))
            large = deployed(proxy, Deployment(parameters=size, depth=1.0, head_dim=1.0, vocab_size=None))
        except CannotMatch:
            continue
        found.setdefault(canonical_id(proxy), (proxy, large))
        if len(found) == plan.architectures:
            return list(found.values())
    raise UserError(f"{plan.architectures} different architectures are wanted, but the space gave {len(found)}.")


def described(proxy: Architecture, large: Architecture) -> Record:
    """An architecture before anything is trained, with what the guesses that train nothing go by."""
    from nas.count import count_flops, count_parameters

    return {
        "name": proxy.name,
        "architecture": to_dict(proxy),
        "parameters": count_parameters(proxy),
        "large_parameters": count_parameters(large),
        "flops": count_flops(proxy, 1),
        "proxy": {},
        "large": {},
        "failed": {},
        "seconds": {},
    }


if __name__ == "__main__":
    main()
