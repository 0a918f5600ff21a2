"""OLMo hybrid: gated DeltaNet with strengths up to 2, normed before it, beside attention that is normed after it."""

from typing import Any

from nas.architecture import MatrixRecurrence
from nas.architecture.presets import DELTA_RULE
from nas.interop.errors import InteropError
from nas.interop.families.readers import layer_type, rope
from nas.interop.families.transformer import GLU, OLMO2, OLMO2_ATTENTION
from nas.interop.family import Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import filters, rows

NORM_EPS = 1e-5  # of the norm of each head, whatever the field says


def _heads(fields: Fields, layer: int) -> int:
    keys, values = fields("linear_num_key_heads"), fields("linear_num_value_heads")
    if keys != values:
        raise InteropError(f"config.json asks for {keys} heads of keys and {values} of values, which must be as many.")
    return values


def _strongest(fields: Fields, layer: int) -> float:
    return 2.0 if fields("linear_allow_neg_eigval") else 1.0


def _positions(fields: Fields, layer: int) -> dict[str, Any]:
    given = fields("rope_parameters", None) or {}
    return {"position": "none"} if given.get("rope_theta") is None else rope(fields, layer)


DELTA_NET = Part(
    kind=MatrixRecurrence,
    prefix="linear_attn.",
    norm="input_layernorm",
    options={
        **{name: always(value) for name, value in DELTA_RULE.items()},
        "decay": always("scalar"),
        "gate": always("silu"),
        "num_heads": _heads,
        "head_dim": field("linear_value_head_dim"),
        "key_dim": field("linear_key_head_dim"),
        "conv_size": field("linear_conv_kernel_dim"),
        "beta_max": _strongest,
        "norm_eps": always(NORM_EPS),
    },
    tensors={
        "in_proj": rows("q_proj", "k_proj", "v_proj", "g_proj", "b_proj", "a_proj"),
        "conv.filter": filters("q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"),
        "decay.A_log": rows("A_log"),
        "decay.bias": rows("dt_bias"),
        "readout.norm": rows("o_norm"),
        "out_proj": rows("o_proj"),
    },
)
OLMO_HYBRID = OLMO2.but(
    mixers={
        "full_attention": OLMO2_ATTENTION.but(options={"window": always(None)}, groups=(_positions,)),
        "linear_attention": DELTA_NET,
    },
    mixer_of=layer_type,
    ffns={"full_attention": GLU.but(norm=None, post_norm="post_feedforward_layernorm"), "linear_attention": GLU},
    ffn_of=layer_type,
    spellings=(
        (r"\.attention_layer_norm\.", ".input_layernorm."),
        (r"\.feedforward_layer_norm\.", ".post_attention_layernorm."),
    ),
    inert=(
        *("attention_bias", "linear_a_log_min", "linear_a_log_max"),
        *("linear_dt_min", "linear_dt_max", "linear_dt_init_floor"),
    ),
)
