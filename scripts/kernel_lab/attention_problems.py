"""Attention in the lists of `problem_lists.py` and `tuning_problems.py`: names and sizes.

Published layers: latent attention as in DeepSeek-V3 (128 heads of 192 and 128, in its absorbed form 576 and 512),
windows with sinks as in gpt-oss (64 heads over 8, head size 64, window 128), capped scores as in Gemma 2.
"""

from dataclasses import replace

from scripts.kernel_lab.attention_operations import Attention, AttentionStep
from scripts.kernel_lab.operations import Operation

Named = list[tuple[str, Operation]]

# Sequences, tokens, heads, head size: benchmarks/ops/registry.py of flash-linear-attention, for comparable numbers.
FLA_SHAPES = (
    (1, 8192, 96, 128),
    (2, 16384, 16, 128),
    (4, 2048, 16, 128),
    (4, 4096, 64, 128),
    (8, 2048, 32, 256),
    (8, 1024, 8, 64),
)
SWEEP_TOKENS = 16384  # in all, and a model width of 2048: the sweep of FlashAttention-3's paper
GPT_OSS = Attention(B=1, T=16384, Hq=64, Hkv=8, D=64, window=128, sink=True)
LATENT = Attention(B=1, T=8192, Hq=16, Hkv=16, D=192, Dv=128)
ABSORBED = replace(LATENT, Hkv=1, D=576, Dv=512)
LATENT_STEP = AttentionStep(B=64, S=8192, Hq=128, Hkv=1, D=576, Dv=512, latent=True)


def benchmark_sizes() -> Named:
    named: Named = [(f"causal B{B} T{T} H{H} D{D}", Attention(B=B, T=T, Hq=H, Hkv=H, D=D)) for B, T, H, D in FLA_SHAPES]
    for D in (64, 128):
        for T in (512, 1024, 2048, 4096, 8192, 16384):
            B, H = SWEEP_TOKENS // T, 2048 // D
            named.append((f"causal sweep B{B} T{T} H{H} D{D}", Attention(B=B, T=T, Hq=H, Hkv=H, D=D)))
    grouped = Attention(B=4, T=4096, Hq=32, Hkv=8, D=128)
    named += [
        ("causal B4 T4096 H32/8 D128", grouped),
        ("full B4 T4096 H32 D128", Attention(B=4, T=4096, Hq=32, Hkv=32, D=128, causal=False)),
        ("window 512 B4 T4096 H32/8 D128", replace(grouped, window=512)),
        ("window 1024 B2 T16384 H32/8 D128", replace(grouped, B=2, T=16384, window=1024)),
        ("window 1024 and 4 global B2 T16384 H32/8 D128", replace(grouped, B=2, T=16384, window=1024, num_global=4)),
        ("window 128 and sinks B1 T16384 H64/8 D64", GPT_OSS),
        ("sinks B1 T16384 H64/8 D64", replace(GPT_OSS, window=None)),
        ("capped B4 T4096 H32/8 D128", replace(grouped, softcap=50.0)),
        ("forgetting B4 T4096 H32 D64", Attention(B=4, T=4096, Hq=32, Hkv=32, D=64, forget=True)),
        ("latent B1 T8192 H16 D192/128", LATENT),
        ("latent, absorbed B1 T8192 H16/1 D576/512", ABSORBED),
    ]
    step = AttentionStep(B=64, S=8192, Hq=32, Hkv=8, D=128)
    contexts = {1: (4096, 8192, 32768, 65536, 131072), 64: (2048, 4096, 8192, 32768)}
    for B, S in ((B, S) for B, lengths in contexts.items() for S in lengths):
        named.append((f"step B{B} S{S} H32/8 D128", replace(step, B=B, S=S)))
    named += [
        # 64 caches of 131072 tokens fit a GPU with one key head alone.
        ("step B64 S131072 H32/1 D128", replace(step, S=131072, Hkv=1)),
        ("step B64 S8192 kept 1024 H32/8 D128", replace(step, kept=1024)),
        ("step B64 S8192 on device H32/8 D128", replace(step, on_device=True)),
        ("step B64 S65536 listed 1024 H64/4 D128", replace(step, S=65536, Hq=64, Hkv=4, listed=1024, on_device=True)),
        ("latent step B64 S65536 listed 2048 H128 D576/512", replace(LATENT_STEP, S=65536, listed=2048)),
        ("latent step B1 S8192 H128 D576/512", replace(LATENT_STEP, B=1)),
        ("latent step B1 S65536 H128 D576/512", replace(LATENT_STEP, B=1, S=65536)),
        ("latent step B64 S8192 H128 D576/512", LATENT_STEP),
    ]
    return named


def cpu_sizes() -> Named:
    """Sizes whose right answer, token by token, takes a few seconds on a CPU core."""
    one = Attention(B=1, T=256, Hq=8, Hkv=2, D=64)
    return [
        ("causal B1 T256 H8 D64", replace(one, Hkv=8)),
        ("causal B1 T256 H8/2 D64", one),
        ("window 64 B1 T256 H8/2 D64", replace(one, window=64)),
        ("sinks B1 T256 H8/2 D64", replace(one, sink=True)),
        ("step B1 S8192 H8/2 D64", AttentionStep(B=1, S=8192, Hq=8, Hkv=2, D=64)),
    ]


