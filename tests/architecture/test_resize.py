import pytest

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    BlockSparseAttention,
    Glu,
    HeadMix,
    Mamba1,
    Mamba2,
    Moe,
    Scale,
    YarnScaling,
    diagram,
    resized,
)
from nas.architecture.resize import apportion, nearest_divisor

PROXY = Architecture(
    d_model=128,
    vocab_size=256,
    blocks=(
        Block(mixer=Attention(num_heads=4, num_kv_heads=1, head_dim=32, window=32), ffn=Glu(d_ff=256)),
        Block(mixer=Mamba2(num_heads=8, head_dim=32, state_dim=16), ffn=Moe(num_experts=8, top_k=2, d_ff=64)),
        Block(mixer=HeadMix(parts=(Attention(num_heads=1, head_dim=32), Mamba1(num_heads=3, head_dim=32)))),
        Block(mixer=BlockSparseAttention(num_heads=4, head_dim=32, block_size=16, top_k=2)),
    ),
)


def test_no_scale_is_no_change():
    assert resized(PROXY, Scale()) is PROXY


def test_width_heads_and_states_grow_by_their_own_factors():
    large = resized(PROXY, Scale(width=4, head_dim=2))
    attention, mamba2, mix, sparse = (block.mixer for block in large.blocks)
    assert large.d_model == 512
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (8, 2, 64)
    assert (mamba2.num_heads, mamba2.head_dim, mamba2.state_dim) == (16, 64, 32)
    assert [part.num_heads for part in mix.parts] == [2, 6]
    assert mix.parts[1].state_dim == 32
    assert (attention.window, sparse.block_size, sparse.top_k) == (32, 16, 2)
    assert (large.blocks[0].ffn.d_ff, large.blocks[1].ffn.d_ff) == (1024, 256)
    assert (large.blocks[1].ffn.num_experts, large.blocks[1].ffn.top_k) == (8, 2)


def test_tokens_scale_windows_and_blocks_alone():
    short = resized(PROXY, Scale(tokens=0.25))
    assert short.blocks[0].mixer.window == 8
    assert short.blocks[3].mixer.block_size == 4
    assert short.d_model == PROXY.d_model
    assert short.blocks[1] == PROXY.blocks[1]


def test_the_length_that_rotary_angles_were_made_for_scales_as_tokens():
    mixer = Attention(num_heads=4, head_dim=32, rope_scaling=YarnScaling(factor=4, original_length=512))
    proxy = Architecture(d_model=128, vocab_size=256, blocks=(Block(mixer=mixer),))
    scaling = resized(proxy, Scale(tokens=0.25, width=2)).blocks[0].mixer.rope_scaling
    assert scaling == YarnScaling(factor=4, original_length=128)


@pytest.mark.parametrize(
    ("depth", "depth_by", "pattern"),
    [
        (2, "stack", "SMe(Am)-B-SMe(Am)-B-"),
        (2, "stretch", "SSMeMe(Am)-(Am)-B-B-"),
        (1.5, "stack", "SMe(Am)-B-SMe"),
        (1.5, "stretch", "SSMe(Am)-(Am)-B-"),
    ],
)
def test_depth_is_stacked_or_stretched(depth, depth_by, pattern):
    assert diagram(resized(PROXY, Scale(depth=depth, depth_by=depth_by))) == pattern


@pytest.mark.parametrize(
    ("wanted", "counts"),
    [
        ([1.5, 4.5], [2, 4]),
        ([0.2, 3.8], [1, 3]),
        ([2.0, 2.0], [2, 2]),
        ([0.1, 0.1], [1, 1]),
        ([1.4, 1.3, 1.3], [2, 1, 1]),
    ],
)
def test_heads_are_shared_out_in_whole_numbers_that_sum(wanted, counts):
    assert apportion(wanted) == counts
    assert sum(apportion(wanted)) == max(len(wanted), round(sum(wanted)))


@pytest.mark.parametrize(("width", "head_dim"), [(0.04, 0.5), (2, 1), (0.71, 1.5), (3.3, 0.25)])
def test_parts_behind_one_projection_keep_heads_of_the_same_width(width, head_dim):
    parts = (Attention(num_heads=25, num_kv_heads=5, head_dim=64, value_dim=128), Mamba1(num_heads=50, head_dim=64))
    block = Block(mixer=HeadMix(parts=parts, shared_out=True))
    large = resized(Architecture(d_model=1600, vocab_size=9, blocks=(block,)), Scale(width=width, head_dim=head_dim))
    attention, mamba = large.blocks[0].mixer.parts
    assert attention.num_heads * attention.value_dim == mamba.num_heads * mamba.head_dim
    assert mamba.num_heads * mamba.head_dim == pytest.approx(3200 * width, rel=0.2)


def test_kv_heads_go_to_the_nearest_divisor():
    assert [nearest_divisor(12, wanted) for wanted in (1, 5, 7.5, 40)] == [1, 6, 6, 12]


def test_groups_stay_as_near_as_heads_allow():
    def groups(width: float) -> int:
        block = Block(mixer=Mamba2(num_heads=16, head_dim=32, num_groups=8))
        return (
            resized(Architecture(d_model=256, vocab_size=9, blocks=(block,)), Scale(width=width))
            .blocks[0]
            .mixer.num_groups
        )

    assert [groups(width) for width in (1, 2, 0.5, 0.25, 0.75)] == [8, 8, 8, 4, 6]


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(ArchitectureError, match="width must be positive"):
        Scale(width=0)
    with pytest.raises(ArchitectureError, match="depth_by must be stack or stretch"):
        Scale(depth_by="pile")  # type: ignore[arg-type]
