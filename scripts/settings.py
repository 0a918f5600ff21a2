"""The composed configuration as checked objects, free of torch: a mistake is answered before anything heavy loads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from nas.architecture import Architecture, did_you_mean, read_architecture
from nas.deployment import Deployment
from nas.objectives import (
    Limit,
    Objective,
    Requirement,
    find_objective,
    parse_limits,
    parse_objectives,
    parse_requirements,
)
from nas.study.beginning.earlier import Earlier
from nas.study.rungs import Fidelity
from nas.tasks import TASKS, Task, make_tasks
from nas.training.recipe import Recipe, recipe_from
from scripts.command_line import CONF, DESIGNS, UserError, with_open_fields
from scripts.config_values import as_list, fresh_seeds, minutes, one_of, refuse_unknown, whole, word, worker_number
from scripts.contradictions import refuse_contradictions
from scripts.study_config import read_study_config
from search_spaces import SearchSpace, build_space

BUDGET_FIELDS = (
    *("trials", "trial_minutes", "noise_seeds", "confirm_seeds", "patience", "train", "deployment", "no_signal"),
    *TASKS,
)
EFFORT = ("seconds", "block_seconds", "spread", "busy", "table")  # of measuring: does not make rows incomparable
TOP_FIELDS = (
    *("study", "outputs", "seed", "device", "references", "baseline", "search_space", "task", "optimize", "require"),
    *("limits", "sampler", "priors", "fidelity", "measure", "tracker", "budget", "storage", "worker"),
    *("workers_per_gpu", "devices_per_trial", "strategy", "warm_start"),
)
STRATEGIES = ("auto", "ddp", "fsdp")
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Everything that one search needs, built and checked.

    definition: what makes rows comparable; a study whose definition differs is another study.
    no_signal: objectives and bars of this search that its budget is known not to tell designs apart by.
    """

    study: str
    directory: Path
    seed: int
    space: SearchSpace
    designs: tuple[Architecture, ...]
    baseline: str
    tasks: dict[str, Task]
    recipes: dict[str, Recipe]
    objectives: tuple[Objective, ...]
    requirements: tuple[Requirement, ...]
    ignored_requirements: tuple[Requirement, ...]
    limits: tuple[Limit, ...]
    device: str
    storage: str | None
    worker: int
    workers_per_gpu: int
    devices_per_trial: int
    strategy: str
    deployment: Deployment
    sampler: dict[str, Any]
    priors: dict[str, Any]
    fidelity: Fidelity
    earlier: tuple[Earlier, ...]
    warm_designs: tuple[Architecture, ...]
    trials: int
    noise_seeds: int
    confirm_seeds: int
    patience: int
    trial_minutes: float | None
    no_signal: tuple[str, ...]
    tracker: dict[str, Any]
    definition: dict[str, Any]
    config: dict[str, Any]

    @property
    def parameters(self) -> int | None:
        """The number that proxies are matched to; None leaves them as sampled."""
        return self.space.params if self.space.match_params else None

    @classmethod
    def from_overrides(cls, overrides: Sequence[str]) -> "SearchSettings":
        """The settings that `python search.py OVERRIDES` would run with."""
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=with_open_fields(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return cls.from_config(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))

    @classmethod
    def from_config(cls, config: DictConfig) -> "SearchSettings":
        """Raises one of the user errors, a sentence each, for whatever does not hold."""
        plain = plain_config(config)
        require_fields(plain)
        study = study_name(plain["study"])
        tasks = make_tasks(plain["task"])
        space_name = HydraConfig.get().runtime.choices["search_space"]
        vocab_size = next(iter(tasks.values())).vocab_size
        space = build_space(space_name, plain["search_space"], vocab_size=vocab_size)
        objectives = parse_objectives(plain["optimize"])
        designs = tuple(read_design(name) for name in as_list("references", plain["references"]))
        plain["baseline"] = baseline = chosen_baseline(str(plain["baseline"]), designs, space)
        requirements = parse_requirements(plain["require"], baseline)
        limits = parse_limits(plain["limits"])
        scored = {metric.name for task in tasks.values() for metric in task.metrics}
        check_scored((*objectives, *(limit.objective for limit in limits)), scored, tasks)
        judged = tuple(r for r in requirements if r.objective.stage != "train" or r.name in scored)
        budget = whole_budget(plain["budget"])
        named = [*objectives, *(r.objective for r in judged), *(limit.objective for limit in limits)]
        deployment = Deployment.from_config(plain["measure"]).asked_for(objective.name for objective in named)
        refuse_contradictions(limits, judged, deployment)
        refuse_unknown("", plain, TOP_FIELDS)
        train = budget["train"]
        fidelity = fidelity_from(plain["fidelity"])
        begun = [Path(str(path)) for path in as_list("warm_start", plain["warm_start"])]
        return cls(
            study=study,
            directory=Path(str(plain["outputs"])) / study,
            seed=whole("seed", plain["seed"], minimum=0),
            space=space,
            designs=designs,
            baseline=baseline,
            tasks=tasks,
            recipes={name: recipe_on_rungs(recipe_for(name, train), plain["fidelity"], fidelity) for name in tasks},
            objectives=objectives,
            requirements=judged,
            ignored_requirements=tuple(r for r in requirements if r not in judged),
            limits=limits,
            device=word("device", plain["device"]),
            storage=None if plain["storage"] is None else word("storage", plain["storage"]),
            worker=worker_number(plain["worker"]),
            workers_per_gpu=whole("workers_per_gpu", plain["workers_per_gpu"]),
            devices_per_trial=dealt_out(whole("devices_per_trial", plain["devices_per_trial"]), train, tasks),
            strategy=one_of("strategy", plain["strategy"], STRATEGIES),
            deployment=deployment,
            sampler=plain["sampler"],
            priors=plain["priors"],
            fidelity=fidelity,
            earlier=tuple(earlier_study(path, plain["storage"]) for path in begun if path.is_dir()),
            warm_designs=tuple(read_design(str(path)) for path in begun if not path.is_dir()),
            trials=whole("budget.trials", budget["trials"]),
            noise_seeds=whole("budget.noise_seeds", budget["noise_seeds"]),
            confirm_seeds=fresh_seeds("budget.confirm_seeds", budget.get("confirm_seeds", 0)),
            patience=whole("budget.patience", budget["patience"]),
            trial_minutes=minutes("budget.trial_minutes", budget.get("trial_minutes")),
            no_signal=without_signal(budget.get("no_signal"), [objective.name for objective in named]),
            tracker=plain["tracker"],
            config=plain,
            definition=definition_of(plain, space_name, [o.name for o in objectives], limits, list(tasks))
            | {"timed": list(deployment.quantities)}
            | ({"fidelity": plain["fidelity"]} if fidelity.top else {}),
        )


