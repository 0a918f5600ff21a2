"""For each kernel of attention, head size and type: the default launch, and others worth trying."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Queries and keys in a tile, warps in a program, stages of the software pipeline."""

    BM: int
    BN: int
    num_warps: int
    num_stages: int


# By the head size rounded up to a power of two and the bytes of an element. The first is the default: it neither spills
# nor exceeds the shared memory on sm_80, sm_90 and sm_100, by compiling with Triton 3.8 ahead of time; not timed yet.
# (Products in float32 run without tensor cores, whence their small tiles; dq of heads above 128 spills all the
# same, in the smallest tile that there is and with any number of warps: sum(o do), which it takes in passing, is what
# costs it that.) The others are what scripts/tune_kernels.py tries: on some architecture each of them fits.
FORWARD = {
    (16, 2): (Launch(128, 64, 4, 3), Launch(128, 128, 4, 3), Launch(128, 128, 8, 2), Launch(64, 64, 4, 3)),
    (32, 2): (Launch(128, 64, 4, 3), Launch(128, 128, 4, 3), Launch(128, 128, 8, 2), Launch(64, 64, 4, 3)),
    (64, 2): (
        Launch(128, 128, 8, 2),
        Launch(128, 64, 4, 3),
        Launch(128, 64, 8, 3),
        Launch(128, 128, 8, 3),
        Launch(64, 64, 4, 3),
        Launch(128, 64, 4, 4),
    ),
    (128, 2): (
        Launch(128, 64, 8, 3),
        Launch(128, 128, 8, 2),
        Launch(128, 64, 8, 2),
        Launch(128, 128, 8, 3),
        Launch(64, 64, 4, 3),
        Launch(128, 32, 8, 4),
    ),
    (256, 2): (
        Launch(64, 32, 8, 2),
        Launch(64, 64, 8, 2),
        Launch(64, 64, 4, 2),
        Launch(128, 64, 8, 2),
        Launch(128, 32, 8, 2),
        Launch(64, 32, 4, 3),
    ),
    (16, 4): (Launch(32, 16, 4, 2), Launch(64, 32, 4, 2), Launch(32, 32, 4, 2)),
    (32, 4): (Launch(32, 16, 4, 2), Launch(64, 32, 8, 2), Launch(32, 32, 4, 2)),
    (64, 4): (Launch(32, 32, 8, 2), Launch(32, 16, 4, 2), Launch(64, 32, 8, 2)),
    (128, 4): (Launch(32, 16, 8, 1), Launch(16, 16, 4, 2), Launch(32, 16, 8, 2)),
    (256, 4): (Launch(16, 16, 8, 1), Launch(16, 16, 8, 2)),
    (512, 2): (Launch(32, 32, 8, 2), Launch(64, 32, 8, 2), Launch(16, 32, 8, 2)),
    (512, 4): (Launch(16, 16, 8, 1),),
    (1024, 2): (Launch(32, 32, 8, 2), Launch(64, 32, 8, 2), Launch(16, 32, 8, 2)),
    (1024, 4): (Launch(16, 16, 8, 1),),
}
BACKWARD_DQ = {
    (16, 2): (Launch(128, 64, 8, 2), Launch(128, 64, 4, 2), Launch(64, 64, 4, 3)),
    (32, 2): (Launch(128, 64, 8, 2), Launch(128, 64, 4, 2), Launch(64, 64, 4, 3)),
    (64, 2): (
        Launch(128, 32, 8, 2),
        Launch(128, 64, 8, 2),
        Launch(128, 64, 8, 3),
        Launch(64, 64, 4, 2),
        Launch(128, 128, 8, 2),
        Launch(64, 32, 4, 3),
    ),
    (128, 2): (
        Launch(128, 64, 8, 2),
        Launch(128, 32, 8, 3),
        Launch(64, 64, 4, 2),
        Launch(64, 64, 8, 2),
        Launch(128, 64, 8, 3),
        Launch(64, 32, 4, 3),
    ),
    (256, 2): (
        Launch(32, 32, 4, 1),
        Launch(64, 32, 8, 2),
        Launch(32, 64, 8, 1),
        Launch(32, 32, 8, 2),
        Launch(32, 32, 4, 2),
        Launch(32, 64, 4, 1),
    ),
    (16, 4): (Launch(32, 32, 8, 1), Launch(32, 32, 4, 1)),
    (32, 4): (Launch(32, 32, 8, 1), Launch(32, 16, 4, 1)),
    (64, 4): (Launch(32, 32, 8, 1), Launch(32, 16, 8, 1)),
    (128, 4): (Launch(16, 16, 8, 1), Launch(32, 16, 8, 1)),
    (256, 4): (Launch(16, 16, 8, 1),),
    (512, 2): (Launch(16, 32, 8, 1), Launch(32, 32, 8, 1), Launch(16, 16, 8, 1)),
    (512, 4): (Launch(16, 16, 8, 1),),
    (1024, 2): (Launch(16, 32, 8, 1), Launch(32, 32, 8, 1), Launch(16, 16, 8, 1)),
    (1024, 4): (Launch(16, 16, 8, 1),),
}
BACKWARD_DKV = {
    (16, 2): (Launch(64, 128, 8, 2), Launch(64, 128, 4, 2), Launch(64, 64, 4, 3)),
    (32, 2): (Launch(64, 128, 8, 2), Launch(64, 128, 4, 2), Launch(64, 64, 4, 3)),
    (64, 2): (
        Launch(64, 128, 8, 2),
        Launch(32, 64, 4, 3),
        Launch(64, 128, 8, 3),
        Launch(64, 64, 4, 2),
        Launch(64, 64, 8, 2),
        Launch(32, 128, 8, 3),
    ),
    (128, 2): (
        Launch(32, 64, 8, 2),
        Launch(64, 128, 8, 2),
        Launch(32, 128, 8, 2),
        Launch(64, 64, 8, 2),
        Launch(32, 128, 8, 3),
        Launch(32, 64, 4, 3),
    ),
    (256, 2): (
        Launch(32, 32, 8, 1),
        Launch(32, 32, 8, 2),
        Launch(16, 32, 8, 2),
        Launch(64, 32, 4, 1),
        Launch(32, 32, 4, 1),
        Launch(64, 32, 8, 1),
    ),
    (16, 4): (Launch(32, 32, 8, 1), Launch(32, 32, 4, 1)),
    (32, 4): (Launch(32, 32, 8, 1), Launch(16, 32, 4, 1)),
    (64, 4): (Launch(32, 32, 8, 1), Launch(16, 32, 8, 1)),
    (128, 4): (Launch(16, 32, 8, 1), Launch(16, 16, 8, 1)),
    (256, 4): (Launch(16, 16, 8, 1),),
    (512, 2): (Launch(16, 16, 8, 1), Launch(16, 32, 8, 1), Launch(16, 16, 8, 2)),
    (512, 4): (Launch(16, 16, 8, 1),),
    (1024, 2): (Launch(16, 16, 8, 1), Launch(16, 32, 8, 1), Launch(16, 16, 8, 2)),
    (1024, 4): (Launch(16, 16, 8, 1),),
}
STEP = {
    (16, 2): (Launch(64, 128, 4, 3), Launch(64, 64, 4, 4), Launch(64, 128, 2, 3)),
    (32, 2): (Launch(64, 128, 4, 3), Launch(64, 64, 4, 4), Launch(64, 128, 2, 3)),
    (64, 2): (
        Launch(64, 64, 4, 3),
        Launch(64, 128, 4, 3),
        Launch(64, 64, 2, 4),
        Launch(64, 32, 2, 4),
        Launch(64, 128, 8, 3),
        Launch(64, 64, 4, 4),
    ),
    (128, 2): (
        Launch(64, 64, 4, 3),
        Launch(64, 32, 4, 4),
        Launch(64, 64, 2, 3),
        Launch(64, 128, 8, 2),
        Launch(64, 32, 2, 4),
        Launch(64, 64, 4, 4),
    ),
    (256, 2): (Launch(32, 32, 4, 2), Launch(32, 32, 4, 3), Launch(32, 64, 8, 2), Launch(32, 64, 4, 2)),
    (16, 4): (Launch(16, 32, 4, 2), Launch(16, 64, 4, 2)),
    (32, 4): (Launch(16, 32, 4, 2), Launch(16, 64, 4, 2)),
    (64, 4): (Launch(16, 32, 4, 2), Launch(16, 16, 4, 3)),
    (128, 4): (Launch(16, 16, 4, 1), Launch(16, 16, 4, 2)),
    (256, 4): (Launch(16, 16, 8, 1), Launch(16, 16, 8, 2)),
    (512, 2): (Launch(16, 32, 4, 2), Launch(32, 32, 8, 2), Launch(16, 64, 8, 2)),
    (512, 4): (Launch(16, 16, 8, 1),),
    (1024, 2): (Launch(16, 32, 8, 2), Launch(32, 32, 8, 2), Launch(64, 32, 8, 2)),
    (1024, 512, 2): (Launch(16, 32, 8, 2), Launch(32, 32, 8, 2), Launch(64, 32, 8, 2)),
    (1024, 4): (Launch(16, 16, 8, 1),),
}
COMBINE_WARPS = (4, 2, 1, 8)  # for every head size; a program reads no more than 32 rows
TABLES = {
    "attention.forward": FORWARD,
    "attention.backward_dq": BACKWARD_DQ,
    "attention.backward_dkv": BACKWARD_DKV,
    "attention.step": STEP,
}
