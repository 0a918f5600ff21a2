"""Recommends one design of a finished study for one purpose.

    python scripts/recommend.py outputs/hybrid-cpu
    python scripts/recommend.py outputs/hybrid-cpu gpu=h200 context=65536 concurrency=8 require.recall=0.95
    python scripts/recommend.py outputs/hybrid-cpu optimize=time_per_output_token_ms require.recall=0.9 export=best.yaml

Prints the design, the runner-up, how sure the choice is, the nearest reference design, and what a moved bar changes.

    gpu=NAME              a device at hand (auto, cpu, cuda) or a described one (h200, h100, a100, rtx4090)
    context=TOKENS        tokens that a sequence holds at its end; prompt and answer keep their shares
    concurrency=N         sequences served at once
    parameters=N          parameters of the deployed network
    optimize=NAME         what the best is best in; default: the first quality objective of the study
    require.NAME=BAR      as in the search: quality is relative to the baseline; replaces the study's bar of that name
    export=PATH           writes the deployed architecture
    storage=URL           where the study is kept, if not in its folder

Without gpu, context, concurrency or parameters the study's own costs count. Else costs are taken again: from measured
blocks where the device is at hand or its table ships, else as a bound from FLOPs and bytes, labelled an estimate.
The scores of designs that scripts/confirm.py has trained anew are those of their fresh seeds.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import diagram, did_you_mean, write_architecture
from nas.deployment import Deployment
from nas.objectives import Objective, Requirement, find_objective, parse_requirements, with_unit
from nas.workload import WorkloadError
from scripts.command_line import UserError, speaking_to_users
from scripts.study_config import field_value, read_study_config

if TYPE_CHECKING:
    from nas.study.recommendation import Change, Recommendation
    from nas.study.rows import NoiseFloor, Row

PURPOSE = ("gpu", "context", "concurrency", "parameters")
FIELDS = (*PURPOSE, "optimize", "export", "storage")
READ = ("require", "baseline", "optimize", "measure")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of the study, such as outputs/hybrid-cpu")
    parser.add_argument("fields", nargs="*", help="field=value, see above")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Nothing was written."):
        asked = read_fields(arguments.fields)
        config = read_study_config(arguments.study, READ)
        for line in answer(arguments.study, asked, config):
            print(line)


@dataclass(frozen=True)
class Asked:
    """The fields of the command line."""

    fields: Mapping[str, Any]
    require: Mapping[str, Any]

    @property
    def changes_costs(self) -> bool:
        return any(name in self.fields for name in PURPOSE)


def read_fields(given: Sequence[str]) -> Asked:
    """Raises UserError for what is no field=value, and for an unknown field."""
    fields: dict[str, Any] = {}
    require: dict[str, Any] = {}
    for argument in given:
        name, equals, _ = argument.partition("=")
        if not equals:
            raise UserError(f"The argument {argument!r} must be field=value, such as gpu=h200.")
        value = field_value(argument)
        if name.startswith("require."):
            require[name.removeprefix("require.")] = value
        elif name in FIELDS:
            fields[name] = value
        else:
            raise UserError(f"There is no field {name!r}. {did_you_mean(name, [*FIELDS, 'require.recall'])}")
    return Asked(fields, require)


def answer(directory: Path, asked: Asked, config: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the recommendation. Raises one of the user errors."""
    requirements = parse_requirements({**(config["require"] or {}), **asked.require}, str(config["baseline"]))
    objective = chosen_objective(asked, config)
    deployment = deployment_for(asked, config)

    from nas.study.confirmation.costs import confirmed_rows
    from nas.study.confirmation.retrained import retrained_rows
    from nas.study.noise import stored_floors
    from nas.study.recommendation import recommend
    from nas.study.storage.studies import close_study, load_study
    from nas.study.trials import rows_of

    study = load_study(directory, str(config["study"]), storage=asked.fields.get("storage"))
    try:
        searched = [row for row in confirmed_rows(study, rows_of(study)) if row.state == "complete"]
        if not searched:
            raise UserError(f"The study in {directory} has no trained design yet; search first.")
        # The noise floor is that of single trainings, so it begins with the search's score of the baseline.
        floors = {floor.name: floor for floor in stored_floors(study, baseline_of(searched, config), searched)}
        retrained = retrained_rows(study, searched)
    finally:
        close_study(study)
    rows = [row for row in retrained if row.state == "complete"]
    if not rows:
        raise UserError("Every design of this study broke when it was trained anew; search on.")
    reference = baseline_of(rows, config)
    known = {name for row in rows for name in row.values}
    scored = [r for r in requirements if r.objective.stage != "train" or r.name in known]
    for unscored in (r for r in requirements if r not in scored and r.name in asked.require):
        raise UserError(f"require.{unscored.name} cannot be judged: no task of this study scored it.")
    if reference is None and any(r.relative_to_reference for r in scored):
        raise UserError(
            f"A bar is relative to {config['baseline']}, which this study has not trained or which broke anew."
        )
    where = "as the search measured it"
    if asked.changes_costs:
        rows, where = with_costs_of(deployment, rows)
        reference = next((row for row in rows if reference is not None and row.number == reference.number), reference)
    needed = {objective.name, *(r.name for r in scored)}
    lacking = sorted(name for name in needed if any(name not in row.values for row in rows))
    if lacking:
        raise UserError(
            f"{', '.join(lacking)} is not known of every design of this study, so it cannot be optimized or required; "
            "name a gpu, and costs are taken again."
        )
    yield f"{len(rows)} trained designs; {describe(deployment)}; costs {where}"
    yield from confirmed_sentence(retrained)
    found = recommend(rows, objective, scored, reference, floors)
    yield from lines_of(found, objective, scored, floors, rows, config)
    path = directory / "architectures" / f"{found.best.id}.yaml"
    if path.exists():
        yield f"its proxy: {path}; train it further with python scripts/train.py architecture={path}"
    if asked.fields.get("export") is not None and found.best.deployed is not None:
        write_architecture(str(asked.fields["export"]), found.best.deployed, comment=f"trial {found.best.number}")
        yield f"written {asked.fields['export']}: the deployed architecture"


