"""The options of one mixer with a matrix state whose parts are chosen one by one: decay, erasing, writing, features.

Named mixers are values of these options (`nas.architecture.presets`); most values have no name yet. Formulas stand in
`nas/mixers/matrix_recurrence.py`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import DEFAULT_NORM_EPS, option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position

Decay = Literal["none", "fixed", "scalar", "vector"]
DecayForm = Literal["retention", "slopes", "softplus", "sigmoid", "exponential"]
Erase = Literal["none", "delta", "scaled", "channel", "separate"]
Write = Literal["plain", "scalar", "vector", "complement", "exponential"]
FeatureMap = Literal["identity", "silu", "relu", "elu", "softmax", "taylor", "hedgehog"]
Normaliser = Literal["none", "sum", "max"]
HeadNorm = Literal["none", "head", "full", "layer"]
Gate = Literal["none", "silu", "sigmoid"]
HeadSize = Literal["head_dim"]

DECAY_FORMS: dict[Decay, tuple[DecayForm, ...]] = {
    "none": (),
    "fixed": ("retention", "slopes"),
    "scalar": ("softplus", "sigmoid", "exponential"),
    "vector": ("softplus", "sigmoid", "exponential"),
}
LARGEST_ROWS = 256
LARGEST_COLUMNS = 1024
"""Of a state that the kernels hold."""


@dataclass(frozen=True, kw_only=True)
class MatrixRecurrence(MixerOptions):
    """A matrix state per head that decays, is erased from, is written to and read, each as chosen.

    decay: none, `fixed` per head, or set by the token per head (`scalar`) or key channel (`vector`), in the form
    `decay_form`; its logarithm is multiplied by `decay_scale`, a sigmoid starts at `decay_floor`. erase: what the key
    recalls (`delta`), a learned share of that (`scaled`), what it recalls from channels that are each taken with a
    strength set by the token (`channel`: GDN-2), or what another key recalls (`separate`). write: `plain`,
    with a strength per head, a gate per value channel, keys that are one minus the decay (`complement`), or an
    exponential gate. beta_max: the largest strength. inner_steps: writes per token. normaliser: division by the sum of
    weights, or by the larger of its size and 1. qk_norm: length one, after the feature map. scaled: queries are divided
    by the root of the key size. bonus: the own token is read with learned weights. correction: queries less a share of
    the key.
    feature_dim: the size of keys before a Taylor map, whose features are more; `key_dim` for all others.
    output_norm: RMSNorm of each head, of all heads together, or LayerNorm of each head. Ranks: of a projection in two
    parts, `head_dim` for the size of a head, null for one whole projection.
    """

    kind: ClassVar[str] = "matrix_recurrence"
    # Its rates are not measured; those of the nearest kind stand in.
    family: ClassVar[str] = "gated_linear_attention"

    num_heads: int = option(role="heads", minimum=1)
    head_dim: int = option(64, role="head_dim", minimum=4)
    key_dim: int | None = option(None, role="state", minimum=1)
    decay: Decay = option("none")
    erase: Erase = option("none")
    write: Write = option("plain")
    feature_map: FeatureMap = option("identity")
    normaliser: Normaliser = option("none")
    conv_size: int = option(0, minimum=0, maximum=8)
    gate: Gate = option("none")
    output_norm: HeadNorm = option("head")
    decay_form: DecayForm | None = option(None, rare=True)
    decay_rank: int | HeadSize | None = option(None, minimum=1, rare=True)
    decay_scale: float = option(1.0, minimum=0, rare=True)
    decay_floor: float = option(0.0, minimum=0, rare=True)
    gate_cap: float | None = option(None, minimum=1e-3, rare=True)
    beta_max: float = option(1.0, minimum=1e-3, rare=True)
    inner_steps: int = option(1, minimum=1, rare=True)
    feature_dim: int = option(16, minimum=1, rare=True)
    qk_norm: Literal["none", "l2"] = option("none", rare=True)
    qkv_activation: Literal["none", "silu"] = option("none", rare=True)
    scaled: bool = option(True, rare=True)
    bonus: bool = option(False, rare=True)
    correction: bool = option(False, rare=True)
    gate_rank: int | HeadSize | None = option(None, minimum=1, rare=True)
    gate_first: bool = option(False, rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)
    position: Position = option("none", rare=True)
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1, rare=True)

    @property
    def key_size(self) -> int:
        """Channels of a query or key as projected."""
        if self.feature_map == "taylor":
            return self.feature_dim
        return self.head_dim if self.key_dim is None else self.key_dim

    @property
    def feature_size(self) -> int:
        """Channels of a query or key after the feature map: rows of the state."""
        size = self.key_size
        return {"taylor": 1 + size + size * (size + 1) // 2, "hedgehog": 2 * size}.get(self.feature_map, size)

    @property
    def value_size(self) -> int:
        """Columns of the state: the values, and beside them the sum of weights where it is needed."""
        return self.head_dim + (self.normaliser != "none")

    @property
    def form_of_decay(self) -> DecayForm | None:
        """`decay_form`, or the first of those that there are for this decay."""
        return self.decay_form or next(iter(DECAY_FORMS[self.decay]), None)

    def rank(self, given: int | HeadSize | None) -> int | None:
        """A rank as a number; None for one whole projection."""
        return self.head_dim if given == "head_dim" else given

    def _named(self, given: int | HeadSize | None) -> int | HeadSize | None:
        """A rank by its name where it has one, so that a network stays the same design when heads grow."""
        return "head_dim" if given == self.head_dim else given

    def check(self) -> None:
        """What cannot be computed, what would not be bounded, and options without anything to act on."""
        if self.decay_form is not None and self.decay_form not in DECAY_FORMS[self.decay]:
            forms = ", ".join(DECAY_FORMS[self.decay]) or "none"
            raise ArchitectureError(
                f"decay_form of decay: {self.decay} must be one of {forms}, but got {self.decay_form}."
            )
        if self.decay_floor >= 1 or (self.decay_floor and self.form_of_decay != "sigmoid"):
            raise ArchitectureError(
                f"decay_floor is below 1 and needs decay_form: sigmoid, but got decay_floor={self.decay_floor}, "
                f"decay={self.decay}, decay_form={self.form_of_decay}."
            )
        if self.feature_size > LARGEST_ROWS or self.value_size > LARGEST_COLUMNS:
            raise ArchitectureError(
                f"A state may have at most {LARGEST_ROWS} rows and {LARGEST_COLUMNS} columns, but "
                f"feature_map={self.feature_map} of {self.key_size} channels gives {self.feature_size} rows, and "
                f"head_dim={self.head_dim} with normaliser={self.normaliser} {self.value_size} columns."
            )
        if self.position == "rope" and self.key_size % 2:
            raise ArchitectureError(
                f"position: rope turns pairs of channels, but keys have an odd number of them, {self.key_size}."
            )
        self._check_writing()

    def _check_writing(self) -> None:
        if self.erase in ("delta", "scaled") and (self.write != "scalar" or self.qk_norm != "l2"):
            raise ArchitectureError(
                f"erase: {self.erase} needs write: scalar and qk_norm: l2, or states grow without bound, but got "
                f"write={self.write}, qk_norm={self.qk_norm}."
            )
        if self.erase != "none" and self.normaliser != "none":
            raise ArchitectureError(
                f"A normaliser sums weights that are never erased, but got normaliser={self.normaliser}, "
                f"erase={self.erase}."
            )
        if self.erase == "channel" and self.qk_norm != "l2":
            raise ArchitectureError(
                f"erase: channel needs qk_norm: l2, or states grow without bound, but got qk_norm={self.qk_norm}."
            )
        if self.erase in ("channel", "separate") and self.write not in ("plain", "scalar", "vector"):
            raise ArchitectureError(
                f"erase: {self.erase} needs write: plain, scalar or vector, but got write={self.write}."
            )
        if self.write == "complement" and (self.decay != "vector" or self.inner_steps > 1):
            raise ArchitectureError(
                f"write: complement takes keys from decay: vector, one a token, but got decay={self.decay}, "
                f"inner_steps={self.inner_steps}."
            )
        if self.write == "exponential" and (self.decay, self.normaliser, self.inner_steps) != ("scalar", "max", 1):
            raise ArchitectureError(
                f"write: exponential needs decay: scalar, normaliser: max and one inner step, but got "
                f"decay={self.decay}, normaliser={self.normaliser}, inner_steps={self.inner_steps}."
            )
        if self.normaliser == "sum" and self.feature_map in ("identity", "silu"):
            raise ArchitectureError(
                f"normaliser: sum needs a feature_map without negative products, but got {self.feature_map}; "
                "relu, elu, softmax, taylor and hedgehog have none."
            )
        if self.bonus and (self.erase != "none" or self.inner_steps > 1 or self.normaliser != "none"):
            raise ArchitectureError(
                f"bonus needs erase: none, normaliser: none and one inner step, but got erase={self.erase}, "
                f"normaliser={self.normaliser}, inner_steps={self.inner_steps}."
            )
        if self.correction and self.erase != "scaled":
            raise ArchitectureError(f"correction belongs to erase: scaled, but got erase={self.erase}.")

    def canonical(self, d_model: int) -> "MatrixRecurrence":
        depends, taylor = self.decay in ("scalar", "vector"), self.feature_map == "taylor"
        strength = self.erase != "none" or self.write == "scalar"
        capped = depends or self.write == "exponential"
        return replace(
            self,
            key_dim=None if taylor else self.key_size,
            feature_dim=self.feature_dim if taylor else 16,
            decay_form=self.form_of_decay,
            decay_rank=self._named(self.decay_rank) if depends else None,
            decay_scale=1.0 if self.decay == "none" else float(self.decay_scale),
            decay_floor=float(self.decay_floor),
            gate_cap=None if self.gate_cap is None or not capped else float(self.gate_cap),
            beta_max=float(self.beta_max) if strength else 1.0,
            gate_rank=None if self.gate == "none" else self._named(self.gate_rank),
            gate_first=self.gate_first and self.gate != "none" and self.output_norm != "none",
            norm_eps=DEFAULT_NORM_EPS if self.output_norm == "none" else float(self.norm_eps),
            rope_base=DEFAULT_ROPE_BASE if self.position == "none" else float(self.rope_base),
        )
