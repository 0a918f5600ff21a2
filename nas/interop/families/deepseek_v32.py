"""DeepSeek-V3.2: DeepSeek-V3 whose attention reads the tokens that an indexer picks."""

from nas.architecture import IndexedLatentAttention
from nas.interop.families.deepseek_v3 import DEEPSEEK_V3, LATENT_ATTENTION, rotated, score_scale
from nas.interop.families.readers import layer_type
from nas.interop.fields import Fields, always, field
from nas.interop.tensors import rows


def _ffn(fields: Fields, layer: int) -> str:
    """`mlp_layer_types`, or the number of dense layers before all others."""
    given = fields("mlp_layer_types", None)
    if given is None:
        return "glu" if layer < fields("first_k_dense_replace") else "moe"
    return {"dense": "glu", "sparse": "moe"}.get(given[layer], str(given[layer]))


def _mixer(fields: Fields, layer: int) -> str:
    return "indexed_attention" if fields("layer_types", None) is None else layer_type(fields, layer)


INDEXED = LATENT_ATTENTION.but(
    kind=IndexedLatentAttention,
    options={
        "top_k": field("index_topk"),
        "index_heads": field("index_n_heads"),
        "index_dim": field("index_head_dim"),
        "rope_interleaved": always(True),
        "score_scale": score_scale,
    },
    groups=(rotated,),
    tensors={
        "indexer.q_proj": rows("indexer.wq_b"),
        "indexer.k_proj": rows("indexer.wk"),
        "indexer.k_norm": rows("indexer.k_norm"),
        "indexer.weight_proj": rows("indexer.weights_proj"),
    },
)
DEEPSEEK_V32 = DEEPSEEK_V3.but(
    mixers={"indexed_attention": INDEXED},
    mixer_of=_mixer,
    ffn_of=_ffn,
    inert=(*DEEPSEEK_V3.inert, "first_k_dense_replace", "mlp_bias"),  # `mlp_layer_types` was made from the number
)
