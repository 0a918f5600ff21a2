"""A tiny space and an evaluator that costs nothing, for tests of the run loop."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2
from nas.measurement import Measurement
from nas.objectives import parse_limits, parse_objectives, parse_requirements
from nas.study.bars import Bars
from nas.study.candidate import Candidate
from nas.study.crew import Crew
from nas.study.events import Observer
from nas.study.loop import Loop
from nas.study.rungs import Fidelity
from nas.study.samplers import Prior, make_sampler
from nas.study.storage.studies import open_study
from nas.study.trials import enqueue_references

OBJECTIVES = parse_objectives(["text_loss", "decode_latency_ms"])


def space(trial: Any) -> Architecture:
    """16 points: four layers, each attention or Mamba-2."""
    mixers = [trial.suggest_categorical(f"layers.{i}.mixer", ["attention", "mamba2"]) for i in range(4)]
    blocks = tuple(
        Block(
            mixer=Attention(num_heads=2, head_dim=16) if m == "attention" else Mamba2(num_heads=2, head_dim=16),
            ffn=Glu(d_ff=64),
        )
        for m in mixers
    )
    return Architecture(name="".join(m[0] for m in mixers), d_model=32, vocab_size=256, blocks=blocks)


ALL_ATTENTION = {f"layers.{i}.mixer": "attention" for i in range(4)}


@dataclass
class FreeEvaluator:
    """Text loss falls and latency grows with the number of attention layers; recall is their share."""

    fails: frozenset[str] = frozenset()
    trained: list[tuple[str, int]] = field(default_factory=list)
    let_gone: list[tuple[str, bool]] = field(default_factory=list)
    on_train: Any = None
    on_measure: Any = None
    on_hang: Any = None

    def admit(self, architecture: Architecture) -> Candidate:
        return Candidate(architecture=architecture, deployed=architecture)

    def count(self, candidate: Candidate) -> None:
        layers = sum(isinstance(m, Attention) for m in candidate.architecture.mixers)
        candidate.counts = SimpleNamespace(
            parameters=1000, active_parameters=1000, sequence_bytes=100 * layers + 1, flops_decode=10
        )

    def measure(self, candidate: Candidate) -> None:
        if self.on_measure is not None:
            self.on_measure(candidate.architecture.name)
        layers = sum(isinstance(m, Attention) for m in candidate.architecture.mixers)
        candidate.measurements = {"decode_latency_ms": Measurement.exact(1.0 + layers, "ms")}

    def confirm(self, candidate: Candidate) -> bool:
        """Nothing was predicted."""
        return False

    def train(self, candidate: Candidate, seed: int, observer: Any, share: float = 1.0) -> None:
        name = candidate.architecture.name
        if name in self.fails:
            raise FloatingPointError(f"the loss of {name} is not finite")
        self.trained.append((name, seed))
        if self.on_train is not None:
            self.on_train(name)
        layers = sum(isinstance(m, Attention) for m in candidate.architecture.mixers)
        candidate.scores = {
            "text_loss": Measurement.exact(3.0 - 0.1 * layers + 0.001 * seed, "bits/byte"),
            "recall": Measurement.exact(layers / 4, "share"),
        }

    def let_go(self, identity: str, *, ended: bool) -> None:
        self.let_gone.append((identity, ended))

    def save(self, candidate: Candidate, stem: str) -> None:
        Path(f"{stem}.safetensors").write_bytes(b"weights")


class Silent(Observer):
    """An observer that remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def run_toy(
    directory: Path,
    *,
    trials: int,
    evaluator: FreeEvaluator | None = None,
    sampler: str = "random",
    require: dict[str, float] | None = None,
    limits: dict[str, float] | None = None,
    seed: int = 0,
    patience: int = 50,
    definition: dict[str, Any] | None = None,
    fidelity: Fidelity | None = None,
    noise_seeds: int = 1,
    storage: str | None = None,
) -> Loop:
    """One run of the toy study in `directory`, as search.py would make it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    evaluator = evaluator or FreeEvaluator()
    bars = Bars(
        objectives=OBJECTIVES,
        requirements=parse_requirements(require),
        limits=parse_limits(limits),
        reference="all-attention",
    )
    definition = definition or {"search_space": {"mixers": ["a", "m"]}}
    study = open_study(directory, "toy", OBJECTIVES, definition, None, storage=storage)
    with Crew(study) as crew:
        with crew.turn():
            enqueue_references(study, [("all-attention", ALL_ATTENTION)])
        crew.requeue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = make_sampler(
                {"name": sampler},
                seed=seed,
                trials=trials,
                already_sampled=len(study.trials),
                space=space,
                prior=Prior(),
            )
        loop = Loop(
            study=study,
            crew=crew,
            space=space,
            evaluator=evaluator,
            bars=bars,
            observer=Silent(),
            directory=directory,
            trials=trials,
            seed=seed,
            patience=patience,
            fidelity=fidelity or Fidelity(),
            noise_seeds=noise_seeds,
        )
        evaluator.on_hang = loop.give_up
        loop.run()
        loop.confirm()
    return loop
