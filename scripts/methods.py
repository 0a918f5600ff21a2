"""The methods of the survey "Speed Always Wins" (arXiv 2508.09834) that are choices here: which options make each.

A method lies in an architecture where a part of that kind has those options. What it is held against is found by that,
in the oracles of `scripts/interop_oracles`; `tests` names the tests that hold it against something else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    BlockSparseAttention,
    GatedDeltaNet,
    GatedLinearAttention,
    Glu,
    HeadMix,
    LinearScaling,
    Llama3Scaling,
    Mamba1,
    Mamba2,
    Mlp,
    Moe,
    RopeScaling,
    ShortConvolution,
    YarnScaling,
)
from nas.architecture.differential_attention import DifferentialAttention
from nas.architecture.ffns import MixtureOfDepths, RwkvChannelMix
from nas.architecture.forgetting_attention import ForgettingAttention
from nas.architecture.hash_attention import HashAttention
from nas.architecture.indexed_latent_attention import IndexedLatentAttention
from nas.architecture.latent_attention import LatentAttention
from nas.architecture.matrix_recurrence import MatrixRecurrence
from nas.architecture.native_sparse_attention import NativeSparseAttention
from nas.architecture.options import Options
from nas.architecture.pattern_attention import PatternAttention
from nas.architecture.rwkv import Rwkv4, Rwkv6, Rwkv7
from nas.architecture.s4d import S4d
from nas.architecture.slot_attention import GatedSlotAttention
from nas.architecture.ttt_linear import TttLinear
from nas.architecture.vector_recurrence import VectorRecurrence
from nas.architecture.window_linear_attention import WindowLinearAttention

SET = object()
"""Any value but the default."""

ATTENTIONS, MATRICES = "tests/test_attention_parity.py", "tests/mixers/test_matrix_recurrence.py"
VECTORS, RWKV = "tests/mixers/test_vector_recurrence.py", "tests/mixers/test_rwkv.py"
ROUTERS = "tests/contract/test_ffns.py"
OTHER_STATES = "tests/mixers/test_other_states.py"
HEADS, REMAINDER = "tests/mixers/test_mixture_of_heads.py", "tests/mixers/test_window_linear_attention.py"
BIASES = "tests/layers/test_relative_bias.py"
CONTRACT, SHARING, TYING = "tests/contract/test_mixers.py", "tests/test_kv_sharing.py", "tests/test_tied_blocks.py"
RNN, TEST_TIME = "Linear sequence modelling: linear RNNs", "Linear sequence modelling: test-time training"
LINEAR, STATE_SPACE = "Linear sequence modelling: linear attention", "Linear sequence modelling: state-space models"
STATIC, DYNAMIC = "Sparse sequence modelling: static", "Sparse sequence modelling: dynamic"
FULL, EXPERTS = "Efficient full attention", "Sparse mixture of experts"
HYBRID, AROUND = "Hybrid architectures: within a layer", "Around the mixers"
DIFFUSION, MASKS = "Diffusion language models", "tests/losses/test_masked_diffusion.py"
BOTH_WAYS = "tests/contract/test_directions.py"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row. options: values that they must have, SET for any but the default. tests: files with other oracles."""

    direction: str
    name: str
    kind: type[Options]
    options: Mapping[str, Any] = field(default_factory=dict)
    tests: tuple[str, ...] = ()

    def lies_in(self, architecture: Architecture) -> bool:
        return any(type(part) is self.kind and self._has(part) for part in parts(architecture))

    def _has(self, part: Options) -> bool:
        defaults = {f.name: f.default for f in fields(part)}
        for name, wanted in self.options.items():
            value = getattr(part, name)
            if isinstance(wanted, type):
                fits = isinstance(value, wanted)
            else:
                fits = value != defaults[name] if wanted is SET else value == wanted
            if not fits:
                return False
        return True


def parts(architecture: Architecture) -> Iterator[Options]:
    """The architecture, its blocks, and what they are made of, parts of head_mix included."""
    yield architecture
    for block in dict.fromkeys(architecture.blocks):
        yield from (block, block.mixer, block.ffn)
        if isinstance(block.mixer, HeadMix):
            yield from block.mixer.parts


def _method(survey: str, name: str, kind: type[Options], /, *tests: str, **options: Any) -> Method:
    return Method(direction=survey, name=name, kind=kind, options=options, tests=tests)


