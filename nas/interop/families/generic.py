"""A decoder without a table, read by the names that decoders have in common.

* The tensors of the first layer tell what a layer is made of: under which of the known names queries, keys and values,
  the FFN and each norm stand. Which norms there are tells where they stand.
* Fields have the meaning that they have for Llama; one that is not known here is refused, and so is a tensor that
  nothing takes. A field that is null says that something is absent, and is passed over.
* Names cannot tell everything. Model types known to compute something else are refused (`UNTOLD`), and the caller is
  warned (`ReadByNames`) that the rest was taken to be as in Llama.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from nas.architecture import Attention, Glu, Mlp
from nas.interop.errors import InteropError
from nas.interop.families.readers import activation, has, head_dim, layer_type, qwen_window, rope, window
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, Reader, always, field
from nas.interop.tensors import rows

EMBEDDINGS = ("model.embed_tokens.weight", "model.embedding.weight", "transformer.wte.weight")
LAST_NORMS = ("model.norm", "model.final_layernorm", "model.final_layer_norm", "transformer.ln_f")
HEADS = ("lm_head.weight", "embed_out.weight")
QUERIES_KEYS_VALUES = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("wq", "wk", "wv"))
AFTER_HEADS = ("o_proj", "out_proj", "dense", "wo")
NORMS_OF_QUERIES = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"), ("query_layernorm", "key_layernorm"))
GLUS = (("gate_proj", "up_proj", "down_proj"), ("gate_up_proj", "down_proj"), ("w1", "w3", "w2"))
MLPS = (("up_proj", "down_proj"), ("c_fc", "c_proj"), ("fc1", "fc2"))
ACTIVATION_FIELDS = ("hidden_act", "hidden_activation", "activation_function")
EPS_FIELDS = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
DROPOUTS = (
    *("attention_dropout", "hidden_dropout", "residual_dropout", "embedding_dropout", "resid_pdrop", "embd_pdrop"),
    *("attn_pdrop", "activation_dropout", "dropout"),
)
SAID_BY_TENSORS = (
    *(
        "attention_bias",
        "attention_out_bias",
        "attention_in_bias",
        "mlp_bias",
        "use_bias",
        "use_qkv_bias",
        "use_qk_norm",
    ),
    *("qk_layernorm", "tie_embedding"),
)


@dataclass(frozen=True)
class Norms:
    """Which norms of a layer stand before and after its parts; a parallel layer has one."""

    mixer: str | None
    mixer_post: str | None = None
    ffn: str | None = None
    ffn_post: str | None = None
    parallel: bool = False


PLACEMENTS = (
    Norms("input_layernorm", None, "post_attention_layernorm"),
    Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    Norms("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    Norms("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    Norms("attention_norm", None, "ffn_norm"),
    Norms("ln_1", None, "ln_2"),
    Norms("input_layernorm", parallel=True),
)

UNTOLD: dict[str, str] = {
    "hunyuan_v1_dense": "normalises queries and keys after it has rotated them",
}
"""Model types whose fields and tensors look like Llama's, and what they compute that neither tells."""


def family_by_names(fields: Fields) -> Family:
    """The table that the names of fields and tensors come to. Raises InteropError where they do not tell enough."""
    if fields.model_type in UNTOLD:
        raise InteropError(f"A {fields.model_type} model {UNTOLD[fields.model_type]}, which has no counterpart here.")
    layers = _layers(fields)
    norms = _norms(fields, layers)
    mixer, ffn = _attention(fields, layers), _ffn(fields, layers)
    last_norm = _one_of(fields, LAST_NORMS, "last norm", ".weight")
    eps = _present(fields, EPS_FIELDS, "field for the eps of its norms")
    with_bias = f"{last_norm}.bias" in fields.tensors
    layernorm = with_bias or eps not in ("rms_norm_eps", "norm_eps")
    if layernorm and mixer.options["qk_norm"](fields, 0) != "none":
        raise InteropError(
            f"A {fields.model_type} model normalises queries beside LayerNorm; with which norm is not told."
        )
    if "rope_parameters" not in fields and "rope_theta" not in fields:
        raise InteropError("config.json has neither rope_parameters nor rope_theta: how positions enter is not told.")
    mixer = mixer.but(norm=norms.mixer, post_norm=norms.mixer_post, options={"norm_eps": field(eps)})
    windows = {"full_attention": mixer, "sliding_attention": mixer}
    return Family(
        mixers=windows,
        mixer_of=layer_type,
        ffns={"": ffn.but(norm=norms.ffn, post_norm=norms.ffn_post)},
        num_layers=field("num_hidden_layers"),
        network={
            "d_model": field("hidden_size"),
            "vocab_size": field("vocab_size"),
            "tie_embeddings": field("tie_word_embeddings", not fields.tensors.intersection(HEADS)),
            "norm": always("layernorm" if layernorm else "rmsnorm"),
            "norm_bias": always(with_bias),
            "norm_eps": field(eps),
        },
        embedding=_one_of(fields, EMBEDDINGS, "embedding"),
        layers=layers,
        last_norm=last_norm,
        head=next((name for name in HEADS if name in fields.tensors), HEADS[0]),
        parallel=norms.parallel,
        expected=dict.fromkeys(DROPOUTS, (0.0, None))
        | {"pretraining_tp": (1,), "clip_qkv": (None,), "use_parallel_residual": (norms.parallel,)},
        inert=(*SAID_BY_TENSORS, "original_max_position_embeddings", *fields.unset),
    )


