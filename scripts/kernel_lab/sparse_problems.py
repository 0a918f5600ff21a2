"""The sparse operations in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

Attention is that of NSA (16 blocks of 64 keys for each query, groups of 16 heads, lengths of its published rows) and a
sweep of density at one length, on a CPU too. Expert layers are those of published rows, model 2048, experts 768, 8 of
128 a token (Liger Kernel's benchmark data), and gpt-oss's with its biases and clamps. Routers are those of the former
and of DeepSeek-V3.
"""

from dataclasses import replace

from scripts.kernel_lab.operations import Operation
from scripts.kernel_lab.sparse_operations import BlockSparseAttention, MoeFfn, RouteTopK

Named = list[tuple[str, Operation]]

NSA = BlockSparseAttention(B=1, T=8192, Hq=64, Hkv=4, D=128, block_size=64, chosen=16)
SWEEP = BlockSparseAttention(B=1, T=16384, Hq=32, Hkv=8, D=128, block_size=64, chosen=16, query_block=64)
CPU_SWEEP = BlockSparseAttention(B=1, T=1024, Hq=4, Hkv=1, D=64, block_size=32, chosen=2, query_block=32)
EXPERTS = MoeFfn(T=32768, E=128, H=2048, I=768, K=8)
ROUTER = RouteTopK(T=8192, E=128, k=8)
DEEPSEEK_ROUTER = RouteTopK(T=8192, E=256, k=8, scoring="sigmoid", num_groups=8, top_groups=4)
ROUTERS = (("softmax", "softmax"), ("scores", "softmax"), ("sigmoid", "sigmoid"), ("softplus", "sqrt_softplus"))
GPT_OSS_EXPERTS = MoeFfn(T=8192, E=32, H=2880, I=2880, K=4, activation="quick_gelu", clamp=7.0)


def benchmark_sizes() -> Named:
    return [
        *((f"NSA T{T} H64/4 D128, 16 of 64-blocks", replace(NSA, T=T)) for T in (8192, 16384, 32768, 65536)),
        *(
            (f"T16384 H32/8 D128, {chosen} of {16384 // 64} 64-blocks", replace(SWEEP, chosen=chosen))
            for chosen in (4, 16, 64, 256)
        ),
        ("MoBA T8192 H32/8 D128, 8 of 128-blocks", replace(NSA, Hq=32, Hkv=8, block_size=128, chosen=8)),
        ("T32768 E128 H2048 I768 K8", EXPERTS),
        ("T8192 E128 H2048 I768 K8", replace(EXPERTS, T=8192)),
        ("T8192 E128 H2048 I768 K8 zipf", replace(EXPERTS, T=8192, zipf=True)),
        ("T8192 E8 H2048 I768 K8", replace(EXPERTS, T=8192, E=8)),
        ("gpt-oss T8192 E32 H2880 I2880 K4", GPT_OSS_EXPERTS),
        ("T1024 E128 H2048 I768 K8", replace(EXPERTS, T=1024)),
        ("T1 E128 H2048 I768 K8", replace(EXPERTS, T=1)),
        ("T8192 8 of 128", ROUTER),
        ("T1 8 of 128", replace(ROUTER, T=1)),
        ("T64 8 of 256 in 4 of 8 groups", replace(DEEPSEEK_ROUTER, T=64)),
        ("T8192 8 of 256 in 4 of 8 groups", DEEPSEEK_ROUTER),
    ]


def cpu_sizes() -> Named:
    attention = BlockSparseAttention(B=1, T=256, Hq=8, Hkv=2, D=64, block_size=32, chosen=2)
    return [
        ("T256 H8/2 D64, 2 of 32-blocks", attention),
        ("T256 H8/2 D64, 2 of 32-blocks for 32 queries", replace(attention, query_block=32)),
        *((f"T1024 H4/1 D64, {chosen} of 32 32-blocks", replace(CPU_SWEEP, chosen=chosen)) for chosen in (2, 8, 32)),
        ("T256 E8 H192 I128 K2", MoeFfn(T=256, E=8, H=192, I=128, K=2)),
        ("T256 2 of 8", RouteTopK(T=256, E=8, k=2)),
    ]


def launch_sizes() -> Named:
    """Every form of every kernel, at sizes that are no multiple of a block."""
    named: Named = []
    for D in (16, 20, 64, 96, 128, 256):
        one = BlockSparseAttention(B=2, T=333, Hq=8, Hkv=2, D=D, block_size=64, chosen=3, lse=True)
        named += [
            (f"lists for each query D{D}", one),
            (f"lists for 32 queries D{D}", replace(one, query_block=32)),
            (f"blocks of 24 D{D}", replace(one, block_size=24, query_block=8)),
            (f"single keys D{D}", replace(one, T=140, block_size=1, chosen=40)),
        ]
    return [
        *named,
        ("experts, multiples of 16", MoeFfn(T=333, E=6, H=96, I=80, K=2)),
        ("experts, odd widths", MoeFfn(T=150, E=5, H=50, I=70, K=3, zipf=True, activation="gelu")),
        ("more experts than choices", MoeFfn(T=3, E=64, H=128, I=64, K=2, activation="relu2")),
        ("experts with biases, clamped", MoeFfn(T=150, E=5, H=96, I=80, K=2, activation="quick_gelu", clamp=1.0)),
        ("experts without a gate", MoeFfn(T=150, E=5, H=96, I=80, K=2, activation="gelu_tanh", gated=False)),
        *(
            (f"{k} of {E} by {name}", replace(ROUTER, T=77, E=E, k=k, scoring=scoring, normalize=name != "scores"))
            for E, k in ((3, 1), (60, 4), (128, 8), (500, 2))
            for name, scoring in ROUTERS
        ),
        ("8 of 256 in 4 of 8 groups", replace(DEEPSEEK_ROUTER, T=77)),
    ]


def tiny_sizes() -> Named:
    attention = BlockSparseAttention(B=1, T=20, Hq=2, Hkv=1, D=16, block_size=8, chosen=2, lse=True)
    return [
        ("lists for each query", attention),
        ("lists for 4 queries", replace(attention, query_block=4)),
        ("experts", MoeFfn(T=20, E=3, H=32, I=16, K=2)),
        ("router", RouteTopK(T=20, E=12, k=3, scoring="sigmoid", num_groups=4, top_groups=2)),
    ]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels."""
    return {
        "block_sparse_attention": [
            ("lists for each query D128", replace(NSA, T=16384)),
            ("lists for 64 queries D128", SWEEP),
            ("lists for each query D64", replace(NSA, T=16384, D=64)),
            ("lists for 64 queries D64", replace(SWEEP, D=64)),
            ("single keys D128", replace(NSA, T=4096, block_size=1, chosen=512)),
        ],
        "moe": [
            ("experts H2048 I768", replace(EXPERTS, E=64)),
            ("experts H512 I256", replace(EXPERTS, E=16, H=512, I=256, K=2)),
        ],
        "route_top_k": [
            ("router of 128", ROUTER),
            ("router of 256 in groups", DEEPSEEK_ROUTER),
            ("router of 16", replace(ROUTER, E=16, k=2)),
        ],
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data; None for an operation of another file."""
    if isinstance(one, BlockSparseAttention):
        return replace(one, T=333, Hq=one.Hq // one.Hkv, Hkv=1, chosen=min(one.chosen, 40 if one.block_size < 8 else 3))
    if isinstance(one, MoeFfn):
        return replace(one, T=350, E=6, H=min(one.H, 320), I=min(one.I, 320), K=2)
    if isinstance(one, RouteTopK):
        return replace(one, T=77)
    return None
