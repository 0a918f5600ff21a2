"""Substitutes: who is called, with what, when it declines, and under torch.compile."""

import pytest
import torch

import kernels
from kernels import use_backend, use_substitutes
from kernels.backend import OPERATIONS

HEADS = torch.ones(1, 3, 2, 16)
WIDE = torch.ones(1, 3, 4)
CALLS = {
    "attention": lambda: kernels.attention(HEADS, HEADS, HEADS),
    "attention_step": lambda: kernels.attention_step(HEADS[:, 0], HEADS, HEADS, 2),
    "block_sparse_attention": lambda: kernels.block_sparse_attention(
        HEADS, HEADS, HEADS, torch.zeros(1, 3, 1, 1, dtype=torch.int64), block_size=2
    ),
    "grouped_matmul": lambda: kernels.grouped_matmul(WIDE[0], torch.ones(1, 4, 5), torch.tensor([3])),
    "matrix_recurrence": lambda: kernels.matrix_recurrence(HEADS, HEADS, HEADS),
    "matrix_recurrence_step": lambda: kernels.matrix_recurrence_step(
        HEADS[:, 0], HEADS[:, 0], HEADS[:, 0], torch.zeros(1, 2, 16, 16)
    ),
    "moe_ffn": lambda: kernels.moe_ffn(
        WIDE[0], torch.ones(2, 4, 6), torch.ones(2, 3, 4), torch.tensor([[0], [1], [1]]), torch.ones(3, 1)
    ),
    "route_top_k": lambda: kernels.route_top_k(torch.tensor([[0.0, 2.0, 1.0]]), 2),
    "glu": lambda: kernels.glu(WIDE, WIDE),
    "rope": lambda: kernels.rope(HEADS, torch.ones(3, 8), torch.ones(3, 8)),
    "linear_cross_entropy": lambda: kernels.linear_cross_entropy(WIDE[0], torch.ones(5, 4), torch.ones(3).long()),
    "rms_norm": lambda: kernels.rms_norm(WIDE),
    "l2_norm": lambda: kernels.l2_norm(WIDE),
    "selective_scan": lambda: kernels.selective_scan(WIDE, WIDE, -torch.ones(4, 2), WIDE[..., :2], WIDE[..., :2]),
    "selective_scan_step": lambda: kernels.selective_scan_step(
        WIDE[0], WIDE[0], -torch.ones(4, 2), WIDE[0, :, :2], WIDE[0, :, :2], torch.zeros(3, 4, 2)
    ),
    "short_convolution": lambda: kernels.short_convolution(WIDE, torch.ones(4, 2)),
    "vector_recurrence": lambda: kernels.vector_recurrence(WIDE, -WIDE),
    "vector_recurrence_step": lambda: kernels.vector_recurrence_step(WIDE[0], -WIDE[0], WIDE[0]),
    "wkv": lambda: kernels.wkv(WIDE, WIDE, -torch.ones(4), torch.ones(4)),
    "wkv_step": lambda: kernels.wkv_step(WIDE[0], WIDE[0], -torch.ones(4), torch.ones(4), torch.ones(3, 3, 4)),
    "short_convolution_step": lambda: kernels.short_convolution_step(WIDE[0], torch.zeros(3, 1, 4), torch.ones(4, 2)),
}


def test_every_public_operation_can_be_substituted():
    assert set(CALLS) == set(OPERATIONS)
    for name in OPERATIONS:
        assert callable(getattr(kernels, name))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_substitute_answers_inside_the_block_only(name):
    with use_substitutes({name: lambda *tensors, **options: "theirs"}):
        assert CALLS[name]() == "theirs"
    assert CALLS[name]() != "theirs"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_substitute_may_pass_its_arguments_back_to_the_door(name):
    expected = CALLS[name]()

    def substitute(*tensors, **options):
        with use_backend("reference"), use_substitutes({name: lambda *_, **__: NotImplemented}):
            return getattr(kernels, name)(*tensors, **options)

    with use_substitutes({name: substitute}):
        torch.testing.assert_close(CALLS[name](), expected, rtol=1e-5, atol=1e-5)


def test_a_substitute_gets_every_option_with_the_scale_filled_in():
    seen = {}

    def substitute(*tensors, **options):
        seen.update(options)
        return NotImplemented

    with use_substitutes({"attention": substitute}):
        kernels.attention(HEADS, HEADS, HEADS, window=2)
    given = {"scale": 0.25, "causal": True, "window": 2, "num_global": 0, "prefix": 0, "return_lse": False}
    absent = ("softcap", "sink", "log_forget")
    assert seen == given | dict.fromkeys(absent)


def test_one_that_declines_leaves_the_work_to_ours():
    with use_substitutes({"attention": lambda *tensors, **options: NotImplemented}):
        torch.testing.assert_close(CALLS["attention"](), HEADS)


def test_arguments_are_checked_before_a_substitute_sees_them():
    def substitute(*tensors, **options):
        raise AssertionError("called with wrong arguments")

    with use_substitutes({"attention": substitute}), pytest.raises(ValueError, match="window must be at least 1"):
        kernels.attention(HEADS, HEADS, HEADS, window=0)


def test_inner_blocks_win_and_leave_other_operations_alone():
    with use_substitutes({"attention": lambda *_, **__: "outer", "attention_step": lambda *_, **__: "step"}):
        with use_substitutes({"attention": lambda *_, **__: "inner"}):
            assert (CALLS["attention"](), CALLS["attention_step"]()) == ("inner", "step")
        assert CALLS["attention"]() == "outer"


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with (
        pytest.raises(ValueError, match=r"got 'atention': write attention\."),
        use_substitutes({"atention": lambda *_, **__: None}),
    ):
        pass


def test_a_compiled_function_follows_the_substitute_of_each_call():
    compiled = torch.compile(kernels.attention, fullgraph=True, backend="eager")
    ours = compiled(HEADS, HEADS, HEADS)
    with use_substitutes({"attention": lambda q, *_, **__: q * 3}):
        assert torch.equal(compiled(HEADS, HEADS, HEADS), HEADS * 3)
    assert torch.equal(compiled(HEADS, HEADS, HEADS), ours)
