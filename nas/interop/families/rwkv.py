"""RWKV-4: time mixing and channel mixing, the embeddings normed before the first layer."""

from nas.architecture import Rwkv4, RwkvChannelMix
from nas.interop.families.readers import counted_heads
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import rest_of_one, rows


def _heads(fields: Fields, layer: int) -> dict[str, int]:
    return counted_heads(fields("attention_hidden_size", None) or fields("hidden_size"))


def _ffn_width(fields: Fields, layer: int) -> int:
    return fields("intermediate_size", None) or 4 * fields("hidden_size")


RWKV = Family(
    mixers={
        "": Part(
            kind=Rwkv4,
            prefix="attention.",
            norm="ln1",
            groups=(_heads,),
            tensors={
                "shares": rest_of_one("time_mix_key", "time_mix_value", "time_mix_receptance"),
                "k_proj": rows("key"),
                "v_proj": rows("value"),
                "r_proj": rows("receptance"),
                "decay": rows("time_decay"),
                "first": rows("time_first"),
                "out_proj": rows("output"),
            },
        )
    },
    ffns={
        "": Part(
            kind=RwkvChannelMix,
            prefix="feed_forward.",
            norm="ln2",
            options={"d_ff": _ffn_width, "receptance": always(True)},
            tensors={
                "shares": rest_of_one("time_mix_key", "time_mix_receptance"),
                "in_proj": rows("key"),
                "receptance": rows("receptance"),
                "out_proj": rows("value"),
            },
        )
    },
    num_layers=field("num_hidden_layers"),
    network={
        "d_model": field("hidden_size"),
        "vocab_size": field("vocab_size"),
        "tie_embeddings": field("tie_word_embeddings", False),
        "norm": always("layernorm"),
        "norm_bias": always(True),
        "norm_eps": field("layer_norm_epsilon", 1e-5),
        "embedding_norm": always(True),
    },
    embedding="rwkv.embeddings.weight",
    layers="rwkv.blocks.{}.",
    embedding_norm="rwkv.blocks.0.pre_ln",
    last_norm="rwkv.ln_out",
    head="head.weight",
    expected={"layer_norm_epsilon": (1e-5,)},  # the last norm has this one whatever the field says
    # In inference the stream and what is added to it are halved every so many layers, which norms take back.
    inert=("context_length", "rescale_every"),
)
