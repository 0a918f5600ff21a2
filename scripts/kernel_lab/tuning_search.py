"""How one problem's launches are tuned: what fits is checked, what is right is timed, what is fastest is checked again.

* The default of every kernel takes part, so that a table never makes a kernel slower than it was.
* A configuration that does not fit, is wrong, crashes or hangs is refused with its reason and never timed.
* Who computes, ours or another implementation, is decided last, with our launches as they were just chosen.
* Where not even the defaults are right together, as when a compiler gets one of them wrong, single configurations are
  tried in their place until the problem comes out right, and the others are judged beside that one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kernels.tuned_table import Config, Entry, Key, Refused
from kernels.tuning import is_choice
from scripts.kernel_lab.problems import Problem

SMALLEST_GAIN = 0.01  # of the default's time; less is noise, and the default is known best

Overrides = tuple[tuple[Key, Config], ...]


class Bench(Protocol):
    """What tries launches out. A string in place of an error says why there is none; None that nothing was timed."""

    def candidates(self, key: Key) -> list[Config]: ...

    def source(self, key: Key) -> str: ...

    def complaints(self, launches: Sequence[tuple[Key, Config]]) -> list[str | None]: ...

    def errors(self, problem: Problem, overrides: Sequence[Overrides]) -> list[float | str]: ...

    def milliseconds(
        self, problem: Problem, overrides: Overrides, key: Key, configs: Sequence[Config]
    ) -> list[float] | None: ...


@dataclass
class Trial:
    """What is known so far about the candidates of one key: those that are right with their errors, and the rest."""

    key: Key
    default: Config
    candidates: list[Config]
    refused: list[Refused]
    right: list[tuple[Config, float]]


def tune(bench: Bench, problem: Problem, keys: Sequence[Key], triton_version: str) -> list[Entry]:
    """An entry for each key, without a configuration where none was right; none for a key that could not be timed."""
    entries = _tune_launches(bench, problem, [key for key in keys if not is_choice(key)], triton_version)
    ours = tuple((entry.key, entry.config) for entry in entries if entry.config is not None)
    for key in filter(is_choice, keys):
        candidates = bench.candidates(key)
        trial = Trial(key, candidates[0], candidates, [], [])
        _check(bench, problem, [trial], ours)
        times = bench.milliseconds(problem, ours, key, [config for config, _ in trial.right])
        if times is not None:
            entries.append(_entry(bench, problem, trial, triton_version, times))
    return entries


def _tune_launches(bench: Bench, problem: Problem, keys: Sequence[Key], triton_version: str) -> list[Entry]:
    if not keys:
        return []
    trials = _fitting(bench, keys)
    base = _right_base(bench, problem, trials)
    if base is None:
        reason = f"{problem.name} is wrong with the defaults and with every single launch in their place"
        for trial in trials:
            trial.refused.append(Refused(trial.default, reason))
        return [_entry(bench, problem, trial, triton_version, []) for trial in trials]
    _check(bench, problem, trials, base)
    entries = []
    for trial in trials:
        others = tuple((key, config) for key, config in base if key != trial.key)
        times = bench.milliseconds(problem, others, trial.key, [config for config, _ in trial.right])
        if times is not None:
            entries.append(_entry(bench, problem, trial, triton_version, times))
    return _checked_together(bench, problem, entries)


def check_at_other_sizes(bench: Bench, problem: Problem, keys: Sequence[Key], entries: dict[Key, Entry]) -> None:
    """Let tuned launches serve as nearest at the keys of a problem that were not tuned, where they are right."""
    found = [(key, donor) for key in keys if key not in entries and (donor := _nearest(key, entries)) is not None]
    errors = bench.errors(problem, [((key, donor.config or {}),) for key, donor in found])
    for (key, donor), error in zip(found, errors, strict=True):
        if not isinstance(error, str) and error <= 1.0:
            # Read again: the same donor may have served another key of this problem.
            now = entries[donor.key]
            entries[donor.key] = replace(now, checked_sizes=(*now.checked_sizes, key.sizes))


def _nearest(key: Key, entries: dict[Key, Entry]) -> Entry | None:
    """The nearest entry of the same kernel, each size at most one doubling away; None if it serves already."""
    distances: list[tuple[float, Entry]] = []
    for entry in entries.values():
        alike = (entry.key.kernel, entry.key.element_bytes, entry.key.flags) == (
            key.kernel,
            key.element_bytes,
            key.flags,
        )
        if not alike or entry.config is None:
            continue
        theirs = dict(entry.key.sizes)
        doublings = [abs(math.log2(size / theirs[name])) for name, size in key.sizes]
        if max(doublings, default=0.0) <= 1.0:
            distances.append((sum(doublings), entry))
    nearest = min(distances, key=lambda one: one[0], default=(0.0, None))[1]
    return None if nearest is None or key.sizes in nearest.checked_sizes else nearest


def _fitting(bench: Bench, keys: Sequence[Key]) -> list[Trial]:
    trials = [Trial(key, found[0], found, [], []) for key in keys for found in [bench.candidates(key)]]
    launches = [(trial.key, config) for trial in trials for config in trial.candidates]
    complaints = dict(zip(map(_hashable, launches), bench.complaints(launches), strict=True))
    for trial in trials:
        for config in list(trial.candidates):
            reason = complaints[_hashable((trial.key, config))]
            # The default is what runs without a table, so it is compared even where it spills.
            if reason is not None and config != trial.default:
                trial.candidates.remove(config)
                trial.refused.append(Refused(config, reason))
    return trials


def _hashable(launch: tuple[Key, Config]) -> tuple[Key, tuple[tuple[str, int], ...]]:
    return launch[0], tuple(launch[1].items())


def _right_base(bench: Bench, problem: Problem, trials: list[Trial]) -> Overrides | None:
    """What must be launched in place of defaults for the problem to come out right: mostly nothing; None if unknown."""
    if _is_right(bench.errors(problem, [()])[0]):
        return ()
    singles = [((trial.key, config),) for trial in trials for config in trial.candidates if config != trial.default]
    errors = bench.errors(problem, singles)
    return next((single for single, error in zip(singles, errors, strict=True) if _is_right(error)), None)


def _check(bench: Bench, problem: Problem, trials: list[Trial], base: Overrides) -> None:
    launches = [(trial, config) for trial in trials for config in trial.candidates]
    overrides = [tuple({**dict(base), trial.key: config}.items()) for trial, config in launches]
    for (trial, config), error in zip(launches, bench.errors(problem, overrides), strict=True):
        if isinstance(error, str):
            trial.refused.append(Refused(config, error))
        elif _is_right(error):
            trial.right.append((config, error))
        else:
            trial.refused.append(Refused(config, f"wrong: {error:.3g} times the error that is tolerated"))


def _is_right(error: float | str) -> bool:
    return not isinstance(error, str) and error <= 1.0


def _entry(bench: Bench, problem: Problem, trial: Trial, triton_version: str, times: list[float]) -> Entry:
    """`times` of the configurations that are right, in their order."""
    chosen: Config | None = None
    error = milliseconds = default_milliseconds = None
    if times:
        at_default = next((i for i, (config, _) in enumerate(trial.right) if config == trial.default), None)
        best = min(range(len(times)), key=times.__getitem__)
        if at_default is not None:
            default_milliseconds = times[at_default]
            if times[best] > (1 - SMALLEST_GAIN) * default_milliseconds:
                best = at_default
        (chosen, error), milliseconds = trial.right[best], times[best]
    return Entry(
        key=trial.key,
        config=chosen,
        default=trial.default,
        milliseconds=milliseconds,
        default_milliseconds=default_milliseconds,
        error=error,
        problem=problem.name,
        triton=triton_version,
        source=bench.source(trial.key),
        refused=tuple(trial.refused),
    )


def _checked_together(bench: Bench, problem: Problem, entries: list[Entry]) -> list[Entry]:
    """The entries if the problem is right with all of them at once; else none of them has a configuration."""
    chosen = tuple((entry.key, entry.config) for entry in entries if entry.config is not None)
    error = bench.errors(problem, [chosen])[0]
    if _is_right(error):
        return entries
    return [
        entry
        if entry.config is None
        else replace(
            entry,
            config=None,
            refused=(*entry.refused, Refused(entry.config, f"wrong beside the others chosen: {error}")),
        )
        for entry in entries
    ]
