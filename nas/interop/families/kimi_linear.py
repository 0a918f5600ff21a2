"""Kimi Linear: three layers of Kimi delta attention (KDA) to one of latent attention without positions, and experts."""

from nas.architecture import MatrixRecurrence
from nas.architecture.presets import MATRICES
from nas.interop.families.deepseek_v3 import BIASED_SIGMOID_MOE, LATENT_ATTENTION
from nas.interop.families.readers import layer_type
from nas.interop.families.transformer import GLU, LLAMA
from nas.interop.family import Part
from nas.interop.fields import Fields, Reader, always, field
from nas.interop.tensors import Source, filters, rows, transposed_rows


def _of_linear(name: str, first_name: str) -> Reader:
    """A field, which the first files keep under another name in `linear_attn_config`."""

    def read(fields: Fields, layer: int) -> int:
        given = fields(name, None)
        return fields("linear_attn_config")[first_name] if given is None else given

    return read


def _mixer(fields: Fields, layer: int) -> str:
    """`layer_types`, or the numbers from one on that the first files list."""
    if fields("layer_types", None) is not None:
        return layer_type(fields, layer)
    return "full_attention" if layer + 1 in fields("linear_attn_config")["full_attn_layers"] else "linear_attention"


def _ffn(fields: Fields, layer: int) -> str:
    given = fields("mlp_layer_types", None)
    if given is not None:
        return str(given[layer])
    return "dense" if layer < fields("first_k_dense_replace", 1) else "sparse"


DELTA_ATTENTION = Part(
    kind=MatrixRecurrence,
    prefix="self_attn.",
    norm="input_layernorm",
    options={
        **{name: always(value) for name, value in MATRICES["kda"].items()},
        "num_heads": _of_linear("linear_num_heads", "num_heads"),
        "head_dim": _of_linear("linear_head_dim", "head_dim"),
        "conv_size": _of_linear("linear_conv_kernel_dim", "short_conv_kernel_size"),
        "norm_eps": field("rms_norm_eps"),
    },
    tensors={
        "in_proj": rows("q_proj", "k_proj", "v_proj", "g_a_proj", "b_proj", "f_a_proj"),
        "conv.filter": filters("q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"),
        "decay.proj": rows("f_b_proj"),
        "decay.A_log": Source(("A_log",), lambda tensors: tensors[0].flatten()),
        "decay.bias": rows("dt_bias"),
        "gate_proj": rows("g_b_proj"),
        "readout.norm": rows("o_norm"),
        "out_proj": rows("o_proj"),
    },
)
MOE = BIASED_SIGMOID_MOE.but(
    options={
        "num_experts": field("num_experts"),
        "top_k": field("num_experts_per_token"),
        "num_shared": field("num_shared_experts"),
        "normalise": field("moe_renormalize"),
        "num_groups": field("num_expert_group"),
    },
    tensors={
        "experts_in": transposed_rows("experts.{}.w1.weight", "experts.{}.w3.weight"),
        "experts_out": transposed_rows("experts.{}.w2.weight"),
    },
)
KIMI_LINEAR = LLAMA.but(
    mixers={
        "linear_attention": DELTA_ATTENTION,
        "full_attention": LATENT_ATTENTION.but(options={"position": always("none")}),
    },
    mixer_of=_mixer,
    ffns={"sparse": MOE, "dense": GLU},
    ffn_of=_ffn,
    spellings=((r"\.block_sparse_moe\.", ".mlp."),),
    expected={
        "mla_use_nope": (True,),
        "moe_layer_freq": (1,),
        "moe_router_activation_func": ("sigmoid",),
        "use_grouped_topk": (True,),
        "num_nextn_predict_layers": (0,),
    },
    # Nothing is rotated, and the sizes of heads are told by those of their parts.
    inert=(
        *("attention_bias", "num_key_value_heads", "head_dim", "qk_head_dim", "model_max_length"),
        *("rope_theta", "rope_scaling", "rope_parameters"),
        # Lists of layers were made from these.
        *("linear_attn_config", "first_k_dense_replace"),
    ),
)
