"""Substitutes: who is called, with what, when it declines, and under torch.compile."""

import pytest
import torch

import kernels
from kernels import use_backend, use_substitutes
from kernels.backend import OPERATIONS
from tests.kernels.calls import calls

HEADS, CALLS = torch.ones(1, 3, 2, 16), calls()


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
