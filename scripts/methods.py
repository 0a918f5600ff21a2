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
from nas.architecture.options import Options

SET = object()
"""Any value but the default."""

LINEAR, STATE_SPACE = "Linear sequence modelling: linear attention", "Linear sequence modelling: state-space models"
STATIC, DYNAMIC = "Sparse sequence modelling: static", "Sparse sequence modelling: dynamic"
FULL, EXPERTS = "Efficient full attention", "Sparse mixture of experts"
HYBRID, AROUND = "Hybrid architectures: within a layer", "Around the mixers"


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


def _method(direction: str, name: str, kind: type[Options], *tests: str, **options: Any) -> Method:
    return Method(direction=direction, name=name, kind=kind, options=options, tests=tests)


METHODS: tuple[Method, ...] = (
    _method(LINEAR, "GLA (arXiv 2312.06635)", GatedLinearAttention, "tests/kernels/test_matrix_recurrence_oracles.py"),
    _method(LINEAR, "Gated DeltaNet (arXiv 2412.06464)", GatedDeltaNet),
    _method(LINEAR, "Grouped values: keys shared by heads (Qwen3-Next)", GatedDeltaNet, num_key_heads=SET),
    _method(LINEAR, "Gated short convolution (LFM2)", ShortConvolution),
    _method(STATE_SPACE, "Mamba (arXiv 2312.00752)", Mamba1),
    _method(STATE_SPACE, "Mamba with norms of δ, B, C (Jamba, arXiv 2403.19887)", Mamba1, inner_norm="learned"),
    _method(STATE_SPACE, "Mamba with plain norms (Falcon Mamba, arXiv 2410.05355)", Mamba1, inner_norm="plain"),
    _method(STATE_SPACE, "Mamba-2 (arXiv 2405.21060)", Mamba2),
    _method(STATE_SPACE, "Mamba-2 with groups of B and C", Mamba2, num_groups=SET),
    _method(STATE_SPACE, "Mamba-2 normed before the gate (Falcon-H1)", Mamba2, output_norm="before_gate"),
    _method(STATIC, "Sliding window (arXiv 2310.06825)", Attention, window=SET),
    _method(STATIC, "Attention sinks (gpt-oss, arXiv 2508.10925)", Attention, sinks=True),
    _method(
        DYNAMIC,
        "Blocks chosen by their mean key (MoBA, arXiv 2502.13189)",
        BlockSparseAttention,
        "tests/kernels/test_block_sparse_attention.py",
    ),
    _method(FULL, "Grouped queries (arXiv 2305.13245)", Attention, num_kv_heads=SET),
    _method(FULL, "Rotary positions (arXiv 2104.09864)", Attention, position="rope"),
    _method(FULL, "Rotary positions, a share of a head", Attention, rope_fraction=SET),
    _method(FULL, "Rotary positions, neighbours paired", Attention, rope_interleaved=True),
    _method(FULL, "Longer contexts: angles divided (arXiv 2306.15595)", Attention, rope_scaling=LinearScaling),
    _method(FULL, "Longer contexts: Llama 3.1 (arXiv 2407.21783)", Attention, rope_scaling=Llama3Scaling),
    _method(FULL, "Longer contexts: YaRN (arXiv 2309.00071)", Attention, rope_scaling=YarnScaling),
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
    _method(HYBRID, "Scaled sum of mixers (Falcon-H1, arXiv 2507.22448)", HeadMix, fuse="concat"),
    _method(
        HYBRID,
        "Mean of normed mixers (Hymba, arXiv 2411.13676)",
        HeadMix,
        "tests/contract/test_mixers.py",
        fuse="norm_mean",
    ),
    _method(AROUND, "Gated linear units (arXiv 2002.05202)", Glu),
    _method(AROUND, "Squared ReLU (arXiv 2109.08668)", Mlp, activation="relu2"),
    _method(AROUND, "Attention and FFN in parallel (Command R)", Block, parallel=True),
    _method(AROUND, "Norms after sublayers (OLMo 2, arXiv 2501.00656)", Block, mixer_norm="post"),
    _method(AROUND, "Norms before and after (Gemma 2, arXiv 2408.00118)", Block, mixer_norm="sandwich"),
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
