"""Granite 4: as Bamba, with scalars and experts."""

from typing import Any

from nas.interop.families.bamba import BAMBA_MAMBA
from nas.interop.families.mamba import HYBRID, INITIALISATION
from nas.interop.families.readers import head_dim, rope, shared_experts, word
from nas.interop.families.transformer import ATTENTION, GLU, GRANITE_SCALARS, MOE, RESIDUAL_SCALE
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import rows, transposed


def _granite_positions(fields: Fields, layer: int) -> dict[str, Any]:
    placed = rope(fields, layer)
    return {"position": "rope", **placed} if fields("position_embedding_type", None) == "rope" else {"position": "none"}


def _granite_ffn(fields: Fields, layer: int) -> str:
    if fields("num_local_experts", 0) > 0:
        return "moe"
    for name in ("num_experts_per_tok", "intermediate_size"):
        fields(name, None)  # of experts, of which there are none
    return "glu"


GRANITE_MAMBA = BAMBA_MAMBA.but(scale=RESIDUAL_SCALE)
GRANITE_ATTENTION = ATTENTION.but(
    scale=RESIDUAL_SCALE,
    options={
        "window": always(None),
        "score_scale": lambda fields, layer: fields("attention_multiplier") * head_dim(fields, layer) ** 0.5,
    },
    groups=(_granite_positions,),
)
GRANITE_GLU = GLU.but(
    prefix="shared_mlp.",
    scale=RESIDUAL_SCALE,
    options={"d_ff": field("shared_intermediate_size"), "bias": always(False)},
    tensors={"in_proj": rows("input_linear"), "out_proj": rows("output_linear")},
)
GRANITE_MOE = MOE.but(
    prefix="",
    scale=RESIDUAL_SCALE,
    options={"num_shared": shared_experts("shared_intermediate_size", "intermediate_size")},
    tensors={
        "router": rows("block_sparse_moe.router.layer"),
        "experts_in": transposed("block_sparse_moe.input_linear.weight"),
        "experts_out": transposed("block_sparse_moe.output_linear.weight"),
        "shared.in_proj": rows("shared_mlp.input_linear"),
        "shared.out_proj": rows("shared_mlp.output_linear"),
    },
)
GRANITE_HYBRID = HYBRID.but(
    mixers={"full_attention": GRANITE_ATTENTION, "linear_attention": GRANITE_MAMBA},
    mixer_of=word("layer_types"),
    ffns={"moe": GRANITE_MOE, "glu": GRANITE_GLU},
    ffn_of=_granite_ffn,
    network=GRANITE_SCALARS,
    last_norm="model.norm",
    inert=(*INITIALISATION, "normalization_function"),
)
