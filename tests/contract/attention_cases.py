"""Attentions that the contract of a token mixer is held over, beside the plain ones."""

from nas.architecture import (
    Attention,
    BlockSparseAttention,
    DifferentialAttention,
    ForgettingAttention,
    HashAttention,
    IndexedLatentAttention,
    LatentAttention,
    MixerOptions,
    NativeSparseAttention,
    PatternAttention,
    YarnScaling,
)

ATTENTION_CASES: dict[str, MixerOptions] = {
    "latent": LatentAttention(num_heads=2, head_dim=16, latent_dim=16, rope_dim=8),
    "latent with short queries": LatentAttention(
        num_heads=3,
        head_dim=12,
        latent_dim=20,
        rope_dim=4,
        value_dim=16,
        query_rank=10,
        down_bias=True,
        out_bias=True,
        score_scale=1.3,
        rope_interleaved=True,
        rope_scaling=YarnScaling(factor=4, original_length=8),
    ),
    "latent without rotation": LatentAttention(num_heads=2, head_dim=16, latent_dim=24, rope_dim=8, position="none"),
    "indexed latent": IndexedLatentAttention(
        num_heads=2, head_dim=16, latent_dim=16, rope_dim=8, top_k=5, index_heads=4, index_dim=12
    ),
    "indexed latent, short queries": IndexedLatentAttention(
        num_heads=2, head_dim=16, latent_dim=16, rope_dim=8, query_rank=12, top_k=40, index_dim=8, position="none"
    ),
    "chunked": PatternAttention(num_heads=2, head_dim=16, pattern="chunked", block_size=8),
    "local and global": PatternAttention(
        num_heads=4, num_kv_heads=2, head_dim=16, block_size=4, local_blocks=2, qk_norm="head"
    ),
    "local, global and random": PatternAttention(
        num_heads=2, head_dim=16, block_size=2, local_blocks=2, random_blocks=2, position="none"
    ),
    "strided": PatternAttention(
        num_heads=2, head_dim=16, pattern="strided", block_size=1, local_blocks=3, stride=4, rope_fraction=0.5
    ),
    "dilated": PatternAttention(
        num_heads=2, head_dim=16, pattern="dilated", block_size=2, segment_blocks=2, stride=2, levels=2
    ),
    "native sparse": NativeSparseAttention(
        num_heads=4, num_kv_heads=2, head_dim=16, compressed_stride=2, block_strides=2, top_k=3, window=3
    ),
    "native sparse, means": NativeSparseAttention(
        num_heads=2,
        head_dim=16,
        compressed_stride=4,
        compressed_strides=1,
        block_strides=1,
        top_k=4,
        window=5,
        compression="mean",
    ),
    "forgetting": ForgettingAttention(num_heads=4, num_kv_heads=2, head_dim=16),
    "forgetting, rotated": ForgettingAttention(num_heads=2, head_dim=16, qk_norm="head", position="rope"),
    "alibi": ForgettingAttention(num_heads=3, head_dim=16, fading="alibi"),
    "differential": DifferentialAttention(num_heads=2, num_kv_heads=1, head_dim=32),
    "differential with norms": DifferentialAttention(num_heads=1, head_dim=40, qk_norm="head", lambda_init=0.2),
    "hashed": HashAttention(num_heads=4, num_kv_heads=2, head_dim=16, num_hashes=1, num_buckets=4, top_k=4, seed=1),
    "hashed, not rotated": HashAttention(num_heads=2, head_dim=16, num_hashes=2, num_buckets=8, position="none"),
    "attention, heads picked by the token": Attention(
        num_heads=4, num_kv_heads=2, head_dim=16, head_share=0.75, output_gate="sigmoid"
    ),
    "attention, all heads picked, in a window": Attention(
        num_heads=4, head_dim=16, window=5, head_share=0.5, always_share=0.0
    ),
    "attention with biases by distance": Attention(
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        value_dim=20,
        position="relative",
        relative_buckets=6,
        relative_distance=9,
        soft_cap=2.0,
        sinks=True,
    ),
    "attention with biases by distance, in a window": Attention(
        num_heads=2, head_dim=16, window=9, position="relative", relative_buckets=4, relative_distance=6
    ),
    "attention with long values": Attention(
        num_heads=4, num_kv_heads=2, head_dim=16, value_dim=24, qk_norm="head", output_gate="sigmoid", qkv_bias=True
    ),
    "attention, values are keys": Attention(num_heads=4, num_kv_heads=2, head_dim=16, tie_kv=True, qk_norm="head"),
    "block sparse, sharper with the length": BlockSparseAttention(
        num_heads=2, head_dim=16, block_size=4, top_k=2, temperature_floor=4, temperature_scale=0.5, tie_kv=True
    ),
}
