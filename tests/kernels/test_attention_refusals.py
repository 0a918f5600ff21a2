"""What attention is not asked for: one sentence that names the argument, its shape and what holds."""

import pytest
import torch

from kernels._attention import attention, attention_step

GROUPED = ((2, 5, 2, 16), (2, 5, 1, 16), (2, 5, 1, 16))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((2, 5, 16), (2, 5, 1, 16), (2, 5, 1, 16)), {}, r"q must be \[B, T, H, D\]"),
        (
            ((2, 5, 2, 16), (2, 5, 1, 16), (2, 6, 1, 16)),
            {},
            r"v must have the sequences, tokens and heads of k, \[2, 5, 1\], but got shape \[2, 6, 1, 16\]",
        ),
        (((2, 5, 2, 16), (1, 5, 1, 16), (1, 5, 1, 16)), {}, "the 2 sequences of q"),
        (((2, 5, 2, 16), (2, 5, 1, 32), (2, 5, 1, 32)), {}, "the head size 16 of q"),
        (((2, 5, 3, 16), (2, 5, 2, 16), (2, 5, 2, 16)), {}, "a multiple of the 2 heads of k"),
        (
            ((2, 5, 2, 18), (2, 5, 1, 18), (2, 5, 1, 18)),
            {},
            "head size of q must be a multiple of 4 from 16 to 576, but got 18",
        ),
        (((2, 5, 2, 12), (2, 5, 1, 12), (2, 5, 1, 12)), {}, "a multiple of 4 from 16 to 576, but got 12"),
        (((2, 6, 2, 16), (2, 5, 1, 16), (2, 5, 1, 16)), {}, "at most the 5 tokens of k when causal"),
        (((2, 0, 2, 16), (2, 5, 1, 16), (2, 5, 1, 16)), {}, "not empty"),
        (GROUPED, {"window": 0}, "window must be at least 1"),
        (GROUPED, {"window": 2.5}, r"window must be a whole number, but got 2\.5"),
        (GROUPED, {"window": True}, "window must be a whole number, but got True"),
        (GROUPED, {"window": 2, "num_global": 1.5}, r"num_global must be a whole number, but got 1\.5"),
        (GROUPED, {"prefix": 1.0}, r"prefix must be a whole number, but got 1\.0"),
        (GROUPED, {"window": 2, "causal": False}, "window needs causal=True"),
        (((2, 5, 2, 16), (2, 5, 1, 16), (2, 5, 1, 516)), {}, "size of v must be a multiple of 4 from 16 to 512.*516"),
        (GROUPED, {"num_global": -1, "window": 2}, "num_global must be at least 0, a number of keys, but got -1"),
        (GROUPED, {"num_global": 3}, "num_global needs a window, .* but got 3 without"),
        (GROUPED, {"prefix": -2}, "prefix must be at least 0, a number of keys, but got -2"),
        (GROUPED, {"prefix": 2, "causal": False}, "prefix needs causal=True"),
        (GROUPED, {"softcap": 0.0}, r"softcap must be above 0, the largest score, but got 0\.0"),
        (GROUPED, {"softcap": float("nan")}, "softcap must be a finite number, but got nan"),
        (GROUPED, {"scale": float("inf")}, "scale must be a finite number, but got inf"),
        (GROUPED, {"scale": torch.tensor([0.5])}, r"scale must be a finite number, but got a tensor of shape \[1\]"),
        (GROUPED, {"causal": None}, "causal must be True or False, but got None"),
        (GROUPED, {"sink": [0.0, 0.0]}, r"sink must be a tensor or None, but got \[0\.0, 0\.0\]"),
        (GROUPED, {"sink": torch.zeros(1)}, r"sink must be \[Hq\] = \[2\], but got shape \[1\]"),
        (GROUPED, {"sink": torch.zeros(2).half()}, r"sink must be torch\.float32 on cpu, but got torch\.float16"),
        (GROUPED, {"sink": torch.zeros(2, device="meta")}, r"sink must be torch\.float32 on cpu, .* on meta"),
        (GROUPED, {"log_forget": torch.zeros(2, 5, 1)}, r"log_forget must be \[B, Tk, Hq\] = \[2, 5, 2\]"),
        (GROUPED, {"log_forget": torch.zeros(2, 5, 2), "causal": False}, "log_forget needs causal=True and no prefix"),
        (GROUPED, {"log_forget": torch.zeros(2, 5, 2), "prefix": 1}, "log_forget needs .* causal=True and prefix=1"),
    ],
)
def test_shapes_and_options_that_do_not_belong_together_are_refused(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        attention(*(torch.zeros(shape) for shape in shapes), **options)


def test_mixed_and_unknown_types_are_refused():
    q = torch.zeros(1, 2, 1, 16)
    with pytest.raises(ValueError, match=r"k must have the type and device of q, torch\.float32 on cpu"):
        attention(q, q.half(), q)
    with pytest.raises(ValueError, match="v must have the type and device of q"):
        attention(q, q, q.to("meta"))
    with pytest.raises(ValueError, match="q must be float32, float16 or bfloat16"):
        attention(q.double(), q.double(), q.double())


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"q": torch.zeros(1, 1, 2, 16)}, {}, r"q must be \[B, Hq, D\]"),
        ({"q": None}, {}, "q must be a tensor, but got None"),
        ({"k_cache": None}, {}, "k_cache must be a tensor, but got None"),
        ({"length": 2.5}, {}, r"length must be a whole number, but got 2\.5"),
        ({"v_cache": None}, {"value_size": 16.0}, r"value_size must be a whole number, but got 16\.0"),
        ({}, {"scale": "0.5"}, "scale must be a finite number, but got '0.5'"),
        ({"length": 9}, {}, "length must lie between 1 and the 8 slots of the cache, but got 9"),
        ({"length": 0}, {}, "length must lie between 1 and the 8 slots of the cache, but got 0"),
        ({"length": torch.tensor(3.0)}, {}, r"length must be a number, or int32 or int64 on cpu, .* torch\.float32"),
        ({"length": torch.tensor(3, device="meta")}, {}, "length must be a number, or int32 or int64 on cpu, .* meta"),
        ({"length": torch.tensor([3, 3])}, {}, r"length must be a number, \[\] or \[B\] = \[1\], but got shape \[2\]"),
        ({}, {"keep": torch.ones(1, 8, dtype=torch.bool)}, r"keep must be bool \[B, Hkv, S\] = \[1, 1, 8\]"),
        ({}, {"bias": torch.zeros(1, 2, 7)}, r"bias must be \[B, Hq, S\] = \[1, 2, 8\], but got shape \[1, 2, 7\]"),
        ({}, {"listed": torch.zeros(1, 2, 3, dtype=torch.int64)}, r"listed must be .* = \[1 or 1, 1 or 1, n\] on cpu"),
        ({}, {"listed": torch.zeros(1, 1, 0, dtype=torch.int64)}, r"listed must be .* but got torch.int64 \[1, 1, 0\]"),
        ({}, {"listed": torch.zeros(1, 1, 3)}, r"listed must be int32 or int64 .* but got torch.float32"),
        ({}, {"sink": torch.zeros(3)}, r"sink must be \[Hq\] = \[2\]"),
        ({}, {"softcap": -1.0}, "softcap must be above 0"),
        ({}, {"value_size": 16}, "The values must be v_cache, or .* but got both"),
        ({"v_cache": None}, {}, "The values must be v_cache, or .* but got neither"),
        ({"v_cache": None}, {"value_size": 20}, "value_size must be at most the 16 numbers of a key, but got 20"),
        ({"v_cache": torch.zeros(1, 7, 1, 16)}, {}, r"v_cache must have the sequences, tokens and heads of k_cache"),
        ({"v_cache": torch.zeros(1, 8, 1, 516)}, {}, "size of v_cache must be a multiple of 4 from 16 to 512"),
    ],
)
def test_a_step_that_has_no_meaning_is_refused(changed, options, message):
    cache = torch.zeros(1, 8, 1, 16)
    given = {"q": torch.zeros(1, 2, 16), "k_cache": cache, "v_cache": cache, "length": 8}
    with pytest.raises(ValueError, match=message):
        attention_step(**(given | changed), **options)


def test_keys_of_a_step_are_no_larger_than_those_of_latent_attention():
    q, cache = torch.zeros(1, 2, 580), torch.zeros(1, 8, 1, 580)
    with pytest.raises(ValueError, match="size of q must be a multiple of 4 from 16 to 576, but got 580"):
        attention_step(q, cache, None, 8, value_size=512)
