"""Attention on a GPU. The kernels are in `gpu_forward.py`, `gpu_backward.py` and `gpu_step.py`, the operators that
autograd and torch.compile see in `gpu_sequence.py` and `gpu_decode.py`.

Launch configurations are looked up, with the defaults of `launch_tables.py`; nothing is tuned in passing. Where the
table of this GPU says so, a plain call goes to PyTorch's attention; not so where gradients must repeat bit for bit
(`torch.use_deterministic_algorithms`), which PyTorch's fast ones do not.
"""

import math

import torch
from torch import Tensor

from kernels._attention import portable
from kernels._attention.cases import ahead_of_time_cases as ahead_of_time_cases
from kernels._attention.cases import launch_case as launch_case
from kernels._attention.gpu_backward import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from kernels._attention.gpu_decode import attention_decode
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels._attention.gpu_sequence import attention_forward
from kernels._attention.launches import implementation_key
from kernels._attention.launches import launch_candidates as launch_candidates
from kernels._attention.options import Options, StepOptions
from kernels.tuning import choose_implementation

LN_2 = math.log(2.0)
# Whose source the choice between ours and PyTorch's depends on.
IMPLEMENTATION_KERNELS = (attention_fwd_kernel, attention_bwd_dq_kernel, attention_bwd_dkv_kernel)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    log_forget: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.attention`; without the log-sum-exp where it is not asked for."""
    if _is_plain(q, k, v, sink, log_forget, options):
        training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        repeats = training and torch.are_deterministic_algorithms_enabled()
        if not repeats and _sdpa_is_faster(q.dtype.itemsize, q.shape[3], options.causal, training, str(q.device)):
            return portable.sdpa(q, k, v, options.scale, is_causal=options.causal), None
    forgotten = None if log_forget is None else log_forget.float().cumsum(1).transpose(1, 2)  # [B, Hq, Tk]
    prefix = min(options.prefix, k.shape[1])
    # What all see, no window hides.
    num_global = max(min(options.num_global, k.shape[1]), prefix) if options.window is not None else 0
    o, lse = attention_forward(
        q, k, v, sink, forgotten, options.scale, options.causal, options.window or 0, num_global, prefix,
        options.softcap or 0.0,
    )  # fmt: skip
    return o, _natural(lse).transpose(1, 2) if options.return_lse else None


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    length: int | Tensor,
    keep: Tensor | None,
    sink: Tensor | None,
    bias: Tensor | None,
    listed: Tensor | None,
    options: StepOptions,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.attention_step`. Not differentiable; without the log-sum-exp where it is not asked for."""
    lengths, number = (length, k_cache.shape[1]) if isinstance(length, Tensor) else (None, length)
    o, lse = attention_decode(
        q, k_cache, v_cache, keep, sink, bias, lengths, listed, number, options.scale, options.softcap or 0.0,
        options.value_size,
    )  # fmt: skip
    return o, _natural(lse) if options.return_lse else None


def _is_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    log_forget: Tensor | None,
    options: Options,
) -> bool:
    """Whether PyTorch's attention computes the same without a mask, which would be T x T."""
    if sink is not None or log_forget is not None or options.softcap is not None:
        return False
    whole = options.window is None or options.window >= k.shape[1]
    square = not options.causal or q.shape[1] == k.shape[1]
    return whole and square and options.prefix == 0 and not options.return_lse and q.shape[3] == v.shape[3]


@torch.compiler.assume_constant_result
def _sdpa_is_faster(element_bytes: int, size: int, causal: bool, training: bool, device: str) -> bool:
    """By the table of this GPU; a compiled function asks once, when it is traced."""
    key = implementation_key(element_bytes, size, causal, training)
    return choose_implementation(key, IMPLEMENTATION_KERNELS, torch.device(device)) == "torch"


def _natural(lse: Tensor) -> Tensor:
    """From base 2, in which the kernels compute; what sees nothing is +inf to them."""
    return torch.where(lse == math.inf, -math.inf, lse * LN_2)
