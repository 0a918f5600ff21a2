"""Studies in memory over a real space, with counted numbers as objectives: what a sampler proposes, in seconds."""

import warnings
from itertools import pairwise

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from nas.architecture import Architecture, Attention, canonical_id, to_dict
from nas.count import count
from nas.study.front import hypervolume
from nas.study.trials import ARCHITECTURE
from search_spaces import SearchSpace

CONTEXT = 4096


def make_study(sampler: BaseSampler, objectives: int = 1) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(sampler=sampler, directions=[optuna.study.StudyDirection.MINIMIZE] * objectives)


def sampled(
    sampler: BaseSampler, space: SearchSpace, number: int, study: optuna.Study | None = None
) -> list[Architecture]:
    """So many architectures, each told to be as good as any other of its depth; `study` goes on."""
    study, found = study or make_study(sampler), []
    study.sampler = sampler

    def objective(trial: optuna.Trial) -> float:
        found.append(space(trial))
        trial.set_user_attr(ARCHITECTURE, to_dict(found[-1]))
        return float(len(found[-1].blocks))

    study.optimize(objective, n_trials=number)
    return found


def scores(architecture: Architecture) -> tuple[float, float]:
    """Two numbers that pull apart: how little the kinds alternate, and bytes of cache and state, both to be small.

    The first rewards motifs: a different mixer from layer to layer, and attention in every fourth alone.
    """
    kinds = [
        ("full" if b.mixer.window is None else "window") if isinstance(b.mixer, Attention) else b.mixer.kind
        for b in architecture.blocks
    ]
    wanted = sum((kind == "full") == (i % 4 == 3) for i, kind in enumerate(kinds)) / len(kinds)
    alternating = sum(a != b for a, b in pairwise(kinds)) / len(kinds)
    moe = sum(b.ffn.kind == "moe" for b in architecture.blocks) / len(kinds)
    return -(wanted + alternating + moe), np.log(count(architecture, CONTEXT).sequence_bytes)


def searched(sampler: BaseSampler, space: SearchSpace, number: int) -> tuple[float, int]:
    """(hypervolume, number of different architectures) after so many trials of optimising `scores`."""
    study, ids = make_study(sampler, 2), set()

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        architecture = space(trial)
        trial.set_user_attr(ARCHITECTURE, to_dict(architecture))
        ids.add(canonical_id(architecture))
        return scores(architecture)

    study.optimize(objective, n_trials=number)
    values = np.array([trial.values for trial in study.trials])
    return hypervolume(values, np.array([0.0, 16.0])), len(ids)
