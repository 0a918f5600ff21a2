"""The tables, one per type of model: which field is which option, which tensor is which parameter."""

from difflib import get_close_matches

from nas.interop.errors import InteropError
from nas.interop.families.bamba import BAMBA
from nas.interop.families.deepseek_v3 import DEEPSEEK_V3
from nas.interop.families.deepseek_v32 import DEEPSEEK_V32
from nas.interop.families.diffllama import DIFFLLAMA
from nas.interop.families.falcon_h1 import FALCON_H1
from nas.interop.families.generic import family_by_names
from nas.interop.families.granite_hybrid import GRANITE_HYBRID
from nas.interop.families.jamba import JAMBA
from nas.interop.families.kimi_linear import KIMI_LINEAR
from nas.interop.families.lfm2 import LFM2
from nas.interop.families.mamba import MAMBAS
from nas.interop.families.minimax import MINIMAX
from nas.interop.families.nemotron_h import NEMOTRON_H
from nas.interop.families.olmo_hybrid import OLMO_HYBRID
from nas.interop.families.qwen3_next import QWEN2_MOE, QWEN3_NEXT
from nas.interop.families.recurrent_gemma import RECURRENT_GEMMA
from nas.interop.families.relatives import RELATIVES
from nas.interop.families.rwkv import RWKV
from nas.interop.families.transformer import TRANSFORMERS
from nas.interop.families.xlstm import XLSTM
from nas.interop.families.zamba2 import ZAMBA2
from nas.interop.family import Family
from nas.interop.fields import Fields

FAMILIES: dict[str, Family] = {
    **TRANSFORMERS,
    **RELATIVES,
    **MAMBAS,
    "bamba": BAMBA,
    "deepseek_v3": DEEPSEEK_V3,
    "kimi_linear": KIMI_LINEAR,
    "minimax": MINIMAX,
    "olmo_hybrid": OLMO_HYBRID,
    "recurrent_gemma": RECURRENT_GEMMA,
    "rwkv": RWKV,
    "xlstm": XLSTM,
    "zamba2": ZAMBA2,
    "deepseek_v32": DEEPSEEK_V32,
    "diffllama": DIFFLLAMA,
    "falcon_h1": FALCON_H1,
    "granitemoehybrid": GRANITE_HYBRID,
    "jamba": JAMBA,
    "lfm2": LFM2,
    "nemotron_h": NEMOTRON_H,
    "qwen2_moe": QWEN2_MOE,
    "qwen3_next": QWEN3_NEXT,
}


def family_of(fields: Fields) -> Family:
    """The table for a model type, or what the names of its fields and tensors come to. Raises InteropError."""
    if fields.model_type in FAMILIES:
        return FAMILIES[fields.model_type]
    try:
        return family_by_names(fields)
    except InteropError as error:
        near = get_close_matches(fields.model_type, FAMILIES, n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise InteropError(
            f"There is no table for model_type {fields.model_type!r}{meant}, and names do not tell what it is: {error}"
        ) from None
