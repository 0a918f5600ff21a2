"""The table of token mixers: the name in an architecture file, and the options that it stands for."""

from nas.architecture.differential_attention import DifferentialAttention
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

MIXERS: dict[str, type[MixerOptions]] = {
    cls.kind: cls
    for cls in (
        NoMixer,
        Attention,
        BlockSparseAttention,
        PatternAttention,
        NativeSparseAttention,
        LatentAttention,
        IndexedLatentAttention,
        ForgettingAttention,
        DifferentialAttention,
        HashAttention,
        GatedLinearAttention,
        Mamba2,
        Mamba1,
        GatedDeltaNet,
        ShortConvolution,
        MatrixRecurrence,
        VectorRecurrence,
        Rwkv4,
        Rwkv6,
        Rwkv7,
        S4d,
        GatedSlotAttention,
        TttLinear,
        WindowLinearAttention,
        HeadMix,
    )
}
