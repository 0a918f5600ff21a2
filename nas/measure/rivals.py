"""The other implementations of our operations at hand, so that nobody's speed is judged by our kernels alone.

A rival takes the arguments of a public function of `kernels`, as `kernels.use_substitutes` hands them over, and answers
NotImplemented where it cannot do what is asked. It counts only once it has given the right answer on this device, with
gradients where these are wanted: `verified_rivals`. One that raises or is wrong is left out, and `refused_rivals` says
why; flash-linear-attention, for one, refuses some backward passes on Hopper under Triton versions that miscompile them.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend

import kernels
from nas.measure import rival_attention, rival_fused, rival_scans, rival_sparse
from nas.measure.child import ChildFailed, in_child
from nas.measure.memory import DoesNotFit
from nas.measure.rival_adapters import Substitute, fla_recurrence, fla_step, grouped_mm, sdpa, sdpa_step
from nas.measure.rival_cases import CASES, Case, relative_error

LIMITS = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of errors; float32 products may be TF32


@dataclass(frozen=True)
class Rival:
    """`call` stands for the public function `function` of `kernels` on devices of the named types.

    in_networks: whole networks are timed with it, too, and not kernels alone.
    """

    name: str
    function: str
    call: Substitute
    devices: tuple[str, ...] = ("cuda",)
    library: str = "torch"
    in_networks: bool = True

    def available(self, device: torch.device) -> bool:
        """Whether it may be tried; the library is looked for, not imported: fla breaks where there is no GPU."""
        return device.type in self.devices and importlib.util.find_spec(self.library) is not None


@dataclass(frozen=True)
class Verdicts:
    """Which rivals gave the right answers, and for the others, by name, why they do not count."""

    verified: tuple[Rival, ...]
    refused: dict[str, str]


def verified_rivals(device: torch.device, dtype: torch.dtype, *, gradients: bool = True) -> dict[str, list[Rival]]:
    """The rivals that count on this device, by public function; every function is a key.

    gradients: their gradients must be right too (decode steps have none). Without, a rival counts by its outputs, for
    inference. The first call on a device runs them all on small problems and takes seconds; the answer is kept.
    """
    verified = _verdicts(device, dtype, gradients).verified
    return {function: [rival for rival in verified if rival.function == function] for function in CASES}


def refused_rivals(device: torch.device, dtype: torch.dtype, *, gradients: bool = True) -> dict[str, str]:
    """Why the others do not count, one sentence a name."""
    return dict(_verdicts(device, dtype, gradients).refused)


def library_versions(best_by: str) -> dict[str, str]:
    """Versions of the libraries beside torch whose rivals are named, ` + ` between them, by what is imported."""
    named = best_by.split(" + ")
    libraries = {rival.library for rival in RIVALS if rival.name in named} - {"torch"}
    return {library: version_of_library(library) for library in sorted(libraries)}


@cache
def version_of_library(library: str) -> str:
    """The versions of the packages that bring what is imported under this name; `none` where none does."""
    packages = sorted(set(importlib.metadata.packages_distributions().get(library, ())))
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages) or "none"


def first_to_accept(rivals: Sequence[Rival]) -> Substitute:
    """One substitute out of several for the same function: the first that does not decline answers."""

    def call(*tensors: Any, **options: Any) -> Any:
        for rival in rivals:
            answer = rival.call(*tensors, **options)
            if answer is not NotImplemented:
                return answer
        return NotImplemented

    return call


@cache
def _verdicts(device: torch.device, dtype: torch.dtype, gradients: bool) -> Verdicts:
    names = tuple(rival.name for rival in RIVALS)
    ask = _complaints_from_children if device.type == "cuda" else _complaints
    complaints = ask(names, device, dtype, gradients)
    verified = tuple(rival for rival in RIVALS if complaints[rival.name] is None)
    return Verdicts(verified, {name: reason for name, reason in complaints.items() if reason is not None})


def _complaints_from_children(
    names: Sequence[str], device: torch.device, dtype: torch.dtype, gradients: bool
) -> dict[str, str | None]:
    """As `_complaints`, in processes of their own: an illegal access spoils the GPU for the process that made it."""
    found: dict[str, str | None] = {}
    left, together = list(names), True
    while left:
        batch = left if together else left[:1]
        try:
            found |= in_child(_complaints, batch, device, dtype, gradients)
        except (ChildFailed, DoesNotFit) as error:
            together = False  # one at a time, to learn which it was
            if len(batch) == 1:
                found[batch[0]] = str(error)
        left = [name for name in left if name not in found]
    return found


def _complaints(
    names: Sequence[str], device: torch.device, dtype: torch.dtype, gradients: bool
) -> dict[str, str | None]:
    """What speaks against each rival, or None; ends behind one that spoilt the GPU, as nothing runs after it."""
    by_name = {rival.name: rival for rival in RIVALS}
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = reason = _complaint(by_name[name], device, dtype, gradients)
        if reason is not None and gpu_is_spoilt(device):
            break
    return found


def gpu_is_spoilt(device: torch.device) -> bool:
    """Whether an illegal access has ended all work of this process on the GPU; on a CPU there is no such thing."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False