METHODS: tuple[Method, ...] = (
    _method(LINEAR, "Linear transformer (arXiv 2006.16236)", MatrixRecurrence, MATRICES, feature_map="elu"),
    _method(LINEAR, "Based (arXiv 2402.18668)", MatrixRecurrence, MATRICES, feature_map="taylor"),
    _method(LINEAR, "Hedgehog (arXiv 2402.04347)", MatrixRecurrence, MATRICES, feature_map="hedgehog"),
    _method(LINEAR, "RetNet (arXiv 2307.08621)", MatrixRecurrence, MATRICES, decay_form="retention"),
    _method(LINEAR, "Lightning (arXiv 2401.04658)", MatrixRecurrence, MATRICES, decay_form="slopes"),
    _method(LINEAR, "GLA (arXiv 2312.06635)", GatedLinearAttention, "tests/kernels/test_matrix_recurrence_oracles.py"),
    _method(LINEAR, "DeltaNet (arXiv 2406.06484)", MatrixRecurrence, MATRICES, erase="delta", decay="none"),
    _method(LINEAR, "Gated DeltaNet (arXiv 2412.06464)", GatedDeltaNet),
    _method(
        LINEAR,
        "Gated DeltaNet with negative eigenvalues (OLMo hybrid; arXiv 2411.12537)",
        MatrixRecurrence,
        **{"erase": "delta", "decay": "scalar", "beta_max": SET},
    ),
    _method(LINEAR, "KDA (arXiv 2510.26692)", MatrixRecurrence, MATRICES, erase="delta", decay="vector"),
    _method(LINEAR, "DeltaProduct (arXiv 2502.10297)", MatrixRecurrence, MATRICES, inner_steps=SET),
    _method(LINEAR, "Gated DeltaNet-2: erased by channel", MatrixRecurrence, MATRICES, erase="channel", write="vector"),
    _method(LINEAR, "Comba (arXiv 2506.02475)", MatrixRecurrence, MATRICES, erase="scaled"),
    _method(LINEAR, "Grouped values: keys shared by heads (Qwen3-Next)", GatedDeltaNet, num_key_heads=SET),
    _method(LINEAR, "Gated short convolution (LFM2)", ShortConvolution),
    _method(RNN, "HGRN (arXiv 2311.04823)", VectorRecurrence, VECTORS, cell="hgrn"),
    _method(RNN, "HGRN2 (arXiv 2404.07904)", MatrixRecurrence, MATRICES, write="complement"),
    _method(RNN, "RG-LRU (Griffin, arXiv 2402.19427)", VectorRecurrence, VECTORS, cell="rg_lru"),
    _method(RNN, "minGRU (arXiv 2410.01201)", VectorRecurrence, VECTORS, cell="min_gru"),
    _method(RNN, "minLSTM (arXiv 2410.01201)", VectorRecurrence, VECTORS, cell="min_lstm"),
    _method(RNN, "mLSTM (xLSTM, arXiv 2405.04517)", MatrixRecurrence, MATRICES, write="exponential"),
    _method(RNN, "RWKV-4 (arXiv 2305.13048)", Rwkv4, RWKV),
    _method(RNN, "RWKV-6 (arXiv 2404.05892)", Rwkv6, RWKV),
    _method(RNN, "RWKV-7 (arXiv 2503.14456)", Rwkv7, RWKV),
    _method(RNN, "Channel mixing of RWKV", RwkvChannelMix, RWKV),
    _method(TEST_TIME, "TTT-Linear (arXiv 2407.04620)", TttLinear, OTHER_STATES),
    _method(LINEAR, "Gated slot attention (arXiv 2409.07146)", GatedSlotAttention, OTHER_STATES),
    _method(STATE_SPACE, "S4D with real states (arXiv 2206.11893)", S4d, OTHER_STATES),
    _method(STATE_SPACE, "Mamba (arXiv 2312.00752)", Mamba1),
    _method(STATE_SPACE, "Mamba with norms of δ, B, C (Jamba, arXiv 2403.19887)", Mamba1, inner_norm="learned"),
    _method(STATE_SPACE, "Mamba with plain norms (Falcon Mamba, arXiv 2410.05355)", Mamba1, inner_norm="plain"),
    _method(STATE_SPACE, "Mamba-2 (arXiv 2405.21060)", Mamba2),
    _method(STATE_SPACE, "Mamba-2 with groups of B and C", Mamba2, num_groups=SET),
    _method(STATE_SPACE, "Mamba-2 normed before the gate (Falcon-H1)", Mamba2, output_norm="before_gate"),
    _method(STATIC, "Sliding window (arXiv 2310.06825)", Attention, window=SET),
    _method(STATIC, "Attention sinks (gpt-oss, arXiv 2508.10925)", Attention, sinks=True),
    _method(
        STATIC, "First tokens beside a window (StreamingLLM, arXiv 2309.17453)", Attention, CONTRACT, num_global=SET
    ),
    _method(STATIC, "Chunks (Llama 4)", PatternAttention, ATTENTIONS, pattern="chunked"),
    _method(STATIC, "Longformer (arXiv 2004.05150)", PatternAttention, ATTENTIONS, pattern="local_global"),
    _method(STATIC, "BigBird (arXiv 2007.14062)", PatternAttention, ATTENTIONS, random_blocks=SET),
    _method(STATIC, "Sparse Transformer (arXiv 1904.10509)", PatternAttention, ATTENTIONS, pattern="strided"),
    _method(STATIC, "LongNet (arXiv 2307.02486)", PatternAttention, ATTENTIONS, pattern="dilated"),
    _method(DYNAMIC, "Buckets of a hash (Reformer, arXiv 2001.04451)", HashAttention, ATTENTIONS),
    _method(DYNAMIC, "NSA (arXiv 2502.11089)", NativeSparseAttention, ATTENTIONS),
    _method(DYNAMIC, "DSA: tokens chosen by an indexer (DeepSeek-V3.2)", IndexedLatentAttention, ATTENTIONS),
    _method(
        DYNAMIC,
        "Blocks chosen by their mean key (MoBA, arXiv 2502.13189)",
        BlockSparseAttention,
        "tests/kernels/test_block_sparse_attention.py",
    ),
    _method(FULL, "Grouped queries (arXiv 2305.13245)", Attention, num_kv_heads=SET),
    _method(FULL, "Latent attention (DeepSeek-V2, arXiv 2405.04434)", LatentAttention, ATTENTIONS),
    _method(FULL, "Latent attention without rotation (Kimi Linear)", LatentAttention, ATTENTIONS, position="none"),
    _method(FULL, "Differential attention (arXiv 2410.05258)", DifferentialAttention, ATTENTIONS),
    _method(FULL, "Forgetting attention (arXiv 2503.02130)", ForgettingAttention, ATTENTIONS),
    _method(FULL, "ALiBi (arXiv 2108.12409)", ForgettingAttention, ATTENTIONS, fading="alibi"),
    _method(FULL, "Keys as values (Gemma 4)", Attention, ATTENTIONS, tie_kv=True),
    _method(
        FULL, "Keys and values of an earlier layer (YOCO, arXiv 2405.05254)", Attention, SHARING, kv_from="earlier"
    ),
    _method(FULL, "Heads picked by the token (MoH, arXiv 2410.11842)", Attention, HEADS, head_share=SET),
    _method(FULL, "Temperature of positions (Llama 4)", Attention, ATTENTIONS, temperature_floor=SET),
    _method(FULL, "Rotary positions (arXiv 2104.09864)", Attention, position="rope"),
    _method(FULL, "Rotary positions, a share of a head", Attention, rope_fraction=SET),
    _method(FULL, "Rotary positions, neighbours paired", Attention, rope_interleaved=True),
    _method(FULL, "Longer contexts: angles divided (arXiv 2306.15595)", Attention, rope_scaling=LinearScaling),
    _method(FULL, "Longer contexts: Llama 3.1 (arXiv 2407.21783)", Attention, rope_scaling=Llama3Scaling),
    _method(FULL, "Longer contexts: YaRN (arXiv 2309.00071)", Attention, rope_scaling=YarnScaling),
    _method(FULL, "Biases by distance, in buckets (T5, arXiv 1910.10683)", Attention, BIASES, position="relative"),
    _method(FULL, "No positions (arXiv 2305.19466)", Attention, position="none"),
    _method(FULL, "Norms of queries and keys, per head (Qwen3)", Attention, qk_norm="head"),
    _method(FULL, "Norms of queries and keys, over all heads (OLMo 2, arXiv 2501.00656)", Attention, qk_norm="full"),
    _method(FULL, "Capped scores (Gemma 2, arXiv 2408.00118)", Attention, soft_cap=SET),
    _method(FULL, "Output gate (arXiv 2505.06708)", Attention, output_gate="sigmoid"),
    _method(EXPERTS, "Softmax router, chosen ones renormalised (Mixtral, arXiv 2401.04088)", Moe, router="softmax"),
    _method(EXPERTS, "Sigmoid router with a bias of the choice (arXiv 2408.15664)", Moe, selection_bias=True),
    _method(EXPERTS, "Experts in groups (DeepSeek-V3, arXiv 2412.19437)", Moe, num_groups=SET),
    _method(EXPERTS, "Shared experts (DeepSeekMoE, arXiv 2401.06066)", Moe, num_shared=SET),
    _method(EXPERTS, "Shared experts with a gate (Qwen2-MoE)", Moe, shared_gate=True),
    _method(EXPERTS, "Experts of two matrices (Nemotron)", Moe, gated=False),
    _method(EXPERTS, "Clamped experts (gpt-oss, arXiv 2508.10925)", Moe, clamp=SET),
    _method(EXPERTS, "Experts by a hash of the token (arXiv 2106.04426)", Moe, ROUTERS, choice="hash"),
    _method(EXPERTS, "Experts that choose their tokens (arXiv 2202.09368)", Moe, ROUTERS, choice="experts"),
    _method(EXPERTS, "Zero experts (LongCat-Flash, arXiv 2509.01322)", Moe, ROUTERS, num_zero=SET),
    _method(EXPERTS, "Logits of routers kept small (ST-MoE, arXiv 2202.08906)", Moe, ROUTERS, z_weight=SET),
    _method(EXPERTS, "Mixture of depths (arXiv 2404.02258)", MixtureOfDepths, ROUTERS),
    _method(EXPERTS, "Mixture of depths, told by a predictor", MixtureOfDepths, ROUTERS, told_by="predictor"),
    _method(HYBRID, "Scaled sum of mixers (Falcon-H1, arXiv 2507.22448)", HeadMix, fuse="concat"),
    _method(
        HYBRID,
        "Mean of normed mixers (Hymba, arXiv 2411.13676)",
        HeadMix,
        "tests/contract/test_mixers.py",
        fuse="norm_mean",
    ),
    _method(
        HYBRID,
        "Window and linear remainder under one normaliser (LoLCATs, arXiv 2410.10254)",
        WindowLinearAttention,
        REMAINDER,
    ),
    _method(HYBRID, "Mean of normed heads behind one projection (Hymba)", HeadMix, CONTRACT, shared_out=True),
    _method(DIFFUSION, "MDLM, LLaDA (arXiv 2406.07524, 2502.09992)", Architecture, MASKS, loss="masked_diffusion"),
    _method(DIFFUSION, "Attention to earlier and later tokens", Attention, BOTH_WAYS, direction="both"),
    _method(
        DIFFUSION, "Reading forwards and backwards (Caduceus, arXiv 2403.03234)", Mamba2, BOTH_WAYS, direction="both"
    ),
    _method(AROUND, "Gated linear units (arXiv 2002.05202)", Glu),
    _method(AROUND, "Squared ReLU (arXiv 2109.08668)", Mlp, activation="relu2"),
    _method(AROUND, "Attention and FFN in parallel (Command R)", Block, parallel=True),
    _method(AROUND, "Norms after sublayers (OLMo 2, arXiv 2501.00656)", Block, mixer_norm="post"),
    _method(AROUND, "Norms before and after (Gemma 2, arXiv 2408.00118)", Block, mixer_norm="sandwich"),
    _method(AROUND, "Normed residual stream (MiniMax-01, arXiv 2501.08313)", Block, mixer_norm="residual"),
    _method(AROUND, "Normed embeddings (RWKV, arXiv 2305.13048)", Architecture, embedding_norm=True),
    _method(AROUND, "Weights of an earlier block (Zamba, arXiv 2405.16712)", Block, TYING, weights_of=SET),
    _method(AROUND, "Adapters of each use of shared weights (Zamba2, arXiv 2411.15242)", Block, ffn_adapter_rank=SET),
    _method(AROUND, "Blocks beside the stream (Zamba, arXiv 2405.16712)", Block, aside=True),
    _method(AROUND, "Attention that reads the embedding too (Zamba)", Attention, reads="with_embedding"),
    _method(AROUND, "Scaled sublayers (Granite)", Block, mixer_scale=SET),
    _method(AROUND, "Capped logits (Gemma 2, arXiv 2408.00118)", Architecture, logits_soft_cap=SET),
)


def told(method: Method) -> str:
    """Kind and options as an architecture file writes them."""
    kind = getattr(method.kind, "kind", method.kind.__name__.lower())
    words = [f"`{kind}`"]
    for name, value in method.options.items():
        if isinstance(value, type) and issubclass(value, RopeScaling):
            value = value.kind
        words.append(f"`{name}`" if value is SET else f"`{name}: {str(value).lower()}`")
    return words[0] + (": " if words[1:] else "") + ", ".join(words[1:])