def baseline_of(rows: "Sequence[Row]", config: Mapping[str, Any]) -> "Row | None":
    """The design that relative bars refer to, where it is among the rows."""
    return next((row for row in rows if row.origin == f"reference: {config['baseline']}"), None)


def confirmed_sentence(rows: "Sequence[Row]") -> Iterator[str]:
    """How many of the rows have the scores of fresh seeds, and how many broke on them; nothing where none was tried."""
    confirmed = sum(any(m.source == "confirmed" for m in row.values.values()) for row in rows)
    broken = sum(row.state == "failed" for row in rows)
    others = len(rows) - confirmed - broken
    if confirmed or broken:
        rest = f"; those of {others} are the search's" if others else ""
        rest += f"; {broken} that broke on them are left out" if broken else ""
        yield f"the scores of {confirmed} are confirmed on fresh seeds{rest}"


def chosen_objective(asked: Asked, config: Mapping[str, Any]) -> Objective:
    """The named objective, else the first quality objective of the study, else its first."""
    if "optimize" in asked.fields:
        return find_objective(asked.fields["optimize"])
    objectives = [find_objective(name) for name in config["optimize"]]
    return next((one for one in objectives if one.is_quality), objectives[0])


def deployment_for(asked: Asked, config: Mapping[str, Any]) -> Deployment:
    """The study's deployment with what was asked for. Raises WorkloadError."""
    measure = dict(config["measure"])
    if "context" in asked.fields:
        context = asked.fields["context"]
        if not isinstance(context, int) or isinstance(context, bool) or context < 2:
            raise UserError(f"context must be a whole number of at least 2 tokens, but got {context!r}.")
        share = measure["prompt"] / (measure["prompt"] + measure["new_tokens"])
        measure["prompt"] = min(context - 1, max(1, round(share * context)))
        measure["new_tokens"] = context - measure["prompt"]
        measure["context"] = None
    for field, name in (("concurrency", "concurrency"), ("parameters", "parameters"), ("gpu", "device")):
        if field in asked.fields:
            measure[name] = asked.fields[field]
    if asked.changes_costs:
        measure |= {"method": "table", "cost_model": "own", "dtype": "auto"}
    named = [*config["optimize"], *(config["require"] or {}), *asked.require]
    named += [asked.fields["optimize"]] if "optimize" in asked.fields else []
    return Deployment.from_config(measure).asked_for(named)


def with_costs_of(deployment: Deployment, rows: "list[Row]") -> "tuple[list[Row], str]":
    """The rows that can be deployed so, with their costs there, and where the costs come from."""
    from nas.measure import open_meter
    from nas.study.reprice import repriced
    from nas.tasks import cache_folder

    tables = cache_folder() / "tables"
    try:
        meter = open_meter(deployment, tables)
    except WorkloadError:
        if deployment.spec is None:
            raise
        deployment = replace(deployment, method="model", cost_model="roofline")
        meter = open_meter(deployment, tables)
    found = repriced(rows, deployment, meter.measure, lambda text: print(text, file=sys.stderr))
    if not found:
        raise UserError(f"None of the {len(rows)} trained designs can be deployed so; see the reasons above.")
    return found, meter.describe()["costs"]