def definition_of(
    plain: Mapping[str, Any], space_name: str, optimized: list[str], limits: tuple[Limit, ...], tasks: list[str]
) -> dict[str, Any]:
    """What makes rows comparable, as plain data."""
    return {
        "search_space": {"kind": space_name, **told_of_space(plain["search_space"])},
        "optimize": optimized,
        "task": plain["task"],
        "train": {name: plain["budget"]["train"][name] for name in tasks},
        "measure": {k: v for k, v in plain["measure"].items() if k not in EFFORT},
        "limits": {limit.name: limit.bound for limit in limits},
        "seed": plain["seed"],
    }


def study_name(given: object) -> str:
    """A study's name, which is also that of its folder; raises UserError for any other word."""
    if not isinstance(given, str) or not STUDY_NAME.fullmatch(given):
        raise UserError(f"study must be a name of letters, digits, dots and dashes, but got {given!r}.")
    return given


def whole_budget(budget: Mapping[str, Any]) -> Mapping[str, Any]:
    """The budget, if it has what every search needs and nothing that none reads; raises UserError otherwise."""
    refuse_unknown("budget", budget, BUDGET_FIELDS)
    for field in ("trials", "noise_seeds", "patience", "train"):
        if field not in budget:
            raise UserError(f"budget.{field} is needed, but it was taken away; leave it out to get the default.")
    return budget


def chosen_baseline(given: str, designs: Sequence[Architecture], space: SearchSpace) -> str:
    """The baseline's name: that of a reference design, and for "auto" of the first that lies in the space, if any does.

    Raises UserError for a name that is none of theirs.
    """
    if not designs:
        raise UserError("references must name at least one design, which requirements are relative to, but is empty.")
    names = [design.name for design in designs]
    if given == "auto":
        return next((name for name, _ in space.references(designs)), names[0])
    if given not in names:
        raise UserError(
            f"baseline must be auto or one of the references, but got {given!r}. {did_you_mean(given, names)}"
        )
    return given


