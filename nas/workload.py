"""What a deployed network is asked to do: phases that can be timed each by itself, and the workloads made of them.

Phases are never added up: they are bound by different things (arithmetic, memory bandwidth, launches), and which of
them matters is the user's to say. Free of torch, so that a mistake is answered before torch is imported.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

from nas.architecture import did_you_mean

LONGEST_CONTEXT = 2**24
"""Rotary positions are exact in float32 only up to here."""

DENOISED = 32
"""Masks behind a text that is continued by denoising: they are read in each pass, and replaced one after the other."""


class WorkloadError(ValueError):
    """A configuration of the deployment breaks a rule. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Forward, backward and one step of the optimizer on `batch` sequences of `tokens` tokens."""

    batch: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Reading `batch` prompts of `prompt` tokens from the start, up to the logits of the next token."""

    batch: int
    prompt: int


@dataclass(frozen=True, kw_only=True)
class Decode:
    """One new token for each of `batch` sequences that hold `context` tokens."""

    batch: int
    context: int


Phase = TrainStep | Prefill | Decode


@lru_cache(maxsize=1024)
def lengthened(phase: Phase, tokens: int) -> Phase:
    """The phase with so many more tokens in a sequence, or before the new one."""
    if tokens == 0:
        return phase
    if isinstance(phase, TrainStep):
        return replace(phase, tokens=phase.tokens + tokens)
    if isinstance(phase, Prefill):
        return replace(phase, prompt=phase.prompt + tokens)
    return replace(phase, context=phase.context + tokens)


PHASES: dict[str, type[Phase]] = {"train_step": TrainStep, "prefill": Prefill, "decode": Decode}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The sizes of all workloads.

    serve: `concurrency` sequences, each a prompt of `prompt` tokens continued by `new_tokens`. prefill: `batch` prompts
    of `prompt` tokens. decode: one token at `context` tokens, for one sequence and for `batch`. train_step: `batch`
    sequences of `tokens` tokens. context: tokens that a sequence holds, for decode and for the bytes of a sequence;
    None is the end of serve, prompt + new_tokens.
    """

    prompt: int = 512
    new_tokens: int = 7168
    concurrency: int = 1
    context: int | None = None
    batch: int = 8
    tokens: int = 512

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name != "context" or self.context is not None:
                whole_number(f.name, getattr(self, f.name))
        for name, length in (("prompt + measure.new_tokens", self.prompt + self.new_tokens), ("context", self.length)):
            if length > LONGEST_CONTEXT:
                raise WorkloadError(
                    f"measure.{name} must be at most {LONGEST_CONTEXT:,} tokens, because rotary positions are exact "
                    f"only up to there, but got {length:,}."
                )

    @property
    def length(self) -> int:
        """Tokens that a sequence holds."""
        return self.prompt + self.new_tokens if self.context is None else self.context

    def phase(self, quantity: str, *, causal: bool = True) -> Phase:
        """The phase whose time a quantity is, such as `decode_latency_ms`.

        A network that is not causal keeps nothing: for each new token it reads everything, and behind it the masks that
        stand for the next ones (`nas.denoising`).
        """
        phase = QUANTITIES[quantity](self)
        if not causal and isinstance(phase, Decode):
            return Prefill(batch=phase.batch, prompt=phase.context + DENOISED)
        return lengthened(phase, 0 if causal or quantity != FIRST_TOKEN else DENOISED)


FIRST_TOKEN = "time_to_first_token_ms"
QUANTITIES: dict[str, Callable[[Workload], Phase]] = {
    FIRST_TOKEN: lambda w: Prefill(batch=1, prompt=w.prompt),
    # Latency grows with the context in a straight line, so the middle of an answer is its mean. Not where a token costs
    # a pass over everything: there attention grows with the square, and the mean is up to a third above the middle.
    "time_per_output_token_ms": lambda w: Decode(batch=w.concurrency, context=w.prompt + w.new_tokens // 2),
    "prefill_latency_ms": lambda w: Prefill(batch=w.batch, prompt=w.prompt),
    "decode_latency_ms": lambda w: Decode(batch=1, context=w.length),
    "batched_decode_latency_ms": lambda w: Decode(batch=w.batch, context=w.length),
    "train_step_ms": lambda w: TrainStep(batch=w.batch, tokens=w.tokens),
}
"""What is timed, and the phase that each is the time of."""

WORKLOADS: dict[str, tuple[str, ...]] = {
    "serve": ("time_to_first_token_ms", "time_per_output_token_ms"),
    "prefill": ("prefill_latency_ms",),
    "decode": ("decode_latency_ms", "batched_decode_latency_ms"),
    "train_step": ("train_step_ms",),
}
"""The quantities of each workload."""

TRAINING_MEMORY = (
    *("train_peak_memory_bytes", "train_peak_reserved_bytes", "optimizer_bytes", "saved_for_backward_bytes"),
)
"""Numbers that come with `train_step_ms`."""

INFERENCE_MEMORY = ("peak_memory_bytes", "peak_reserved_bytes")
"""Numbers that come with any phase of inference."""


def quantities_of(workloads: object) -> tuple[str, ...]:
    """The quantities of the named workloads, `serve` or a list. Raises WorkloadError for an unknown name."""
    names: Iterable[Any] = [workloads] if isinstance(workloads, str) else workloads  # type: ignore[assignment]
    if not isinstance(names, list | tuple) or not names:
        raise WorkloadError(f"measure.workloads must name at least one workload, but got {workloads!r}.")
    found: list[str] = []
    for name in names:
        if not isinstance(name, str) or name not in WORKLOADS:
            raise WorkloadError(f"There is no workload {name!r}. {did_you_mean(name, WORKLOADS)}")
        found.extend(WORKLOADS[name])
    return tuple(dict.fromkeys(found))


def quantities_behind(name: str) -> tuple[str, ...]:
    """What must be timed for a measured number to be known."""
    if name in TRAINING_MEMORY:
        return ("train_step_ms",)
    return (name,) if name in QUANTITIES else ()


def phase_to_dict(phase: Phase) -> dict[str, Any]:
    """`{kind: decode, batch: 1, context: 4096}`."""
    kind = next(name for name, cls in PHASES.items() if isinstance(phase, cls))
    return {"kind": kind, **asdict(phase)}


def phase_from_dict(data: dict[str, Any]) -> Phase:
    """The phase that `phase_to_dict` wrote; raises KeyError or TypeError for anything else."""
    given = dict(data)
    return PHASES[given.pop("kind")](**given)


def describe_phase(phase: Phase) -> str:
    """`decoding 1 sequence at 4,096 tokens`, for a reader."""
    many = "sequence" if phase.batch == 1 else "sequences"
    if isinstance(phase, Decode):
        return f"decoding {phase.batch} {many} at {phase.context:,} tokens"
    if isinstance(phase, Prefill):
        return f"reading {phase.batch} {many} of {phase.prompt:,} tokens"
    return f"a training step on {phase.batch} {many} of {phase.tokens:,} tokens"


def whole_number(name: str, value: object) -> None:
    """Raise WorkloadError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WorkloadError(f"measure.{name} must be a whole number of at least 1, but got {value!r}.")
