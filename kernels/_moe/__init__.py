"""Mixtures of experts: each token through the experts chosen for it, weighted and summed; and who is chosen.

No token is dropped, whatever the experts' loads: the choices are sorted by expert and multiplied group by group.

Source: Gale et al., MegaBlocks (arXiv 2211.15841), section 3; that neither the sorted tokens nor the experts' outputs
need to be kept: Guo et al., SonicMoE (arXiv 2512.14080), section 3. Clamps, biases and the offset: gpt-oss (arXiv
2508.10925), section 2.
"""

from types import ModuleType

import torch
from torch import Tensor

from kernels._moe import portable, reference
from kernels._moe.expert import ACTIVATIONS, Expert
from kernels.arguments import check_number, check_optional_tensors, check_switches, check_tensors
from kernels.backend import ask_substitute, choose_backend
from kernels.dtypes import DTYPES, as_autocast, check_dtype


def moe_ffn(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    *,
    b_in: Tensor | None = None,
    b_out: Tensor | None = None,
    activation: str = "silu",
    gated: bool = True,
    clamp: float | None = None,
    up_offset: float = 0.0,
) -> Tensor:
    """The weighted sum of experts: y_t = sum_k expert_weight_tk expert(expert_index_tk)(x_t).

    An expert e is (activation(gate) * (up + up_offset)) w_out[e] + b_out[e] with gate and up the halves of x w_in[e] +
    b_in[e]; without a gate, activation(x w_in[e] + b_in[e]) w_out[e] + b_out[e].

    Args:
        x: tokens [T, d].
        w_in: [E, d, 2 I], the columns of the gate, then those of the up projection; [E, d, I] where not `gated`.
        w_out: [E, I, d]. Under autocast x, weights and biases are cast to its type; otherwise they have one type.
        expert_index: [T, K] int32 or int64, 0 to E - 1; -1 chooses no expert and adds nothing.
        expert_weight: [T, K] in float32, as from `route_top_k`, float16 or bfloat16; it counts in float32.
        b_in, b_out: [E, 2 I] (or [E, I]) and [E, d], each by itself optional.
        activation: silu, gelu, gelu_tanh (its approximation), quick_gelu (x sigmoid(1.702 x)) or relu2 (relu squared).
        gated: whether half of the first product gates the other.
        clamp: gates are at most this, and ups at most this in size, before activation and offset; needs `gated`.
        up_offset: added to ups; needs `gated`.

    Returns y [T, d] in the type of x. x, weights, biases and expert_weight receive gradients, computed by the
    implementation that computed y.

    Raises ValueError when shapes, types or devices do not belong together. That an index lies in range is checked by
    the portable and reference backends only: the GPU would have to wait for it, and takes any other number as -1.
    """
    check_tensors(x=x, w_in=w_in, w_out=w_out, expert_index=expert_index, expert_weight=expert_weight)
    check_optional_tensors(b_in=b_in, b_out=b_out)
    check_switches(gated=gated)
    b_in, b_out = (None if bias is None else as_autocast(bias, x.device) for bias in (b_in, b_out))
    x, w_in, w_out = (as_autocast(one, x.device) for one in (x, w_in, w_out))
    _check_weights(x, w_in, w_out, gated)
    _check_biases(w_in, w_out, b_in, b_out)
    _check_choices(x, expert_index, expert_weight)
    _check_options(activation, gated, clamp, up_offset)
    given = (x, w_in, w_out, expert_index, expert_weight)
    substituted = ask_substitute(
        "moe_ffn",
        *given,
        b_in=b_in,
        b_out=b_out,
        activation=activation,
        gated=gated,
        clamp=clamp,
        up_offset=up_offset,
    )
    if substituted is not NotImplemented:
        return substituted
    expert = Expert(activation, gated, None if clamp is None else float(clamp), float(up_offset))
    return _implementation(x).moe_ffn(*given, b_in, b_out, expert)


def _implementation(x: Tensor) -> ModuleType:
    backend = choose_backend(x)
    if backend == "gpu":
        from kernels._moe import gpu  # Triton is installed on Linux alone

        return gpu
    return reference if backend == "reference" else portable


