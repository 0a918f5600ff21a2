"""Falcon-H1: Mamba-2 and attention side by side in every layer, with factors everywhere."""

from typing import Any

from nas.architecture import HeadMix
from nas.interop.errors import InteropError
from nas.interop.families.bamba import BAMBA_MAMBA
from nas.interop.families.mamba import FEED_FORWARD, HYBRID, INITIALISATION
from nas.interop.families.transformer import ATTENTION
from nas.interop.family import Part
from nas.interop.fields import Fields, always, field


def _falcon_scales(fields: Fields, layer: int) -> tuple[float, float]:
    _refuse_scaled_bias(fields, layer, "attention_in_multiplier", "self_attn.q_proj.bias")
    into = fields("attention_in_multiplier", 1.0)  # of values; queries and keys: see the scale of scores
    return fields("ssm_out_multiplier", 1.0), fields("attention_out_multiplier", 1.0) * into


def _falcon_score_scale(fields: Fields, layer: int) -> float:
    return fields("key_multiplier", 1.0) * fields("attention_in_multiplier", 1.0) ** 2


def _falcon_mamba(fields: Fields, layer: int) -> dict[str, Any]:
    _refuse_scaled_bias(fields, layer, "ssm_in_multiplier", "mamba.in_proj.bias")
    factors = [fields("ssm_in_multiplier", 1.0) * factor for factor in fields("ssm_multipliers", None) or [1.0] * 5]
    names = ("gate_scale", "input_scale", "key_scale", "query_scale", "step_scale")
    where = "before_gate" if fields("mamba_norm_before_gate", True) else "after_gate"
    return {**dict(zip(names, factors, strict=True)), "output_norm": where if fields("mamba_rms_norm") else "none"}


def _refuse_scaled_bias(fields: Fields, layer: int, factor: str, bias: str) -> None:
    if fields(factor, 1.0) != 1 and fields.has(layer, bias):
        raise InteropError(f"config.json sets {factor} beside the bias {bias}, which has no counterpart here.")


FALCON_H1 = HYBRID.but(
    mixers={
        "": Part(
            kind=HeadMix,
            norm="input_layernorm",
            options={"fuse": always("concat"), "scales": _falcon_scales},
            parts=(
                BAMBA_MAMBA.but(groups=(_falcon_mamba,)),
                ATTENTION.but(options={"window": always(None), "score_scale": _falcon_score_scale}),
            ),
        )
    },
    ffns={
        "": FEED_FORWARD.but(
            options={"gate_scale": lambda fields, layer: (fields("mlp_multipliers", None) or (1.0, 1.0))[0]},
            scale=lambda fields, layer: (fields("mlp_multipliers", None) or (1.0, 1.0))[1],
        )
    },
    network={
        "embedding_scale": field("embedding_multiplier", 1.0),
        "logits_scale": field("lm_head_multiplier", 1.0),
    },
    inert=(*INITIALISATION, "projectors_bias", "mamba_d_ssm"),
)
