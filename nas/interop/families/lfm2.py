"""LFM2: gated short convolutions beside attention."""

from nas.architecture import ShortConvolution
from nas.interop.families.readers import layer_type
from nas.interop.families.transformer import GLU, LLAMA, QK_NORMED
from nas.interop.family import Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import filters, rows


def _lfm2_mixer(fields: Fields, layer: int) -> str:
    attends = fields("full_attn_idxs", None)
    if fields("layer_types", None) is not None or attends is None:
        return layer_type(fields, layer)
    return "full_attention" if layer in attends else "conv"


def _lfm2_width(fields: Fields, layer: int) -> int:
    """Two thirds, times a factor, rounded up: how a width for two matrices becomes one for three."""
    width, factor, multiple = fields("intermediate_size"), fields("block_ffn_dim_multiplier", 1.0), "block_multiple_of"
    step = fields(multiple, 256)
    if not fields("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    return width if factor is None else -(-int(factor * width) // step) * step


CONVOLUTION = Part(
    kind=ShortConvolution,
    prefix="conv.",
    norm="operator_norm",
    options={"conv_size": field("conv_L_cache"), "bias": field("conv_bias", False)},
    tensors={
        "in_proj": rows("in_proj"),
        "conv.filter": filters("conv.weight"),
        "conv.bias": rows("conv.bias"),
        "out_proj": rows("out_proj"),
    },
)
LFM2_ATTENTION = QK_NORMED.but(
    norm="operator_norm",
    options={"window": always(None), "norm_eps": field("norm_eps"), "out_bias": always(False)},
    tensors={"out_proj": rows("out_proj"), "qkv.q_norm": rows("q_layernorm"), "qkv.k_norm": rows("k_layernorm")},
)
LFM2_GLU = GLU.but(
    prefix="feed_forward.",
    norm="ffn_norm",
    options={"d_ff": _lfm2_width, "activation": always("silu"), "bias": always(False)},
    tensors={"in_proj": rows("w1", "w3"), "out_proj": rows("w2")},
)
LFM2 = LLAMA.but(
    mixers={"full_attention": LFM2_ATTENTION, "conv": CONVOLUTION},
    mixer_of=_lfm2_mixer,
    ffns={"": LFM2_GLU},
    network={"tie_embeddings": field("tie_word_embeddings", True), "norm_eps": field("norm_eps")},
    inert=("conv_L_cache", "conv_bias"),  # where no layer convolves
    last_norm="model.embedding_norm",
)
