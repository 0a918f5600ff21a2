"""Small problems on which another implementation must be right before it counts, with their right answers.

The right answer is ours, token by token in float32 (`kernels.use_backend("reference")`). Lengths are no multiples of a
chunk or tile, and heads are shared, because that is where an adapter goes wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from nas.measure import rival_fused, rival_scans, rival_sparse

Arguments = dict[str, Any]  # of functions with unlike signatures
Make = Callable[[torch.Generator], Arguments]
TOKENS, SIZE = 70, 64


@dataclass(frozen=True)
class Case:
    """One call of one public function. `make` gives its arguments in float32, with those that are tokens."""

    name: str
    function: str
    make: Make
    has_gradients: bool = True

    def arguments(self, device: torch.device, dtype: torch.dtype) -> Arguments:
        """The same numbers on every device. Gates and states stay in float32, as our layers hand them over."""
        made = self.make(torch.Generator().manual_seed(0))
        kept = ("log_decay", "log_forget", "sink", "beta", "A", "initial_state", "state", "cos", "sin")
        kept += ("w", "u") if self.function == "wkv" else ()
        for name, value in made.items():
            if isinstance(value, Tensor):
                floating = value.is_floating_point() and name not in kept
                made[name] = value.to(device, dtype) if floating else value.to(device)
        return made

    def run(self, arguments: Arguments, gradients: bool) -> list[Tensor]:
        """Outputs, then the gradients of a fixed loss with respect to every tensor that has one."""
        function = getattr(kernels, self.function)
        if not gradients:
            with torch.no_grad():
                return as_list(function(**as_called(arguments)))
        leaves = {
            name: value.detach().requires_grad_()
            for name, value in arguments.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        outputs = as_list(function(**as_called(arguments | leaves)))
        learnt = [o for o in outputs if o.requires_grad]  # indices are not
        weights = [torch.linspace(-1, 1, o.numel(), device=o.device).reshape(o.shape).to(o.dtype) for o in learnt]
        taken = torch.autograd.grad(learnt, list(leaves.values()), weights)
        return [*(o.detach() for o in outputs), *taken]

    def right_answer(self, arguments: Arguments, gradients: bool) -> list[Tensor]:
        """Of the same numbers, in float32, by us even where somebody's implementation is in place."""
        exact = {
            name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in arguments.items()
        }
        with kernels.use_substitutes({self.function: decline}), kernels.use_backend("reference"):
            return self.run(exact, gradients)


def decline(*tensors: object, **options: object) -> object:
    return NotImplemented


def as_called(arguments: Arguments) -> Arguments:
    """As the public function takes them: what it takes as a pair has one argument each here."""
    called = dict(arguments)
    pairs = {
        "erase": ("erase_a", "erase_b"),
        "state": ("state_S", "state_m"),
        "initial_state": ("initial_S", "initial_m"),
    }
    for name, parts in pairs.items():
        if parts[0] in called:
            called[name] = tuple(called.pop(part) for part in parts)
    return called


