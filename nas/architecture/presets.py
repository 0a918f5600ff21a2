"""Published mixers as values of the options of recurrences: data that a file may name as a kind, and change.

`{kind: kda, num_heads: 4}` in a file means the same as a `matrix_recurrence` with these options; what else the file
says of it stands above the preset.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from nas.architecture.errors import ArchitectureError, did_you_mean
from nas.architecture.matrix_recurrence import MatrixRecurrence
from nas.architecture.mixer_options import MixerOptions
from nas.architecture.options import role_of
from nas.architecture.vector_recurrence import VectorRecurrence

DELTA_RULE = {"erase": "delta", "write": "scalar", "qk_norm": "l2", "qkv_activation": "silu", "conv_size": 4}
"""What DeltaNet and its descendants share."""

MATRICES: Mapping[str, Mapping[str, Any]] = {
    # Katharopoulos et al. (arXiv 2006.16236).
    "linear_attention": {"feature_map": "elu", "normaliser": "sum", "output_norm": "none"},
    # Arora et al. (arXiv 2402.18668); its window attention is a layer or a part of its own.
    "based": {"feature_map": "taylor", "normaliser": "sum", "output_norm": "none"},
    # Zhang et al. (arXiv 2402.04347).
    "hedgehog": {"feature_map": "hedgehog", "normaliser": "sum", "output_norm": "none"},
    # Sun et al. (arXiv 2307.08621), values twice as wide as keys, positions as rotations.
    "retnet": {"decay": "fixed", "decay_form": "retention", "gate": "silu", "position": "rope"},
    # Qin et al. (arXiv 2401.04658) as in MiniMax-01 (arXiv 2501.08313); decay_scale falls from 1 to 0 over layers.
    "lightning": {
        "decay": "fixed",
        "decay_form": "slopes",
        "qkv_activation": "silu",
        "scaled": False,
        "gate": "sigmoid",
        "output_norm": "full",
    },
    # Yang et al. (arXiv 2312.06635); the same as the kind gated_linear_attention.
    "gla": {"decay": "vector", "decay_form": "sigmoid", "decay_scale": 1 / 16, "decay_rank": 16, "gate": "silu"},
    # Qin et al. (arXiv 2404.07904); decay_floor rises from 0 towards 1 over layers.
    "hgrn2": {
        "decay": "vector",
        "decay_form": "sigmoid",
        "write": "complement",
        "feature_map": "silu",
        "scaled": False,
        "output_norm": "full",
    },
    # Yang et al. (arXiv 2406.06484).
    "deltanet": DELTA_RULE,
    # Kimi Team (arXiv 2510.26692), section 4.
    "kda": DELTA_RULE | {"decay": "vector", "decay_rank": "head_dim", "gate": "sigmoid", "gate_rank": "head_dim"},
    # Siems et al. (arXiv 2502.10297), with a decay and strengths up to 2.
    "deltaproduct": DELTA_RULE | {"decay": "scalar", "inner_steps": 2, "beta_max": 2.0, "gate": "silu"},
    # Hu et al. (arXiv 2506.02475).
    "comba": DELTA_RULE | {"decay": "scalar", "erase": "scaled", "correction": True, "gate": "sigmoid"},
    # Beck et al. (arXiv 2405.04517) with the caps of xLSTM-7B (arXiv 2503.13427), keys half as wide as values there.
    "mlstm": {
        "decay": "scalar",
        "decay_form": "sigmoid",
        "write": "exponential",
        "gate_cap": 15.0,
        "normaliser": "max",
        "gate": "sigmoid",
        "output_norm": "layer",
    },
}

VECTORS: Mapping[str, Mapping[str, Any]] = {
    # De et al. (arXiv 2402.19427).
    "rg_lru": {"cell": "rg_lru", "conv_size": 4, "gate": "gelu_tanh", "bias": True},
    # Qin et al. (arXiv 2311.04823); decay_floor rises from 0 towards 1 over layers.
    "hgrn": {"cell": "hgrn", "gate": "silu", "output_norm": "full"},
    # Feng et al. (arXiv 2410.01201), with the convolution of its section 4.
    "min_gru": {"cell": "min_gru", "conv_size": 4},
    "min_lstm": {"cell": "min_lstm", "conv_size": 4},
}
PRESETS: Mapping[str, tuple[type[MixerOptions], Mapping[str, Any]]] = {
    **{name: (MatrixRecurrence, options) for name, options in MATRICES.items()},
    **{name: (VectorRecurrence, options) for name, options in VECTORS.items()},
}
"""By the name of a published mixer, the kind that it is and the options that it sets."""


def preset(name: str, **options: Any) -> MixerOptions:
    """The options of a published mixer, with some of them given. Raises ArchitectureError for an unknown name."""
    if name not in PRESETS:
        raise ArchitectureError(f"There is no preset {name!r}. {did_you_mean(name, PRESETS)}")
    kind, known = PRESETS[name]
    return kind(**{**known, **options})


@lru_cache(maxsize=1024)
def preset_name(options: MixerOptions) -> str | None:
    """The published mixer that these options are, whatever their heads and sizes; None where they have no name."""
    canonical = options.canonical(1)
    sizes = {f.name: getattr(options, f.name) for f in fields(options) if role_of(type(options), f.name) != "fixed"}
    for name, (kind, known) in PRESETS.items():
        if isinstance(options, kind) and kind(**{**known, **sizes}).canonical(1) == canonical:
            return name
    return None