def require_fields(plain: Mapping[str, Any]) -> None:
    """Raise UserError for a field or group that was taken away (`~tracker`) or emptied (`tracker=null`)."""
    for name in TOP_FIELDS:
        if plain.get(name) is None and name not in ("require", "limits", "references", "storage", "warm_start"):
            raise UserError(f"{name} is needed, but it was taken away; leave it out of the command to get the default.")
    for name in ("search_space", "task", "measure", "tracker", "budget", "sampler", "priors", "fidelity"):
        if not isinstance(plain[name], Mapping):
            raise UserError(f"{name} must be a group of fields, but got {plain[name]!r}.")


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The configuration as dicts and lists, interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def check_scored(objectives: tuple[Objective, ...], scored: set[str], tasks: Mapping[str, Task]) -> None:
    """Raise UserError for an objective or limit that no task of this run gives."""
    for objective in objectives:
        if objective.stage == "train" and objective.name not in scored:
            raise UserError(
                f"{objective.name} is not scored by this run's tasks ({', '.join(tasks)} give "
                f"{', '.join(sorted(scored))}); choose another task=... or other objectives."
            )


def without_signal(names: object, used: Sequence[str]) -> tuple[str, ...]:
    """Those of the used objectives and bars that `budget.no_signal` names. Raises for a name that is no score."""
    found = []
    for name in as_list("budget.no_signal", names):
        if not find_objective(name).is_quality:
            raise UserError(f"budget.no_signal names scores of tasks, but {name} is counted or measured; take it out.")
        if name in used:
            found.append(str(name))
    return tuple(found)


def recipe_for(task: str, train: Any) -> Recipe:
    """The recipe of a task in the budget's `train` section."""
    if not isinstance(train, Mapping) or task not in train:
        raise UserError(f"budget.train needs a recipe for the task {task!r}. {did_you_mean(task, train or ())}")
    if not isinstance(train[task], Mapping):
        raise UserError(f"budget.train.{task} must be a recipe such as {{tokens: 100000}}, but got {train[task]!r}.")
    return recipe_from(dict(train[task]))


def earlier_study(directory: Path, storage: str | None) -> Earlier:
    """A study to learn from, by its folder. Raises UserError for a folder that holds none.

    storage: of this run, with the password that a folder does not keep of a database.
    """
    from nas.study.storage.connect import HIDDEN, shown

    config = read_study_config(directory)
    kept = config.get("storage")
    if kept is not None and storage is not None and kept == shown(storage):
        kept = storage
    if kept is not None and f":{HIDDEN}@" in kept:
        raise UserError(
            f"warm_start names the study in {directory}, which is kept at {kept}, but no password is kept in files; "
            "give this run the same storage, with it."
        )
    return Earlier(directory=directory, name=str(config["study"]), storage=kept)


def fidelity_from(given: Mapping[str, Any]) -> Fidelity:
    """The rungs of a file in conf/fidelity. Raises RungsError or UserError for what does not hold."""
    refuse_unknown("fidelity", given, ("shares", "warmup", "decay"))
    shares = tuple(as_list("fidelity.shares", given.get("shares")))
    decay = given.get("decay", 0.0)
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise UserError(f"fidelity.decay must be a share from 0 to below 1, but got {decay!r}.")
    return Fidelity(shares=shares, decay=float(decay) if len(shares) > 1 else 0.0)


def recipe_on_rungs(recipe: Recipe, given: Mapping[str, Any], fidelity: Fidelity) -> Recipe:
    """The recipe with the schedule that rungs need; as it is where there is only one. The warm-up is over before the
    first rung decays."""
    if not fidelity.top:
        return recipe
    recipe = replace(recipe, schedule="wsd", warmup=given.get("warmup", recipe.warmup), decay=fidelity.decay)
    first = fidelity.shares[0] * (1 - fidelity.decay)
    if recipe.warmup > first:
        raise UserError(
            f"fidelity.warmup must be over when the first rung decays, at {first:g} of the tokens, but got "
            f"{recipe.warmup:g}; make it shorter or the first of fidelity.shares larger."
        )
    return recipe


def read_design(name: object) -> Architecture:
    """An architecture by its name in conf/designs, or by its path."""
    known = {path.stem: path for path in DESIGNS.glob("*.yaml")}
    if name in known:
        return read_architecture(known[str(name)])
    if not Path(str(name)).exists():
        raise UserError(f"There is no design and no file {str(name)!r}. {did_you_mean(name, known)}")
    return read_architecture(str(name))


def dealt_out(devices: int, train: Any, tasks: Mapping[str, Task]) -> int:
    """The number of devices, if they can share every batch alike; raises UserError otherwise."""
    for name in tasks:
        size = recipe_for(name, train).batch_size
        if size % devices:
            raise UserError(
                f"devices_per_trial must divide every batch, but {devices} does not divide "
                f"budget.train.{name}.batch_size={size}."
            )
    return devices


def told_of_space(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a space as a definition keeps them: a causal loss is left out, as before there was another."""
    return {name: value for name, value in fields.items() if (name, value) != ("loss", "causal")}