def _layers(fields: Fields) -> str:
    """What the names of a layer's tensors begin with; there must be one stack of layers."""
    stacks = set()
    for name in fields.tensors:
        words = name.split(".")
        number = next((i for i, word in enumerate(words) if word.isdecimal()), None)
        if number is not None:
            stacks.add(".".join(words[:number]) + ".{}.")
    if len(stacks) != 1:
        found = ", ".join(sorted(stacks)) or "none"
        raise InteropError(f"A decoder has one stack of numbered layers, but the tensors have {found}.")
    return stacks.pop()


def _norms(fields: Fields, layers: str) -> Norms:
    """The placement whose norms are those of the first layer."""
    first = layers.format(0)
    inside = {name.removeprefix(first).removesuffix(".weight") for name in fields.tensors if name.startswith(first)}
    found = {name for name in inside if "." not in name}
    for placement in PLACEMENTS:
        known = (placement.mixer, placement.mixer_post, placement.ffn, placement.ffn_post)
        if found == set(filter(None, known)):
            return placement
    names = ", ".join(sorted(found)) or "none"
    raise InteropError(f"The norms of a layer are called {names}; where they stand is not told by that.")


def _attention(fields: Fields, layers: str) -> Part:
    first, module = layers.format(0), _module(fields, layers, QUERIES_KEYS_VALUES, "queries, keys and values")
    projections = _found(fields, first + module, QUERIES_KEYS_VALUES)
    norms = _found(fields, first + module, NORMS_OF_QUERIES)
    out = _one_of(fields, AFTER_HEADS, "projection after the heads", ".weight", first + module)
    assert projections is not None, "the module was found by them"
    tensors: dict[str, Any] = {"qkv.linear": rows(*projections), "out_proj": rows(out)}
    if norms is not None:
        tensors |= {"qkv.q_norm": rows(norms[0]), "qkv.k_norm": rows(norms[1])}
    options: dict[str, Reader] = {
        "num_heads": field("num_attention_heads"),
        "num_kv_heads": field("num_key_value_heads", None),
        "head_dim": head_dim,
        "qkv_bias": has(f"{module}{projections[0]}.bias"),
        "out_bias": has(f"{module}{out}.bias"),
        "qk_norm": always("none") if norms is None else partial(_qk_norm, f"{first}{module}{norms[0]}.weight"),
        "window": qwen_window if "use_sliding_window" in fields else window,
    }
    return Part(kind=Attention, prefix=module, options=options, groups=(rope,), tensors=tensors)


def _qk_norm(name: str, fields: Fields, layer: int) -> str:
    """Over a head or over all of them, which the length of the weight tells."""
    size, heads = head_dim(fields, layer), fields("num_attention_heads")
    kinds = {(size,): "head", (heads * size,): "full"}
    if fields.shape(name) not in kinds:
        raise InteropError(f"{name} has shape {fields.shape(name)}, which is neither one head's nor that of all heads.")
    return kinds[fields.shape(name)]


def _ffn(fields: Fields, layers: str) -> Part:
    first, module = layers.format(0), _module(fields, layers, (*GLUS, *MLPS), "FFN")
    glu = _found(fields, first + module, GLUS)
    names = glu or _found(fields, first + module, MLPS)
    assert names is not None, "the module was found by them"
    return Part(
        kind=Mlp if glu is None else Glu,
        prefix=module,
        options={
            "d_ff": field("intermediate_size"),
            "activation": activation(_present(fields, ACTIVATION_FIELDS, "field for its activation")),
            "bias": has(f"{module}{names[-1]}.bias"),
        },
        tensors={"in_proj": rows(*names[:-1]), "out_proj": rows(names[-1])},
    )


def _module(fields: Fields, layers: str, alternatives: Iterable[tuple[str, ...]], what: str) -> str:
    """The module of a layer that has tensors of one of those sets of names."""
    first = layers.format(0)
    modules = sorted({n.removeprefix(first).split(".")[0] + "." for n in fields.tensors if n.startswith(first)})
    found = [module for module in modules if _found(fields, first + module, alternatives)]
    if len(found) != 1:
        known, verb = "; ".join(", ".join(names) for names in alternatives), "are" if " and " in what else "is"
        raise InteropError(
            f"The {what} of a layer {verb} not told by names: {len(found)} of its modules ({', '.join(modules)}) have "
            f"tensors of one of the known sets ({known})."
        )
    return found[0]


def _found(fields: Fields, prefix: str, alternatives: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The first of those sets of names of which all have weights."""
    return next((names for names in alternatives if all(f"{prefix}{n}.weight" in fields.tensors for n in names)), None)


def _one_of(fields: Fields, names: tuple[str, ...], what: str, suffix: str = "", prefix: str = "") -> str:
    for name in names:
        if prefix + name + suffix in fields.tensors:
            return name
    raise InteropError(f"There is no tensor for the {what} under a name that is known ({', '.join(names)}).")


def _present(fields: Fields, names: tuple[str, ...], what: str) -> str:
    found = [name for name in names if name in fields and name not in fields.unset]
    if len(found) != 1:
        raise InteropError(
            f"config.json has {' and '.join(found) or 'none'} as the {what}, but must have one of {', '.join(names)}."
        )
    return found[0]
