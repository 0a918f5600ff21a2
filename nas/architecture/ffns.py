"""The options of every kind of FFN (channel mixer)."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.options import Options, option

Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu2"]
Router = Literal["softmax", "sigmoid"]
Choice = Literal["scores", "hash", "experts"]
ToldBy = Literal["router", "predictor"]


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
class RwkvChannelMix(FfnOptions):
    """The channel mixing of RWKV, which also sees the token before: RWKV-4 and 6 with a receptance, RWKV-7 without."""

    kind: ClassVar[str] = "rwkv_channel_mix"

    d_ff: int = option(role="width", minimum=1)
    receptance: bool = option(False)


@dataclass(frozen=True, kw_only=True)
class Moe(FfnOptions):
    """Mixture of GLU experts, `top_k` of `num_experts` per token, beside `num_shared` experts that always run.

    Routing: scores by `router`, of which the chosen ones sum to one where `normalise`, times `weight_scale`; only
    experts of the best `top_groups` of `num_groups` groups are chosen. selection_bias: a bias of the choice, moved
    by `bias_rate` a step towards equal load (loss-free balancing, arXiv 2408.15664). router_bias: of the scores.
    balance_weight, z_weight: of the losses that keep loads equal and the router's logits small.
    Experts: without `gated`, two matrices; gate and up are clamped to `clamp`, and `up_offset` is added to up (gpt-oss,
    arXiv 2508.10925, section 2). shared_gate: the shared experts are multiplied by sigmoid(w x). choice: experts by
    their scores, or by a fixed hash of the token's id, which leaves only weights to the scores (arXiv 2106.04426), or
    `experts`: each takes the tokens of a sequence that score highest for it, so many that a token has `top_k` experts
    on average; all are equally loaded, weights are the scores, and later tokens count (arXiv 2202.09368, section 3.2).
    num_zero: experts that return their input at no cost, beside the others (LongCat, arXiv 2509.01322, section 2.2).
    """

    kind: ClassVar[str] = "moe"

    num_experts: int = option(role="share", minimum=1)
    top_k: int = option(role="share", minimum=1)
    d_ff: int = option(role="width", minimum=1)
    num_shared: int = option(0, role="share", minimum=0)
    router: Router = option("softmax")
    activation: Activation = option("silu")
    balance_weight: float = option(0.01, minimum=0)
    normalise: bool = option(True, rare=True)
    weight_scale: float = option(1.0, rare=True)
    num_groups: int = option(1, minimum=1, rare=True)
    top_groups: int = option(1, minimum=1, rare=True)
    router_bias: bool = option(False, rare=True)
    selection_bias: bool = option(False, rare=True)
    bias_rate: float = option(0.0, minimum=0, rare=True)
    gated: bool = option(True, rare=True)
    expert_bias: bool = option(False, rare=True)
    clamp: float | None = option(None, minimum=0, rare=True)
    up_offset: float = option(0.0, rare=True)
    shared_gate: bool = option(False, rare=True)
    choice: Choice = option("scores", rare=True)
    num_zero: int = option(0, minimum=0, rare=True)
    z_weight: float = option(0.0, minimum=0, rare=True)

    def check(self) -> None:
        if self.num_experts % self.num_groups or self.top_groups > self.num_groups:
            raise ArchitectureError(
                "num_groups must divide num_experts and top_groups be at most num_groups, but got num_experts="
                f"{self.num_experts}, num_groups={self.num_groups}, top_groups={self.top_groups}."
            )
        if self.num_zero and self.num_groups > 1:
            raise ArchitectureError(
                f"num_zero goes without groups of experts, but got num_zero={self.num_zero}, num_groups="
                f"{self.num_groups}."
            )
        if self.choice != "scores" and (self.num_groups > 1 or self.selection_bias):
            raise ArchitectureError(
                f"choice: {self.choice} does not compare the experts of a token, so it goes without num_groups and "
                "selection_bias."
            )
        if self.top_k > self.num_experts // self.num_groups * self.top_groups:
            groups = f", {self.top_groups} of {self.num_groups} groups" if self.num_groups > 1 else ""
            raise ArchitectureError(
                f"top_k must be at most num_experts, but got top_k={self.top_k}, num_experts={self.num_experts}"
                f"{groups}."
            )
        if self.bias_rate and not self.selection_bias:
            raise ArchitectureError(f"bias_rate needs selection_bias: true, but got bias_rate={self.bias_rate}.")
        if self.shared_gate and not self.num_shared:
            raise ArchitectureError("shared_gate needs shared experts, but num_shared is 0.")
        if not self.gated and (self.clamp is not None or self.up_offset):
            raise ArchitectureError("clamp and up_offset are of gated experts, but gated is false.")

    def canonical(self, d_model: int) -> FfnOptions:
        rare = all(getattr(self, f.name) == f.default for f in fields(self) if f.metadata["rare"])
        if self.num_experts == 1 and rare:
            return Glu(d_ff=self.d_ff * (1 + self.num_shared), activation=self.activation)
        if self.choice == "hash":
            return replace(self, balance_weight=type(self).balance_weight, z_weight=type(self).z_weight)
        if self.choice == "experts":
            return replace(self, balance_weight=type(self).balance_weight, normalise=type(self).normalise)
        return self


@dataclass(frozen=True, kw_only=True)
class MixtureOfDepths(FfnOptions):
    """A GLU that one token in `one_in` passes while the others go around it (Raposo et al., arXiv 2404.02258).

    told_by: what tells, token by token, which ones those are, without later tokens (the two ways of section 3.5 there):
    the router itself, by a loss that also moves what the network learns of language, or a predictor, a small MLP
    through which nothing else is trained. choice_weight: of the loss of the router; the paper gives none, and this one
    was not tuned. A predictor needs no weight.
    """

    kind: ClassVar[str] = "mixture_of_depths"

    d_ff: int = option(role="width", minimum=1)
    one_in: int = option(8, role="share", minimum=2)
    activation: Activation = option("silu")
    choice_weight: float = option(0.1, minimum=0)
    told_by: ToldBy = option("router", rare=True)

    def canonical(self, d_model: int) -> FfnOptions:
        return self if self.told_by == "router" else replace(self, choice_weight=type(self).choice_weight)


FFNS: dict[str, type[FfnOptions]] = {cls.kind: cls for cls in (NoFfn, Glu, Mlp, Moe, RwkvChannelMix, MixtureOfDepths)}
