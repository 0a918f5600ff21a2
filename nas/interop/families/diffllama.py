"""DiffLlama: differential attention in every layer."""

import math
from collections.abc import Callable

from nas.architecture import DifferentialAttention
from nas.interop.families.readers import has, head_dim, rope
from nas.interop.families.transformer import LLAMA
from nas.interop.family import Part
from nas.interop.fields import Fields, Reader, field
from nas.interop.tensors import rows


def _pairs(heads: Callable[[Fields], int]) -> Reader:
    """Of theirs two make one head."""
    return lambda fields, layer: heads(fields) // 2


def _first_lambda(fields: Fields, layer: int) -> float:
    """Arxiv 2410.05258, section 2.1, layers counted from zero."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


DIFFLLAMA = LLAMA.but(
    mixers={
        "": Part(
            kind=DifferentialAttention,
            prefix="self_attn.",
            norm="input_layernorm",
            options={
                "num_heads": _pairs(lambda fields: fields("num_attention_heads")),
                "num_kv_heads": _pairs(
                    lambda fields: fields("num_key_value_heads", None) or fields("num_attention_heads")
                ),
                "head_dim": lambda fields, layer: 2 * head_dim(fields, layer),
                "lambda_init": _first_lambda,
                "qkv_bias": has("self_attn.q_proj.bias"),
                "norm_eps": field("rms_norm_eps"),
            },
            groups=(rope,),
            tensors={
                "qkv.linear": rows("q_proj", "k_proj", "v_proj"),
                "out_proj": rows("o_proj"),
                **{name: rows(name) for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")},
            },
        )
    },
    inert=("attention_bias", "mlp_bias", "lambda_std_dev"),
)
