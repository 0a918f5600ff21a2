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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.architecture import Architecture, canonical_id, to_dict
from scripts.command_line import UserError, composing, speaking_to_users
from scripts.exit_codes import UNFINISHED
from scripts.provenance import commit
from scripts.settings import SearchSettings
from search_spaces import RandomTrial

OUT = Path("docs/benchmarks")
TRIES = 20  # random points for each architecture that is wanted
Record = dict[str, Any]


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
    arguments = parser.parse_args()
    with speaking_to_users(interrupted="What is finished is kept; the same command goes on from here."):
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
    from nas.study.rung_training import RungTrainer
    from nas.study.task_training import make_trainers

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
        trainer = proxy if kind == "proxy" else large
        scores, seconds = trainer(one, seed)
        entry = record["architectures"][key]
        entry[kind][str(seed)] = [{name: score.value for name, score in rung.items()} for rung in scores]
        entry["seconds"][kind] = entry["seconds"].get(kind, 0.0) + seconds
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{entry['name']}, {kind}, seed {seed}: {seconds:.1f} s", flush=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = page(record)
    (out / "proxy.md").write_text(text, encoding="utf-8")
    print(text)
    return finished


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
        seed = settings.seed + number
        for key, (proxy, large) in chosen.items():
            known = record["architectures"][key]
            if number < plan.seeds and str(seed) not in known["proxy"]:
                yield key, "proxy", proxy, seed
            if number < plan.large_seeds and str(seed) not in known["large"]:
                yield key, "large", large, seed


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
        "seconds": {},
    }


def judge(record: Record) -> list[Record]:
    """A row for each score and guess: agreement, and regret beside the noise."""
    from nas.objectives import OBJECTIVES
    from nas.study.agreement import agreement, bootstrap, pairs_beyond, regret

    entries = [entry for entry in record["architectures"].values() if entry["proxy"] and entry["large"]]
    if len(entries) < 3:
        return []
    rows = []
    for metric in next(iter(entries[0]["large"].values()))[-1]:
        sign = 1.0 if OBJECTIVES[metric].direction == "minimize" else -1.0
        large = [[sign * rungs[-1][metric] for rungs in entry["large"].values()] for entry in entries]
        truth = np.array([np.mean(values) for values in large])
        noise = pooled(large)
        margin = 2 * noise * np.sqrt(2 / min(len(values) for values in large))
        for name, guess in guesses(entries, record["rungs"], metric, sign).items():
            rows.append(
                {
                    "score": metric,
                    "guess": name,
                    "architectures": len(entries),
                    "agreement": asdict(bootstrap(agreement, guess, truth)),
                    "agreement_beyond_noise": asdict(
                        bootstrap(lambda g, t, m=margin: agreement(g, t, margin=m), guess, truth)
                    ),
                    "pairs_beyond_noise": pairs_beyond(truth, margin),
                    "regret": asdict(bootstrap(regret, guess, truth)),
                    "noise": noise,
                }
            )
    return rows


def guesses(entries: Sequence[Record], shares: Sequence[float], metric: str, sign: float) -> dict[str, np.ndarray]:
    """What each guess says of every architecture, as losses: more parameters, more FLOPs, and each rung's score."""
    found = {
        "parameters": -np.array([float(entry["parameters"]) for entry in entries]),
        "FLOPs": -np.array([float(entry["flops"]) for entry in entries]),
    }
    for rung, share in enumerate(shares):
        scores = [np.mean([rungs[rung][metric] for rungs in entry["proxy"].values()]) for entry in entries]
        found[f"rung {share:g}"] = sign * np.array(scores)
    return found


def pooled(values: Sequence[Sequence[float]]) -> float:
    """Standard deviation over seeds, pooled over architectures; 0 where nobody has two."""
    spread = [(float(np.var(one, ddof=1)), len(one) - 1) for one in values if len(one) > 1]
    freedom = sum(n for _, n in spread)
    return (sum(variance * n for variance, n in spread) / freedom) ** 0.5 if freedom else 0.0


def page(record: Record) -> str:
    """The numbers as Markdown."""
    rows = judge(record)
    lines = ["# Does the proxy predict?", ""]
    if not rows:
        return "\n".join([*lines, "Too little was trained yet.", ""])
    plan, here = record["plan"], record["environment"]
    entries = list(record["architectures"].values())
    lines += [
        f"{rows[0]['architectures']} random architectures of equal parameters, at the proxy's size and budget and at "
        f"{plan['larger']:g} times the parameters with {plan['longer']:g} times the tokens. Seeds of each: "
        f"{seeds_of(entries, 'proxy')} of the proxy, {seeds_of(entries, 'large')} of the large training. "
        f"{here['name']}, torch {here['torch']}, commit {here['commit']}.",
        "",
        "| score | guess | decisions that agree | of those beyond noise | regret | noise |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['score']} | {row['guess']} | {shown(row['agreement'], '.0%')} | "
        f"{shown(row['agreement_beyond_noise'], '.0%')} ({row['pairs_beyond_noise']} pairs) | "
        f"{shown(row['regret'], '.4f')} | {row['noise']:.4f} |"
        for row in rows
    ]
    lines += [
        "",
        "Intervals: 95 %, bootstrap over architectures. *Beyond noise*: pairs that the large training tells apart by "
        "more than two standard errors. *Regret*: how much worse the architecture that the guess picks is than the "
        "best, in the large training. *Noise*: standard deviation of one large training over seeds.",
        "",
        "Written by `python scripts/benchmark_proxy.py`; every score stands in proxy.json.",
        "",
    ]
    return "\n".join(lines)


def seeds_of(entries: Sequence[Mapping[str, Any]], kind: str) -> str:
    """`2`, or `1 to 2` where not all are there."""
    counts = sorted({len(entry[kind]) for entry in entries})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def shown(interval: Mapping[str, float], form: str) -> str:
    return f"{interval['value']:{form}} ({interval['low']:{form}} to {interval['high']:{form}})"


if __name__ == "__main__":
    main()
