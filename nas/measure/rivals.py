"""The other implementations of our operations at hand, so that nobody's speed is judged by our kernels alone.

A rival takes the arguments of a public function of `kernels`, as `kernels.use_substitutes` hands them over, and answers
NotImplemented where it cannot do what is asked. It counts only once it has given the right answer on this device, with
gradients where these are wanted: `verified_rivals`. One that raises or is wrong is left out, and `refused_rivals` says
why; flash-linear-attention, for one, refuses some backward passes on Hopper under Triton versions that miscompile them.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import kernels
from nas.measure.child import ChildFailed, in_child
from nas.measure.memory import DoesNotFit
from nas.measure.rival_cases import CASES, Case, relative_error

LIMITS = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of errors; float32 products may be TF32
SPOILT = "CUDA error"  # in messages of a process whose GPU context answers nothing any more
Substitute = Callable[..., Any]  # takes what the public function takes, and these have unlike signatures


@dataclass(frozen=True)
class Rival:
    """`call` stands for the public function `function` of `kernels` on devices of the named types."""

    name: str
    function: str
    call: Substitute
    devices: tuple[str, ...] = ("cuda",)
    library: str = "torch"

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
        if reason is not None and SPOILT in reason:
            break
    return found


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


# Scaled dot-product attention of PyTorch, as it chooses itself and by each of its back-ends.


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    block_mask: Tensor | None,
    block_size: int | None,
    backend: SDPBackend | None = None,
) -> Tensor:
    """`kernels.attention` by `scaled_dot_product_attention`; a block mask it declines: T x T for each head."""
    queries, keys = q.shape[1], k.shape[1]
    if block_mask is not None:
        return NotImplemented
    plain = causal and queries == keys and (window is None or window >= keys)
    mask = None if plain or not causal else band(queries, keys, window, q.device)
    if mask is not None and backend is SDPBackend.FLASH_ATTENTION:
        return NotImplemented
    o = attend(*(x.transpose(1, 2) for x in (q, k, v)), mask=mask, is_causal=plain, scale=scale, backend=backend)
    return o if o is NotImplemented else o.transpose(1, 2)


def sdpa_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    length: int,
    *,
    scale: float,
    keep: Tensor | None,
    backend: SDPBackend | None = None,
) -> Tensor:
    """`kernels.attention_step` by `scaled_dot_product_attention`: the heads of a group are queries of one key head."""
    if keep is not None and backend is SDPBackend.FLASH_ATTENTION:
        return NotImplemented
    batch, heads, size = q.shape
    kv_heads = k_cache.shape[2]
    k, v = (cache[:, :length].transpose(1, 2) for cache in (k_cache, v_cache))
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, size)
    if keep is None:
        o = attend(grouped, k, v, mask=None, is_causal=False, scale=scale, backend=backend)
        return o if o is NotImplemented else o.reshape(batch, heads, size)
    keep = keep[:, :, :length].unsqueeze(2)
    sees_any = keep.any(dim=-1, keepdim=True)
    o = attend(grouped, k, v, mask=keep | ~sees_any, is_causal=False, scale=scale, backend=backend)
    return o if o is NotImplemented else torch.where(sees_any, o, 0.0).reshape(batch, heads, size)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, is_causal: bool, scale: float, backend: SDPBackend | None
) -> Tensor:
    """[B, H, T, D] in and out; NotImplemented where the back-end that is asked for has no kernel for it."""
    grouped = q.shape[1] != k.shape[1]
    run = partial(
        F.scaled_dot_product_attention,
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=grouped,
    )
    if backend is None:
        return run()
    try:
        with sdpa_kernel(backend):
            return run()
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        return NotImplemented


def band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Bool [Tq, Tk]: the positions up to a query's own, the last `window` of them where there is one."""
    position = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key = torch.arange(keys, device=device)
    seen = key <= position
    return seen if window is None else seen & (key > position - window)


# Grouped products of PyTorch.


def grouped_mm(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """`kernels.grouped_matmul` by `torch.nn.functional.grouped_mm`, which leaves rows of no group unwritten.

    They are given to the last group with zeros for their values: product and gradients are then zero.
    """
    ends = group_sizes.cumsum(0).to(torch.int32)
    inside = torch.arange(x.shape[0], device=x.device) < ends[-1]
    ends[-1] = x.shape[0]
    return F.grouped_mm(torch.where(inside.unsqueeze(1), x, 0.0), w, offs=ends)


# flash-linear-attention: one function for each kind of decay, with and without the delta rule.


def fla_function(module: str, name: str) -> Substitute:
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


def kind_of(v: Tensor, log_decay: Tensor | None, beta: Tensor | None) -> str:
    """The published layer whose recurrence this is, by the names of fla's modules."""
    if log_decay is None:
        return "simple_gla" if beta is None else "delta_rule"
    per_channel = log_decay.dim() == v.dim()
    if beta is None:
        return "gla" if per_channel else "simple_gla"
    if log_decay.dim() == 1:
        return "fixed decay with delta rule"  # nobody's layer
    return "kda" if per_channel else "gated_delta_rule"


def fla_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    scale: float,
    kind: str,
    form: str = "chunk",
) -> Tensor | tuple[Tensor, Tensor]:
    """`kernels.matrix_recurrence` by one function of fla; all other kinds of layer are declined."""
    if kind_of(v, log_decay, beta) != kind:
        return NotImplemented
    if log_decay is not None and log_decay.dim() == 1 and log_decay.requires_grad and torch.is_grad_enabled():
        return NotImplemented  # fla gives a fixed decay no gradient
    if kind not in ("gated_delta_rule", "kda"):  # these two share query heads themselves
        group = v.shape[2] // q.shape[2]
        q, k = (x if group == 1 else x.repeat_interleave(group, dim=2) for x in (q, k))
    options: dict[str, Any] = {"scale": scale, "initial_state": initial_state, "output_final_state": return_state}
    if log_decay is not None:
        gate = "gk" if (kind, form) == ("gla", "fused_recurrent") else "g"
        options["g_gamma" if log_decay.dim() == 1 else gate] = log_decay
    if beta is not None:
        options["beta"] = beta
    o, state = fla_function(kind, f"{form}_{kind}")(q, k, v, **options)
    return (o, state) if return_state else o


def fla_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    log_decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    kind: str,
) -> tuple[Tensor, Tensor]:
    """`kernels.matrix_recurrence_step` by fla's token-by-token kernels over one token."""
    fixed = log_decay is not None and log_decay.dim() == 1
    answer = fla_recurrence(
        q.unsqueeze(1),
        k.unsqueeze(1),
        v.unsqueeze(1),
        log_decay=log_decay if log_decay is None or fixed else log_decay.unsqueeze(1),
        beta=None if beta is None else beta.unsqueeze(1),
        initial_state=state,
        return_state=True,
        scale=scale,
        kind=kind,
        form="fused_recurrent",
    )
    if not isinstance(answer, tuple):
        return NotImplemented
    return answer[0].squeeze(1), answer[1]


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
    for kind in ("simple_gla", "gla", "delta_rule", "gated_delta_rule", "kda"):
        whole, step = partial(fla_recurrence, kind=kind), partial(fla_step, kind=kind)
        found.append(Rival(f"fla chunk_{kind}", "matrix_recurrence", whole, library="fla"))
        found.append(Rival(f"fla fused_recurrent_{kind}", "matrix_recurrence_step", step, library="fla"))
    return tuple(found)


RIVALS = _rivals()