def launch_sizes(D: int) -> Named:
    """Every variant of a mask and every option at one head size, a length that is no multiple of a block."""
    few = Attention(B=1, T=333, Hq=4, Hkv=2, D=D)
    step = AttentionStep(B=2, S=1300, Hq=4, Hkv=2, D=D)
    return [
        (f"causal D{D}", replace(few, B=2)),
        (f"full, log-sum-exp D{D}", replace(few, Tq=200, causal=False, lse=True)),
        (f"later queries D{D}", replace(few, Tq=70)),
        (f"window D{D}", replace(few, window=50)),
        (f"window, global keys and sinks D{D}", replace(few, window=50, num_global=20, sink=True)),
        (f"prefix and sinks D{D}", replace(few, prefix=70, sink=True)),
        (f"capped D{D}", replace(few, softcap=2.0)),
        (f"forgetting D{D}", replace(few, forget=True)),
        (
            f"everything D{D}",
            replace(few, window=50, num_global=20, sink=True, softcap=2.0, forget=True, lse=True),
        ),
        (f"step D{D}", step),
        (f"step of many heads, kept D{D}", AttentionStep(B=1, S=300, Hq=32, Hkv=1, D=D, kept=70)),
        (f"step of a length on the device D{D}", replace(step, on_device=True)),
        (f"step over listed slots D{D}", replace(step, on_device=True, listed=700)),
        (
            f"step with everything D{D}",
            replace(step, on_device=True, softcap=2.0, sink=True, bias=True, kept=500, lse=True),
        ),
    ]


def latent_launch_sizes() -> Named:
    return [
        ("latent", replace(LATENT, T=333, Hq=4, Hkv=4)),
        ("latent, absorbed", replace(ABSORBED, T=333, Hq=4)),
        ("heads of 384", replace(LATENT, T=333, Hq=4, Hkv=4, D=384, Dv=384)),
        ("values larger than keys", replace(LATENT, T=333, Hq=4, Hkv=4, D=64)),
        ("latent step", replace(LATENT_STEP, B=2, S=700, Hq=20)),
        ("latent step over listed slots", replace(LATENT_STEP, B=2, S=700, Hq=20, listed=300)),
        ("latent step of its own values", replace(LATENT_STEP, B=2, S=700, Hq=20, latent=False)),
    ]


def tiny_sizes() -> Named:
    one = Attention(B=1, T=20, Hq=2, Hkv=1, D=16)
    return [
        ("causal", one),
        ("window and log-sum-exp", replace(one, window=5, lse=True)),
        ("step", AttentionStep(B=1, S=40, Hq=2, Hkv=1, D=16)),
        ("step over listed slots", AttentionStep(B=1, S=40, Hq=2, Hkv=1, D=16, listed=20, on_device=True)),
    ]


def tuning_sizes() -> dict[str, Named]:
    """By family of kernels, in the order of what matters most."""
    full = Attention(B=2, T=4096, Hq=16, Hkv=4, D=128)
    step = AttentionStep(B=16, S=8192, Hq=32, Hkv=8, D=128)
    latent = replace(LATENT, B=2, T=4096)
    return {
        "attention": [
            ("causal D128", full),
            ("step D128", step),
            ("causal D64", replace(full, D=64)),
            ("window D128", replace(full, window=1024)),
            ("step D64", replace(step, D=64)),
            ("full D128", replace(full, causal=False)),
            ("window and sinks D64", replace(full, D=64, window=128, sink=True)),
            ("sinks D64", replace(full, D=64, sink=True)),
            ("latent D192", latent),
            ("latent, absorbed D576", replace(ABSORBED, T=4096)),
            ("latent step", replace(LATENT_STEP, B=16)),
            ("latent step of a length on the device", replace(LATENT_STEP, B=16, on_device=True)),
            ("step D128 of a length on the device", replace(step, on_device=True)),
            ("step D128 over listed slots", replace(step, listed=1024, on_device=True)),
            ("step D128 of 32 heads", replace(step, Hkv=1)),
            ("step D128 of 64 heads", replace(step, Hq=64, Hkv=1)),
            ("step D128 kept", replace(step, kept=1024)),
            ("window D64", replace(full, D=64, window=1024)),
            ("window and global keys D128", replace(full, window=1024, num_global=4)),
            ("capped D128", replace(full, softcap=50.0)),
            ("forgetting D64", replace(full, D=64, forget=True)),
            ("full D64", replace(full, D=64, causal=False)),
            ("causal D96", replace(full, D=96)),
            ("step D96", replace(step, D=96)),
            ("causal D256", replace(full, D=256)),
            ("step D256", replace(step, D=256)),
            ("causal D32", replace(full, D=32)),
        ]
    }


def small_size(one: Operation) -> Operation | None:
    """The same launches on little data, None for another operation; heads stay, as kernels are compiled for them."""
    if isinstance(one, Attention):
        window = None if one.window is None else 50
        return replace(one, B=1, T=333, window=window)
    if isinstance(one, AttentionStep):
        return replace(one, B=2, S=1300, kept=None if one.kept is None else 200)
    return None
