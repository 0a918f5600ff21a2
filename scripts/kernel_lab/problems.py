"""Problems for the kernels, with their right answers: what is benchmarked, tuned and checked.

`scripts/kernel_lab/problem_lists.py` lists them.

The right answer is float32: token by token for small problems, by the portable implementation for full-size ones, on
which the definition would take hours. An answer passes when the root mean square of its error is small against that of
the right answer, over the whole tensor and, ten times looser, in every row: the mean would hide one wrong tail row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import kernels
from nas.measure.rival_cases import as_called
from scripts.kernel_lab.operations import Arguments, Cost, Operation, Random

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Relative errors that rounding explains, of outputs and of gradients. Float32 products are float32 or three of TF32,
# never one. Gradients of gates are differences of long sums, which half precision feels; in float32 ours on a CPU are
# right to 2e-6, the worst being that of a decay [Hv] which all tokens share.
OUTPUT_LIMIT = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}
GRADIENT_LIMIT = {"float32": 1e-5, "float16": 8e-3, "bfloat16": 8e-3}
GATE_LIMIT = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}
GATES = ("log_decay", "beta", "bonus", "delta", "A", "sink", "log_forget", "input_gate", "forget_gate")
WORST_ROW_FACTOR = 10.0


@dataclass(frozen=True)
class Inputs:
    """Arguments of the public function by name, and the gradient of a loss for each of its outputs that has one."""

    arguments: Arguments
    cotangents: tuple[Tensor, ...]


@dataclass(frozen=True)
class Result:
    """Outputs in the order of the function's, gradients by argument (empty after a forward pass)."""

    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor]


@dataclass(frozen=True)
class Check:
    """How far one tensor is from the right answer; `error` and `worst_row` relative, NaN where it is not finite."""

    name: str
    error: float
    worst_row: float
    limit: float

    @property
    def passes(self) -> bool:
        return self.error <= self.limit and self.worst_row <= WORST_ROW_FACTOR * self.limit


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One call of one public function. exact: the right answer is taken token by token, not from the portable one."""

    name: str
    operation: Operation
    dtype: str
    exact: bool

    @property
    def op(self) -> str:
        """The public function of `kernels`."""
        return self.operation.function

    @property
    def has_backward(self) -> bool:
        return bool(self.operation.differentiable)

    def make_inputs(self, device: torch.device | str, *, seed: int = 0) -> Inputs:
        """Random inputs, the same for the same seed and kind of device. Arguments that can, require a gradient."""
        generator = torch.Generator(device).manual_seed(seed)
        random = Random(generator, DTYPES[self.dtype])
        arguments = self.operation.arguments(random)
        for name in self.operation.differentiable:
            arguments[name].requires_grad_()
        if not self.has_backward:
            return Inputs(arguments, ())
        cotangents = [random.normal(*self.operation.output_shape(arguments))]
        if arguments.get("return_state"):
            state = arguments["initial_S" if "initial_S" in arguments else "initial_state"]
            cotangents.append(random.normal(*state.shape, dtype=state.dtype))
        if arguments.get("return_lse"):
            cotangents.append(random.normal(*arguments["q"].shape[:3], dtype=torch.float32))
        if arguments.get("residual") is not None:
            cotangents.append(random.normal(*arguments["residual"].shape))
        return Inputs(arguments, tuple(cotangents))

    def forward(self, inputs: Inputs) -> Result:
        """The public function without gradients, under whatever backend or substitute is in force."""
        with torch.no_grad():
            return Result(as_tuple(getattr(kernels, self.op)(**as_called(inputs.arguments))), {})

    def forward_backward(self, inputs: Inputs) -> Result:
        """The public function and the gradients of every argument that has one."""
        outputs = as_tuple(getattr(kernels, self.op)(**as_called(inputs.arguments)))
        names = self.operation.differentiable
        taken = [o for o in outputs if o.requires_grad]  # indices do not
        gradients = torch.autograd.grad(taken, [inputs.arguments[name] for name in names], inputs.cotangents)
        return Result(tuple(o.detach() for o in outputs), dict(zip(names, gradients, strict=True)))

    def run(self, inputs: Inputs) -> Result:
        """All there is to check: with gradients where there are any."""
        return self.forward_backward(inputs) if self.has_backward else self.forward(inputs)

    def reference(self, inputs: Inputs) -> Result:
        """The right answer, in float32, for the same values."""
        with kernels.use_backend("reference" if self.exact else "portable"):
            return self.run(in_float32(inputs))

    def cost(self, direction: str) -> Cost:
        """Of `forward` or of `forward_backward`."""
        itemsize = DTYPES[self.dtype].itemsize
        forward = self.operation.forward_cost(itemsize)
        return forward if direction == "forward" else forward + self.operation.backward_cost(itemsize)

    def errors(self, result: Result, reference: Result) -> list[Check]:
        """One check a tensor of `result`; a gradient that `result` does not have is not checked."""
        named = [(f"output {i}", o, reference.outputs[i], OUTPUT_LIMIT) for i, o in enumerate(result.outputs)]
        for name, gradient in result.gradients.items():
            limits = GATE_LIMIT if name in GATES else GRADIENT_LIMIT
            named.append((f"d{name}", gradient, reference.gradients[name], limits))
        return [check(name, one, right, limits[self.dtype]) for name, one, right, limits in named]


def worst(checks: list[Check]) -> Check:
    """The check that is furthest beyond its limit, or nearest to it."""

    def excess(one: Check) -> float:
        value = max(one.error, one.worst_row / WORST_ROW_FACTOR) / one.limit
        return float("inf") if value != value else value

    return max(checks, key=excess)


def check(name: str, actual: Tensor, expected: Tensor, limit: float) -> Check:
    """Root mean square of the error against that of `expected`, whole and in the worst row.

    A row is a slice along the last axis, taken relative to its own size or to the tensor's, whichever is larger.
    """
    if actual.shape != expected.shape or not bool(torch.isfinite(actual).all()):
        return Check(name, float("nan"), float("nan"), limit)
    if actual.dim() == 0:
        actual, expected = actual.reshape(1), expected.reshape(1)
    difference = (actual.detach().float() - expected.detach().float()).square().mean(-1)
    size = expected.detach().float().square().mean(-1)
    whole = size.mean().clamp_min(1e-24)
    rows = (difference / size.clamp_min(float(whole))).max()
    return Check(name, float((difference.mean() / whole).sqrt()), float(rows.sqrt()), limit)


def in_float32(inputs: Inputs) -> Inputs:
    """The same values in float32, as leaves of their own."""

    def upcast(value: object) -> object:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.detach().float().requires_grad_(value.requires_grad)

    arguments = {name: upcast(value) for name, value in inputs.arguments.items()}
    return Inputs(arguments, tuple(one.float() for one in inputs.cotangents))


def as_tuple(output: Tensor | tuple) -> tuple[Tensor, ...]:
    """All tensors in order, those of a state that is a pair too."""
    return tuple(one for part in output for one in as_tuple(part)) if isinstance(output, tuple) else (output,)