def as_list(output: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return list(output) if isinstance(output, tuple) else [output]


def relative_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    """The largest root mean square of an error against that of the right answer; infinite where shapes differ."""
    worst = 0.0
    for one, right in zip(actual, expected, strict=True):
        if one.shape != right.shape or not bool(torch.isfinite(one).all()):
            return float("inf")
        difference = (one.double() - right.double()).square().mean().sqrt()
        worst = max(worst, float(difference / right.double().square().mean().sqrt().clamp_min(1e-12)))
    return worst


def attention(
    queries: int, *, value_size: int = SIZE, sinks: bool = False, forgetting: bool = False, **options: Any
) -> Make:
    def make(generator: torch.Generator) -> Arguments:
        q = torch.randn(2, queries, 4, SIZE, generator=generator)
        k, v = (torch.randn(2, TOKENS, 2, size, generator=generator) for size in (SIZE, value_size))
        made = {"q": q, "k": k, "v": v, **options}
        if sinks:
            made["sink"] = torch.randn(4, generator=generator)
        if forgetting:
            made["log_forget"] = F.logsigmoid(torch.randn(2, TOKENS, 4, generator=generator)) / 8
        return made

    return make


def attention_step(*, length: int | list[int], kept: bool) -> Make:
    """Lengths in a list lie on the device, one a sequence."""

    def make(generator: torch.Generator) -> Arguments:
        q = torch.randn(2, 4, SIZE, generator=generator)
        k, v = (torch.randn(2, TOKENS, 2, SIZE, generator=generator) for _ in range(2))
        keep = torch.rand(2, 2, TOKENS, generator=generator) < 0.3
        keep[0, 0] = False  # a head that sees nothing
        filled = torch.tensor(length) if isinstance(length, list) else length
        return {"q": q, "k_cache": k, "v_cache": v, "length": filled, "keep": keep if kept else None}

    return make


def latent_step(generator: torch.Generator) -> Arguments:
    """Values that are the first numbers of the keys."""
    q = torch.randn(2, 4, SIZE + 16, generator=generator)
    cache = torch.randn(2, TOKENS, 1, SIZE + 16, generator=generator)
    return {"q": q, "k_cache": cache, "v_cache": None, "value_size": SIZE, "length": 50}


def recurrence(*, gate: str, extra: str = "", state: bool = True, step: bool = False) -> Make:
    """`gate`: none, fixed [Hv], head [..., Hv] or channel [..., Hv, K]; for a step, without the axis of tokens.

    extra: delta (beta), erase (as RWKV-7 does) or bonus.
    """

    def make(generator: torch.Generator) -> Arguments:
        lead = (2,) if step else (2, TOKENS)
        q = torch.randn(*lead, 2, SIZE, generator=generator)
        k = F.normalize(torch.randn(*lead, 2, SIZE, generator=generator), dim=-1)
        made: Arguments = {"q": q, "k": k, "v": torch.randn(*lead, 4, SIZE, generator=generator)}
        if gate != "none":
            shape = {"fixed": (4,), "head": (*lead, 4), "channel": (*lead, 4, SIZE)}[gate]
            made["log_decay"] = F.logsigmoid(torch.randn(*shape, generator=generator)) / 8
        if extra == "delta":
            made["beta"] = torch.randn(*lead, 4, generator=generator).sigmoid()
        if extra == "erase":
            key = F.normalize(torch.randn(*lead, 4, SIZE, generator=generator), dim=-1)
            rate = torch.randn(*lead, 4, SIZE, generator=generator).sigmoid()
            made |= {"erase_a": -key, "erase_b": key * rate}
        if extra == "bonus":
            made["bonus"] = torch.randn(4, SIZE, generator=generator)
        start = torch.randn(2, 4, SIZE, SIZE, generator=generator)
        if step:
            return made | {"state": start}
        return made | ({"initial_state": start, "return_state": True} if state else {})

    return make


def experts(*, spare: int) -> Make:
    """Uneven groups, one of them empty; `spare` rows belong to none."""

    def make(generator: torch.Generator) -> Arguments:
        sizes = torch.tensor([17, 0, 40, 7], dtype=torch.int32)
        x = torch.randn(int(sizes.sum()) + spare, SIZE, generator=generator)
        return {"x": x, "w": torch.randn(4, SIZE, 48, generator=generator) / 8, "group_sizes": sizes}

    return make


def recurrence_cases() -> tuple[Case, ...]:
    settings = (
        ("no decay", "none", ""),
        ("decay by head", "head", ""),
        ("decay by channel", "channel", ""),
        ("delta rule", "none", "delta"),
        ("delta rule with decay by head", "head", "delta"),
        ("delta rule with decay by channel", "channel", "delta"),
        ("free erase", "channel", "erase"),
        ("bonus", "channel", "bonus"),
    )
    name, plain, step = "matrix_recurrence", [], []
    for label, gate, extra in settings:
        plain.append(Case(label, name, recurrence(gate=gate, extra=extra, state=False)))
        plain.append(Case(f"{label}, from a state", name, recurrence(gate=gate, extra=extra)))
        step.append(Case(label, f"{name}_step", recurrence(gate=gate, extra=extra, step=True), has_gradients=False))
    # A fixed decay gets a gradient from us alone.
    return (*plain, Case("fixed decay", name, recurrence(gate="fixed"), has_gradients=False), *step)


def cases() -> dict[str, tuple[Case, ...]]:
    everything = (
        Case("causal", "attention", attention(TOKENS)),
        Case("not causal", "attention", attention(30, causal=False)),
        Case("later queries", "attention", attention(30)),
        Case("window", "attention", attention(TOKENS, window=20)),
        Case("window and global keys", "attention", attention(TOKENS, window=20, num_global=3)),
        Case("prefix", "attention", attention(TOKENS, prefix=30)),
        Case("sinks", "attention", attention(TOKENS, sinks=True)),
        Case("forget gates", "attention", attention(TOKENS, forgetting=True)),
        Case("caps and the log-sum-exp", "attention", attention(30, softcap=2.0, sinks=True, return_lse=True)),
        Case("values of another size", "attention", attention(TOKENS, value_size=32)),
        Case("step", "attention_step", attention_step(length=50, kept=False), has_gradients=False),
        Case("step of two lengths", "attention_step", attention_step(length=[50, 9], kept=True), has_gradients=False),
        Case("latent step", "attention_step", latent_step, has_gradients=False),
        Case("step over kept slots", "attention_step", attention_step(length=50, kept=True), has_gradients=False),
        *recurrence_cases(),
        Case("experts", "grouped_matmul", experts(spare=0)),
        Case("experts and spare rows", "grouped_matmul", experts(spare=5)),
        *(Case(*one) for one in (*rival_fused.CASES, *rival_scans.CASES, *rival_sparse.CASES)),
    )
    functions = ("attention", "attention_step", "grouped_matmul", "matrix_recurrence", "matrix_recurrence_step")
    functions += rival_fused.FUNCTIONS + rival_scans.FUNCTIONS + rival_sparse.FUNCTIONS
    return {name: tuple(case for case in everything if case.function == name) for name in functions}


CASES = cases()