def describe(deployment: Deployment) -> str:
    """`28,000,000 parameters at 7,680 tokens, 1 at a time, on cpu`."""
    size = f"{deployment.parameters:,} parameters" if deployment.parameters else f"width times {deployment.width:g}"
    device = deployment.device if deployment.spec is None else deployment.spec.name
    work = deployment.workload
    return f"{size} at {work.length:,} tokens, {work.concurrency} at a time, on {device}"


def lines_of(
    found: "Recommendation",
    objective: Objective,
    requirements: Sequence[Requirement],
    floors: "Mapping[str, NoiseFloor]",
    rows: "Sequence[Row]",
    config: Mapping[str, Any],
) -> Iterator[str]:
    names = list(dict.fromkeys([objective.name, *(r.name for r in requirements), *config["optimize"], *SHOWN]))
    yield f"recommended: {title(found.best)}"
    yield from numbers(found.best, names)
    if found.second is None:
        yield "runner-up: none; no other design meets the bars"
    else:
        yield f"runner-up: {title(found.second)}"
        yield from numbers(found.second, names)
    yield f"how sure: {sureness(found, objective, floors)}"
    yield f"  {probability(found, requirements)}"
    yield f"  {robustness(found, rows, config)}"
    if found.nearest is not None and found.nearest.number != found.best.number:
        yield f"nearest reference design: {title(found.nearest)}, {found.nearness:.0%} of mixers and FFNs alike"
    elif found.nearest is not None:
        yield "nearest reference design: it is one itself"
    yield "when a bar moves:"
    changes = [
        *(moved(change, "beyond what the recommended design reaches, at") for change in found.tighter),
        *(moved(change, "loosened to") for change in found.looser),
    ]
    yield from (f"  {line}" for line in changes or ["no other design becomes the best"])


SHOWN = ("sequence_bytes", "sequences_that_fit", "time_to_first_token_ms", "time_per_output_token_ms")


def title(row: "Row") -> str:
    return f"trial {row.number}, {row.origin}: {diagram(row.architecture)}"


def numbers(row: "Row", names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name in row.values:
            value = row.values[name]
            label = "" if value.source in ("measured", "scored", "counted") else f" ({value.source})"
            yield f"    {name}: {with_unit(value.value, value.unit, name)}{label}"


def sureness(found: "Recommendation", objective: Objective, floors: "Mapping[str, NoiseFloor]") -> str:
    """How far the best is ahead, in words."""
    if found.second is None:
        return "it is the only one that meets the bars"
    if found.errors is None:
        return f"the difference in {objective.name} has no known spread"
    from nas.study.precision import basis

    bases = dict.fromkeys(basis(objective.name, r.values[objective.name], floors) for r in (found.best, found.second))
    distance = f"{found.errors:.1f} standard errors ahead in {objective.name} ({' and '.join(bases)})"
    return distance if found.is_sure else f"{distance}: within noise, the runner-up may be as good"


def probability(found: "Recommendation", requirements: Sequence[Requirement]) -> str:
    """What noise leaves of the choice, bars included."""
    meets = f"meets the bars with a probability of {found.meets:.0%} and " if requirements else ""
    second = "" if found.second is None else f" (the runner-up: {found.second_wins:.0%})"
    best = "the best that does" if requirements else "the best"
    with_probability = f"with {found.wins:.0%}" if requirements else f"with a probability of {found.wins:.0%}"
    return f"by what is known of the noise it {meets}is {best} {with_probability}{second}"


def robustness(found: "Recommendation", rows: "Sequence[Row]", config: Mapping[str, Any]) -> str:
    """Whether the design is on the front whatever kernels are timed."""
    from nas.study.robust import robust_members

    members = robust_members(rows, [find_objective(name) for name in config["optimize"]])
    if members is None:
        return "robust: not known, because costs under all three cost models are not"
    return f"robust (on the front under every cost model): {'yes' if found.best.number in members else 'no'}"


def moved(change: "Change", words: str) -> str:
    bar, unit = change.requirement, change.requirement.objective.unit
    bound = f"{change.bound:.4g}" if bar.relative_to_reference else with_unit(change.bound, unit, bar.name)
    return f"require.{bar.name} {words} {bound}: {title(change.row)}"


if __name__ == "__main__":
    main()
