"""The ladder's stages on real models: match and deploy, count, measure at the deployment, train and score proxies.

Each task trains its own copy of the architecture, with the same recipe, seed and data order for every architecture.
Synthetic tasks scale windows and blocks with their length, so that a window strains a short task as it strains text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nas.architecture import Architecture, Scale, resized
from nas.checkpoint import save_weights
from nas.compile import compile_architecture
from nas.count import CannotMatch, count, deployed, match_parameters
from nas.measure import DoesNotFit, choose_device, choose_dtype, measure_model
from nas.measurement import Measurement
from nas.study.candidate import Candidate, Rejected
from nas.study.events import Observer
from nas.tasks import Task
from nas.training import Recipe, evaluate, fit, learning_rates
from nas.workload import Deployment


@dataclass(kw_only=True)
class ProxyEvaluator:
    """Evaluates candidates of one study. `tasks` are prepared; the first one's vocabulary is that of the proxy file.

    parameters: the number that proxies are matched to, or None. recipes: one for each task.
    """

    tasks: Mapping[str, Task]
    recipes: Mapping[str, Recipe]
    deployment: Deployment
    parameters: int | None

    def __post_init__(self) -> None:
        # At once, because a wrong device is a user's mistake.
        choose_device(self.deployment.device)

    def admit(self, architecture: Architecture) -> Candidate:
        try:
            proxy = architecture if self.parameters is None else match_parameters(architecture, self.parameters)
            return Candidate(architecture=proxy, deployed=deployed(proxy, self.deployment))
        except CannotMatch as error:
            raise Rejected(str(error)) from None

    def count(self, candidate: Candidate) -> None:
        dtype = choose_dtype(self.deployment.dtype, choose_device(self.deployment.device))
        candidate.counts = count(candidate.deployed, self.deployment.workload, dtype=dtype)

    def measure(self, candidate: Candidate) -> None:
        try:
            candidate.measurements = measure_model(candidate.deployed, self.deployment)
        except DoesNotFit as error:
            raise Rejected(str(error)) from None

    def train(self, candidate: Candidate, seed: int, observer: Observer) -> None:
        for name, task in self.tasks.items():
            observer.stage_started(f"train {name}")
            recipe = self.recipes[name]
            model = compile_architecture(self.for_task(candidate.architecture, task), seed=seed)

            def on_step(step: int, steps: int, loss: float, name: str = name) -> None:
                observer.step(name, step, steps, loss)

            rates = learning_rates(task.name)
            fit(model, task, recipe, seed=seed, learning_rates=rates, on_step=on_step)
            scores = evaluate(model, task, recipe)
            for metric in task.metrics:
                score = scores[metric.name]
                candidate.scores[metric.name] = Measurement(
                    value=score.value,
                    unit=metric.unit,
                    low=score.value - score.spread,
                    high=score.value + score.spread,
                    n=score.n,
                )
            candidate.models[name] = model

    def for_task(self, architecture: Architecture, task: Task) -> Architecture:
        """The copy that a task trains: its vocabulary, and windows scaled with the length of a synthetic task."""
        text_lengths = [t.sequence_length for t in self.tasks.values() if not t.synthetic]
        tokens = task.sequence_length / text_lengths[0] if task.synthetic and text_lengths else 1.0
        return replace(resized(architecture, Scale(tokens=tokens)), vocab_size=task.vocab_size)

    def save(self, candidate: Candidate, stem: str) -> None:
        name, model = next(iter(candidate.models.items()))
        scores = {metric: f"{m.value:.6g} {m.unit}" for metric, m in candidate.scores.items()}
        save_weights(f"{stem}.safetensors", model, {"task": name, **scores})
