"""From an architecture to a model: the one place where a kind of part becomes a class."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture, Block
from nas.architecture.differential_attention import DifferentialAttention
from nas.architecture.ffns import FfnOptions, Glu, MixtureOfDepths, Mlp, Moe, NoFfn, RwkvChannelMix
from nas.architecture.forgetting_attention import ForgettingAttention
from nas.architecture.hash_attention import HashAttention
from nas.architecture.head_mix import HeadMix
from nas.architecture.indexed_latent_attention import IndexedLatentAttention
from nas.architecture.latent_attention import LatentAttention
from nas.architecture.matrix_recurrence import MatrixRecurrence
from nas.architecture.mixers import (
    Attention,
    BlockSparseAttention,
    GatedDeltaNet,
    GatedLinearAttention,
    Mamba1,
    Mamba2,
    MixerOptions,
    NoMixer,
    ShortConvolution,
)
from nas.architecture.native_sparse_attention import NativeSparseAttention
from nas.architecture.pattern_attention import PatternAttention
from nas.architecture.rwkv import Rwkv4, Rwkv6, Rwkv7
from nas.architecture.s4d import S4d
from nas.architecture.slot_attention import GatedSlotAttention
from nas.architecture.ttt_linear import TttLinear
from nas.architecture.vector_recurrence import VectorRecurrence
from nas.architecture.window_linear_attention import WindowLinearAttention
from nas.ffns.base import Ffn
from nas.ffns.channel_mix import ChannelMixFfn
from nas.ffns.glu import GluFfn
from nas.ffns.mixture_of_depths import MixtureOfDepthsFfn
from nas.ffns.mlp import MlpFfn
from nas.ffns.moe import MoeFfn
from nas.layers.adapter import Adapter, OwnOfUse
from nas.layers.linear import Linear
from nas.layers.norm import LayerNorm, RMSNorm
from nas.layers.qkv import projected_sizes
from nas.mixers.attention import AttentionMixer
from nas.mixers.base import Mixer
from nas.mixers.block_sparse_attention import BlockSparseAttentionMixer
from nas.mixers.both_ways import BothWays
from nas.mixers.differential_attention import DifferentialAttentionMixer
from nas.mixers.forgetting_attention import ForgettingAttentionMixer
from nas.mixers.gated_deltanet import GatedDeltaNetMixer
from nas.mixers.gated_linear_attention import GatedLinearAttentionMixer
from nas.mixers.hash_attention import HashAttentionMixer
from nas.mixers.head_mix import HeadMixer
from nas.mixers.indexed_latent_attention import IndexedLatentAttentionMixer
from nas.mixers.latent_attention import LatentAttentionMixer
from nas.mixers.mamba1 import Mamba1Mixer
from nas.mixers.mamba2 import Mamba2Mixer
from nas.mixers.matrix_recurrence import MatrixRecurrenceMixer
from nas.mixers.native_sparse_attention import NativeSparseAttentionMixer
from nas.mixers.pattern_attention import PatternAttentionMixer
from nas.mixers.rwkv4 import Rwkv4Mixer
from nas.mixers.rwkv6 import Rwkv6Mixer
from nas.mixers.rwkv7 import Rwkv7Mixer
from nas.mixers.s4d import S4dMixer
from nas.mixers.short_convolution import ShortConvolutionMixer
from nas.mixers.slot_attention import GatedSlotAttentionMixer
from nas.mixers.ttt_linear import TttLinearMixer
from nas.mixers.vector_recurrence import VectorRecurrenceMixer
from nas.mixers.window_linear_attention import WindowLinearAttentionMixer
from nas.model import Model
from nas.residual import ResidualBlock

MIXERS: dict[type[MixerOptions], Callable[[Any, int], Mixer] | None] = {
    NoMixer: None,
    Attention: AttentionMixer,
    BlockSparseAttention: BlockSparseAttentionMixer,
    PatternAttention: PatternAttentionMixer,
    NativeSparseAttention: NativeSparseAttentionMixer,
    LatentAttention: LatentAttentionMixer,
    IndexedLatentAttention: IndexedLatentAttentionMixer,
    ForgettingAttention: ForgettingAttentionMixer,
    DifferentialAttention: DifferentialAttentionMixer,
    HashAttention: HashAttentionMixer,
    GatedLinearAttention: GatedLinearAttentionMixer,
    Mamba2: Mamba2Mixer,
    Mamba1: Mamba1Mixer,
    GatedDeltaNet: GatedDeltaNetMixer,
    ShortConvolution: ShortConvolutionMixer,
    MatrixRecurrence: MatrixRecurrenceMixer,
    VectorRecurrence: VectorRecurrenceMixer,
    Rwkv4: Rwkv4Mixer,
    Rwkv6: Rwkv6Mixer,
    Rwkv7: Rwkv7Mixer,
    S4d: S4dMixer,
    GatedSlotAttention: GatedSlotAttentionMixer,
    TttLinear: TttLinearMixer,
    WindowLinearAttention: WindowLinearAttentionMixer,
    HeadMix: lambda options, d_model: HeadMixer(options, d_model, build_mixer),
}

FFNS: dict[type[FfnOptions], Callable[[Any, int], Ffn] | None] = {
    NoFfn: None,
    Glu: GluFfn,
    Mlp: MlpFfn,
    Moe: MoeFfn,
    RwkvChannelMix: ChannelMixFfn,
    MixtureOfDepths: MixtureOfDepthsFfn,
}


def build_mixer(options: MixerOptions, d_model: int) -> Mixer | None:
    """The mixer that the options describe; None for no mixer."""
    build = MIXERS[type(options)]
    if build is None:
        return None
    mixer = build(options, d_model)
    return BothWays(mixer) if options.direction == "both" and options.causal else mixer


def build_ffn(options: FfnOptions, d_model: int) -> Ffn | None:
    """The FFN that the options describe; None for no FFN."""
    build = FFNS[type(options)]
    return None if build is None else build(options, d_model)


def compile_architecture(architecture: Architecture, *, seed: int | None = None) -> Model:
    """A freshly initialised model on the default device; under `torch.device("meta")` nothing is allocated.

    With a seed the weights depend on it alone, and the state of PyTorch's generators is left as it was.
    """
    with nullcontext() if seed is None else torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        width, norm = architecture.d_model, partial(build_norm, architecture)
        uses = Counter(architecture.weights_at)
        blocks, at = architecture.blocks, architecture.weights_at
        own = {i: n for n, i in enumerate(dict.fromkeys(at))}  # blocks with weights, in the order of the model
        built = [
            ResidualBlock(
                blocks[i],
                build_mixer(blocks[i].mixer, width),
                build_ffn(blocks[i].ffn, width),
                norm,
                [build_own(blocks[i], width) for _ in range(uses[i])] if blocks[i].has_own else (),
            )
            for i in own
        ]
        scale = architecture.embedding_scale
        return Model(
            d_model=width,
            vocab_size=architecture.vocab_size,
            tie_embeddings=architecture.tie_embeddings,
            blocks=built,
            order=None if len(own) == len(blocks) else tuple(own[i] for i in at),
            norm=norm(1),
            embedding_norm=norm(1) if architecture.embedding_norm else None,
            embedding_scale=width**0.5 if isinstance(scale, str) else scale,
            logits_scale=architecture.logits_scale,
            logits_soft_cap=architecture.logits_soft_cap,
            num_meta_tokens=architecture.num_meta_tokens,
            causal=architecture.causal,
        )


def build_own(block: Block, d_model: int) -> OwnOfUse:
    """What one use of the block has beside the weights of all its uses."""
    mixer = ffn = None
    if block.mixer_adapter_rank:
        assert isinstance(block.mixer, Attention), "who has adapters was checked"
        read = block.mixer.read_size(d_model)
        mixer = Adapter(read, block.mixer_adapter_rank, projected_sizes(block.mixer))
    if block.ffn_adapter_rank:
        assert isinstance(block.ffn, Glu | Mlp), "who has adapters was checked"
        ffn = Adapter(d_model, block.ffn_adapter_rank, [block.ffn.d_ff * (2 if isinstance(block.ffn, Glu) else 1)])
    return OwnOfUse(mixer=mixer, ffn=ffn, out_proj=Linear(d_model, d_model) if block.aside else None)


def build_norm(architecture: Architecture, streams: int) -> nn.Module:
    """A norm of so many residual streams beside each other, at its initial weights."""
    size = streams * architecture.d_model
    if architecture.norm == "layernorm":
        return LayerNorm(size, eps=architecture.norm_eps, bias=architecture.norm_bias)
    return RMSNorm(size, eps=architecture.norm_eps)