def _complaint(rival: Rival, device: torch.device, dtype: torch.dtype, gradients: bool) -> str | None:
    """Why a rival does not count; None if it does. It must answer a case, and rightly all that it answers."""
    if device.type not in rival.devices:
        return f"It runs on {' and '.join(rival.devices)} alone."
    if not rival.available(device):
        return f"The package {rival.library} is not installed."
    answered = 0
    for case in CASES[rival.function]:
        # Whatever another library raises is the reason why it does not count here; no library promises a type.
        try:
            error = _error(rival, case, device, dtype, gradients)
        except Exception as raised:
            return f"It raises {type(raised).__name__} on {case.name}: {' '.join(str(raised).split())[:300]}"
        if error is None:
            continue
        answered += 1
        if not error <= LIMITS[dtype]:
            return f"Its relative error on {case.name} is {error:.2g}, above {LIMITS[dtype]:g}."
    return None if answered else "It declines everything that was asked."


def _error(rival: Rival, case: Case, device: torch.device, dtype: torch.dtype, gradients: bool) -> float | None:
    """The largest relative error of outputs and gradients; None if the rival declines."""
    gradients = gradients and case.has_gradients
    declined: list[bool] = []

    def observed(*tensors: Any, **options: Any) -> Any:
        answer = rival.call(*tensors, **options)
        declined.append(answer is NotImplemented)
        return answer

    arguments = case.arguments(device, dtype)
    with kernels.use_substitutes({rival.function: observed}):
        actual = case.run(arguments, gradients)
    if declined[0]:
        return None
    return relative_error(actual, case.right_answer(arguments, gradients))


def _rivals() -> tuple[Rival, ...]:
    everywhere = ("cpu", "cuda")
    found = [
        Rival("sdpa", "attention", sdpa, everywhere),
        Rival("sdpa step", "attention_step", sdpa_step, everywhere),
        Rival("grouped_mm", "grouped_matmul", grouped_mm, everywhere),
    ]
    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }
    for name, backend in backends.items():
        found.append(Rival(f"sdpa {name}", "attention", partial(sdpa, backend=backend)))
        found.append(Rival(f"sdpa {name} step", "attention_step", partial(sdpa_step, backend=backend)))
    for kind in ("simple_gla", "gla", "delta_rule", "gated_delta_rule", "kda", "rwkv6", "rwkv7"):
        whole, step = partial(fla_recurrence, kind=kind), partial(fla_step, kind=kind)
        found.append(Rival(f"fla chunk_{kind}", "matrix_recurrence", whole, library="fla"))
        found.append(Rival(f"fla fused_recurrent_{kind}", "matrix_recurrence_step", step, library="fla"))
    for name, function, adapter, library, in_networks in rival_attention.ADAPTERS:
        found.append(Rival(name, function, adapter, library=library, in_networks=in_networks))
    for name, function, adapter in rival_sparse.ADAPTERS:
        found.append(Rival(name, function, adapter, everywhere))
    for name, function, adapter, library in rival_fused.ADAPTERS:
        devices = everywhere if library == "torch" else ("cuda",)
        found.append(Rival(name, function, adapter, devices, library, in_networks=False))
    found += [Rival(*one[:3], library=one[3]) for one in rival_scans.ADAPTERS]
    return tuple(found)


RIVALS = _rivals()
