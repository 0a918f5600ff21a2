"""The options of every kind of FFN (channel mixer)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.options import Options, option

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]


@dataclass(frozen=True, kw_only=True)
class FfnOptions(Options):
    """Base of the FFNs."""

    def canonical(self, d_model: int) -> "FfnOptions":
        return self


@dataclass(frozen=True, kw_only=True)
class NoFfn(FfnOptions):
    """No FFN: the block is a mixer alone."""

    kind: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class Glu(FfnOptions):
    """Gated linear unit: down(activation(gate_scale gate x) * up x)."""

    kind: ClassVar[str] = "glu"

    d_ff: int = option(role="width", minimum=1)
    activation: Activation = option("silu")
    bias: bool = option(False, rare=True)
    gate_scale: float = option(1.0, rare=True)


@dataclass(frozen=True, kw_only=True)
class Mlp(FfnOptions):
    """Two matrices: down(activation(up x))."""

    kind: ClassVar[str] = "mlp"

    d_ff: int = option(role="width", minimum=1)
    activation: Activation = option("relu2")
    bias: bool = option(False, rare=True)


@dataclass(frozen=True, kw_only=True)
class Moe(FfnOptions):
    """Mixture of GLU experts, `top_k` of `num_experts` per token, beside `num_shared` experts that always run."""

    kind: ClassVar[str] = "moe"

    num_experts: int = option(role="share", minimum=1)
    top_k: int = option(role="share", minimum=1)
    d_ff: int = option(role="width", minimum=1)
    num_shared: int = option(0, role="share", minimum=0)
    router: Literal["softmax"] = option("softmax")
    activation: Activation = option("silu")
    balance_weight: float = option(0.01, minimum=0)

    def check(self) -> None:
        if self.top_k > self.num_experts:
            raise ArchitectureError(
                f"top_k must be at most num_experts, but got top_k={self.top_k}, num_experts={self.num_experts}."
            )

    def canonical(self, d_model: int) -> FfnOptions:
        if self.num_experts == 1:
            return Glu(d_ff=self.d_ff * (1 + self.num_shared), activation=self.activation)
        return self


FFNS: dict[str, type[FfnOptions]] = {cls.kind: cls for cls in (NoFfn, Glu, Mlp, Moe)}