def _check_weights(x: Tensor, w_in: Tensor, w_out: Tensor, gated: bool) -> None:
    in_layout = "[E, d, 2 I]" if gated else "[E, d, I]"
    for name, tensor, layout in (("x", x, "[T, d]"), ("w_in", w_in, in_layout), ("w_out", w_out, "[E, I, d]")):
        if tensor.dim() != layout.count(",") + 1 or (tensor is not x and 0 in tensor.shape):
            filled = "" if tensor is x else " and not empty"
            raise ValueError(f"{name} must be {layout}{filled}, but got shape {list(tensor.shape)}.")
        if tensor.dtype not in DTYPES or (tensor.dtype, tensor.device) != (x.dtype, x.device):
            raise ValueError(
                f"x, w_in and w_out must have one type of float32, float16 and bfloat16 and one device, but {name} is "
                f"{tensor.dtype} on {tensor.device} of shape {list(tensor.shape)}"
                + ("." if tensor is x else f" and x {x.dtype} on {x.device}.")
            )
    experts, width, columns = w_in.shape
    if width != x.shape[1] or (gated and columns % 2 != 0):
        raise ValueError(
            f"w_in must be {in_layout} with the d={x.shape[1]} of x, but got w_in {list(w_in.shape)} beside x "
            f"{list(x.shape)}."
        )
    wanted = [experts, columns // 2 if gated else columns, width]
    if list(w_out.shape) != wanted:
        raise ValueError(
            f"w_out must be [E, I, d] = {wanted} as w_in {list(w_in.shape)} has it, but got {list(w_out.shape)}."
        )


def _check_biases(w_in: Tensor, w_out: Tensor, b_in: Tensor | None, b_out: Tensor | None) -> None:
    for name, bias, w in (("b_in", b_in, w_in), ("b_out", b_out, w_out)):
        if bias is None:
            continue
        wanted = [w.shape[0], w.shape[2]]
        if list(bias.shape) != wanted or (bias.dtype, bias.device) != (w.dtype, w.device):
            raise ValueError(
                f"{name} must be {wanted}, one row an expert, of {w.dtype} on {w.device} as the weights are, but got "
                f"{list(bias.shape)} of {bias.dtype} on {bias.device}."
            )


def _check_options(activation: str, gated: bool, clamp: float | None, up_offset: float) -> None:
    if activation not in tuple(ACTIVATIONS):  # of a dict, what cannot be hashed would be another error
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but got {activation!r}.")
    check_number("up_offset", up_offset)
    if clamp is not None:
        check_number("clamp", clamp)
    if not gated and (clamp is not None or up_offset != 0):
        raise ValueError(
            f"clamp and up_offset are of gated experts, but got clamp={clamp} and up_offset={up_offset} with "
            "gated=False."
        )
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must be at least 0, the largest gate, or None, but got {clamp}.")


def _check_choices(x: Tensor, expert_index: Tensor, expert_weight: Tensor) -> None:
    if expert_index.dim() != 2 or expert_index.shape[0] != x.shape[0] or expert_index.shape[1] == 0:
        raise ValueError(
            f"expert_index must be [T, K] with the T={x.shape[0]} of x and K at least 1, but got "
            f"{list(expert_index.shape)}."
        )
    if expert_index.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"expert_index must be int32 or int64, but got {expert_index.dtype} of shape {list(expert_index.shape)}."
        )
    if expert_weight.shape != expert_index.shape:
        raise ValueError(
            f"expert_weight must have the shape of expert_index, {list(expert_index.shape)}, but got "
            f"{list(expert_weight.shape)}."
        )
    check_dtype("expert_weight", expert_weight)
    for name, tensor in (("expert_index", expert_index), ("expert_weight", expert_weight)):
        if tensor.device != x.device:
            raise ValueError(
                f"{name} must lie on the device of x, {x.device}, but got {tensor.device} of shape "
                f"{list(tensor.shape)}."
            )
