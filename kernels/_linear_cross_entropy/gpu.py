"""The loss on a GPU: logits of a chunk of tokens by a matrix product, then a Triton kernel that turns each row of them
into its loss and, in place, into its gradient, then the two products of the gradients.

Rows are read twice, the second time mostly from the L2 cache. Launch configurations are looked up, with the defaults of
`launches.py`; nothing is tuned in passing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._linear_cross_entropy import differentiation
from kernels._linear_cross_entropy.launches import default_launch, launch_key
from kernels._linear_cross_entropy.launches import launch_candidates as launch_candidates
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key
from kernels.tuning import choose, run

CHUNK_ELEMENTS, FEWEST_ROWS = 2**27, 1024  # logits at a time, 256 MB in 16 bits; no fewer tokens than fill a product


@triton.jit
def _bent(logits, cap, CAP: tl.constexpr):
    """cap tanh(logits / cap), where there is a cap, and tanh itself."""
    bent = logits
    if CAP:
        bent = 2.0 * tl.sigmoid(2.0 * logits / cap) - 1.0
        logits = cap * bent
    return logits, bent


@triton.jit(do_not_specialize=["V", "ignore_index", "cap"])
def rows_kernel(
    logits, targets, losses, V, ignore_index, cap,
    CAP: tl.constexpr, GRADIENT: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The loss of one row and, with GRADIENT, its gradient in the place of the logits: zeros where nothing is
    asked, NaN where the target is no word."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    logits += row * V
    highest, total, of_target = -float("inf"), 0.0, 0.0
    for start in range(0, V, BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        block, _ = _bent(tl.load(logits + v, mask=v < V, other=0.0).to(tl.float32), cap, CAP)
        of_target += tl.sum(tl.where(v == target, block, 0.0), 0)
        block = tl.where(v < V, block, -float("inf"))
        higher = tl.maximum(highest, tl.max(block, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(block - higher), 0)
        highest = higher
    asked = target != ignore_index
    total = tl.where((target >= 0) & (target < V), total, float("nan"))  # a target that is no word has no loss
    tl.store(losses + row, tl.where(asked, highest + tl.log(total) - of_target, 0.0))
    if GRADIENT:
        for start in range(0, V, BLOCK_V):
            v = start + tl.arange(0, BLOCK_V)
            block, bent = _bent(tl.load(logits + v, mask=v < V, other=0.0).to(tl.float32), cap, CAP)
            grad = tl.exp(block - highest) / total - tl.where(v == target, 1.0, 0.0)
            if CAP:
                grad *= 1.0 - bent * bent
            tl.store(logits + v, tl.where(asked, grad, 0.0).to(logits.dtype.element_ty), mask=v < V)


def summed_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, soft_cap: float | None, factors: Tensor | None
) -> Tensor:
    """The sum over the tokens that ask for something; x [N, d], targets [N], factors [N]. Never waits for the device.

    Factors cost one more pass over the gradient of the logits.
    """
    return differentiation.call(_summed, x, weight, targets, ignore_index, soft_cap, factors)


@torch.library.custom_op("hybrid_nas::linear_cross_entropy", mutates_args=())
def _summed(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    soft_cap: float,
    of_x: bool,
    of_weight: bool,
    factors: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum, and its gradients of x and weight (empty where they are not asked for)."""
    x, weight, targets = x.contiguous(), weight.contiguous(), targets.contiguous()
    (rows, _), words = x.shape, weight.shape[0]
    exact = differentiation.exact_type(x)
    losses = x.new_empty(rows, dtype=exact)
    grad_x = torch.empty_like(x) if of_x else x.new_empty(0)
    grad_weight = weight.new_zeros(weight.shape if of_weight else 0, dtype=exact)
    key = launch_key(x.element_size(), soft_cap > 0, of_x or of_weight)
    config = choose(key, rows_kernel, default_launch, x.device)
    count = max(FEWEST_ROWS, CHUNK_ELEMENTS // max(1, words))
    for first in range(0, rows, count):
        part = slice(first, min(first + count, rows))
        logits = torch.mm(x[part], weight.t())
        with torch.cuda.device_of(x):
            run(
                key, rows_kernel, (logits.shape[0],), logits, targets[part], losses[part], words, ignore_index,
                soft_cap, CAP=soft_cap > 0, GRADIENT=of_x or of_weight, **config,
            )  # fmt: skip
        if factors is not None and (of_x or of_weight):
            logits.mul_(factors[part].unsqueeze(1))
        if of_x:
            torch.mm(logits, weight, out=grad_x[part])
        if of_weight:
            grad_weight += torch.mm(logits.t(), x[part])
    return (losses if factors is None else losses * factors).sum(), grad_x, grad_weight


differentiation.register(_summed)


def ahead_of_time_cases() -> list[Case]:
    """The default launches with a gradient in 16-bit types, with a cap as well, and of the loss alone in float32."""
    keys = [launch_key(2, False, True), launch_key(2, True, True), launch_key(4, False, False)]
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    flags = dict(key.flags)
    constants: dict[str, object] = {"CAP": flags["soft_cap"] > 0, "GRADIENT": flags["gradient"] > 0}
    constants["BLOCK_V"] = config["BLOCK_V"]
    element = {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    types = {"logits": element, "targets": "*i64", "losses": "*fp32", "cap": "fp32"}
    signature = {name: types.get(name, "i32") for name in rows_kernel.arg_names if name not in constants}
    return Case(key.label, rows_kernel, signature, constants, {"num_warps": config["num_warps"]})
