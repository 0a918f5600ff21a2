"""Lists of blocks: static patterns against masks written out, chosen ones against others' selections and identities."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from kernels import (
    block_sparse_attention,
    dilated_blocks,
    indexed_tokens,
    local_global_blocks,
    moba_blocks,
    nsa_blocks,
    strided_blocks,
    top_blocks,
)
from tests.kernels.closeness import assert_close_relative


def seen(lists: Tensor, count: int) -> Tensor:
    """[B, query blocks, Hkv, key blocks] of lists."""
    return (lists.unsqueeze(-1) == torch.arange(count)).any(-2)


def moba(q: Tensor, k: Tensor, *, block_size: int, top_k: int) -> Tensor:
    complete = k.shape[1] // block_size
    means = k[:, : complete * block_size].unflatten(1, (complete, block_size)).mean(2)
    return moba_blocks(q, means, k.shape[1], block_size=block_size, top_k=top_k)


def of_mask(sees, count: int) -> Tensor:
    """[query blocks, key blocks] by torch's own masks."""
    return create_mask(lambda b, h, i, j: sees(i, j), 1, 1, count, count, device="cpu")[0, 0]


@pytest.mark.parametrize(
    ("lists", "sees"),
    [
        (local_global_blocks(9, local=3), lambda i, j: (j <= i) & (i - j < 3)),
        (local_global_blocks(9, local=2, global_blocks=1), lambda i, j: (j <= i) & ((i - j < 2) | (j < 1))),
        (
            local_global_blocks(9, local=2, global_blocks=1, causal=False),
            lambda i, j: ((i - j < 2) & (j - i < 2)) | (j < 1) | (i < 1),
        ),
        (strided_blocks(9, local=2, stride=3), lambda i, j: (j <= i) & ((i - j < 2) | ((i - j) % 3 == 0))),
        (
            strided_blocks(9, local=1, stride=4, causal=False),
            lambda i, j: (i - j) % 4 == 0,
        ),
        (
            dilated_blocks(9, segments=(2, 8), dilations=(1, 4)),
            lambda i, j: (j <= i) & ((i // 2 == j // 2) | ((i // 8 == j // 8) & ((i - j) % 4 == 0))),
        ),
    ],
    ids=["window", "sink and window", "Longformer", "strided", "strided both ways", "LongNet"],
)
def test_static_patterns_are_the_masks_of_their_definitions(lists, sees):
    assert lists.dtype == torch.int32
    assert torch.equal(seen(lists, 9)[0, :, 0], of_mask(sees, 9))


def test_random_blocks_are_added_to_those_in_sight_and_repeat_with_the_seed():
    plain = seen(local_global_blocks(40, local=2, global_blocks=1), 40)[0, :, 0]
    lists = local_global_blocks(40, local=2, global_blocks=1, random_blocks=3, seed=1)
    found = seen(lists, 40)[0, :, 0]
    assert (found | plain == found).all()
    assert not found.triu(1).any()
    assert (found & ~plain).sum(1).tolist() == [min(3, max(0, i - 2)) for i in range(40)]
    assert torch.equal(lists, local_global_blocks(40, local=2, global_blocks=1, random_blocks=3, seed=1))
    assert not torch.equal(lists, local_global_blocks(40, local=2, global_blocks=1, random_blocks=3, seed=2))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (local_global_blocks, {"local": 2, "global_blocks": 1}),
        (local_global_blocks, {"local": 1, "global_blocks": 1, "random_blocks": 3, "seed": 1}),
        (strided_blocks, {"local": 3, "stride": 4}),
        (dilated_blocks, {"segments": (2, 8), "dilations": (1, 4)}),
    ],
    ids=["local and global", "random", "strided", "dilated"],
)
def test_the_list_of_one_block_at_a_place_on_the_device_is_that_of_all_lists(build, options, causal):
    lists = build(19, causal=causal, **options)
    alone = [build(19, causal=causal, at=torch.tensor(place), **options) for place in range(19)]
    assert {tuple(one.shape) for one in alone} == {(1, 1, 1, alone[0].shape[3])}, "as long at every place"
    assert not causal or alone[0].shape == lists[:, :1].shape, "and no longer than it must be"
    assert torch.equal(seen(torch.cat(alone, 1), 19), seen(lists, 19))
    assert build(19, causal=causal, at=torch.empty((), dtype=torch.int64, device="meta"), **options).is_meta


def test_attention_over_a_static_pattern_is_attention_under_its_mask():
    q, k, v = torch.randn(3, 1, 70, 2, 16, generator=torch.Generator().manual_seed(0))
    lists = local_global_blocks(5, local=2, global_blocks=1)
    mask = seen(lists, 5)[0, :, 0].repeat_interleave(16, 0).repeat_interleave(16, 1)[:70, :70].tril()
    actual = block_sparse_attention(q, k, v, lists, block_size=16, query_block=16)
    rows = (x.transpose(1, 2) for x in (q, k, v))
    assert_close_relative(actual, F.scaled_dot_product_attention(*rows, attn_mask=mask).transpose(1, 2), 1e-5)


def test_moba_over_all_blocks_is_full_attention_and_over_one_is_the_own_block():
    q, k, v = torch.randn(3, 1, 50, 2, 16, generator=torch.Generator().manual_seed(0))
    everything = moba(q, k, block_size=16, top_k=9)
    actual = block_sparse_attention(q, k, v, everything, block_size=16)
    rows = (x.transpose(1, 2) for x in (q, k, v))
    assert_close_relative(actual, F.scaled_dot_product_attention(*rows, is_causal=True).transpose(1, 2), 1e-5)
    own = moba(q, k, block_size=16, top_k=1)
    assert torch.equal(own[0, :, 0, 0], torch.arange(50) // 16)


def test_moba_picks_the_blocks_whose_mean_key_is_nearest_and_nothing_later_changes_it():
    q, k = torch.zeros(1, 8, 2, 16), torch.zeros(1, 8, 1, 16)
    q[..., 0] = 1
    k[0, :, 0, 0] = torch.tensor([3.0, 1.0, -1.0, -1.0, 0.0, 3.0, 9.0, 9.0])
    lists = moba(q, k, block_size=2, top_k=2)
    assert lists[0, :, 0].tolist() == [[0, -1]] * 2 + [[1, 0]] * 2 + [[2, 0]] * 2 + [[3, 0]] * 2
    assert torch.equal(moba(q[:, :5], k[:, :5], block_size=2, top_k=2), lists[:, :5])
    assert torch.equal(moba(q[:, 5:], k, block_size=2, top_k=2), lists[:, 5:])


def test_scores_are_taken_in_parts_without_a_difference(monkeypatch):
    from kernels._block_sparse_attention import selection

    q, k = torch.randn(2, 1, 30, 2, 16, generator=torch.Generator().manual_seed(0))
    whole = moba(q, k, block_size=4, top_k=3)
    monkeypatch.setattr(selection, "SCORES_AT_A_TIME", 100)
    assert torch.equal(moba(q, k, block_size=4, top_k=3), whole)


ORACLE = """
import sys, warnings, torch
warnings.simplefilter("ignore")
from fla.ops.nsa.naive import naive_nsa_selection, naive_nsa_topk
q, k, v, means = torch.load(sys.argv[1])
lists = naive_nsa_topk(q, means, 4, 16, 0.25)
torch.save((lists, naive_nsa_selection(q, k, v, lists, 16, 0.25)), sys.argv[2])
"""


def test_nsa_selects_and_attends_as_the_naive_functions_of_flash_linear_attention(tmp_path):
    """In a process of its own: that package compiles its kernels on import, and here the interpreter is on."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 130, 4, 16, generator=generator)
    k, v = torch.randn(2, 1, 130, 2, 16, generator=generator)
    means = F.pad(k, (0, 0, 0, 0, 0, 14)).unflatten(1, (9, 16)).mean(2)
    torch.save((q, k, v, means), tmp_path / "case.pt")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", ORACLE, str(tmp_path / "case.pt"), str(tmp_path / "answer.pt")]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    lists, output = torch.load(tmp_path / "answer.pt")
    sizes = {"block_size": 16, "compressed_size": 16, "compressed_stride": 16}
    ours = nsa_blocks(q, means, 130, top_k=4, scale=0.25, **sizes)
    assert torch.equal(seen(ours, 9), seen(lists, 9))
    actual = block_sparse_attention(q, k, v, ours, block_size=16, scale=0.25)
    # Theirs repeats values for the heads of a group and returns as many heads.
    assert_close_relative(actual, output, 1e-5)


def test_overlapping_compressed_keys_count_once_for_each_stride_that_they_share_with_a_block():
    """Keys of 4 at strides of 2, blocks of 4: block n holds strides 2 n and 2 n + 1."""
    q = torch.zeros(1, 1, 1, 16)
    q[..., 0] = 4.0
    compressed = torch.zeros(1, 11, 1, 16)
    compressed[0, 3, 0, 0] = 50.0  # keys 6 to 9: one stride in block 1, one in block 2
    sizes = {"block_size": 4, "compressed_size": 4, "compressed_stride": 2, "scale": 1.0}
    lists = nsa_blocks(q, compressed, 24, top_k=3, first=0, last=1, **sizes)
    assert lists[0, 0, 0].tolist()[0] == 5
    assert sorted(lists[0, 0, 0].tolist()) == [1, 2, 5]


def test_the_indexer_is_that_of_deepseek_v32():
    from transformers import DeepseekV32Config
    from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Indexer

    config = DeepseekV32Config(
        hidden_size=24, q_lora_rank=12, index_n_heads=3, index_head_dim=16, index_topk=5, qk_rope_head_dim=8
    )
    torch.manual_seed(0)
    indexer = DeepseekV32Indexer(config, 0)
    hidden, q_resid = torch.randn(2, 20, 24), torch.randn(2, 20, 12)
    unrotated = (torch.ones(2, 20, 8), torch.zeros(2, 20, 8))
    causal = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, -1, -1)
    theirs = indexer(hidden, q_resid, unrotated, causal, torch.arange(20)).long()
    q = indexer.wq_b(q_resid).view(2, 20, 3, 16)
    k, weight = indexer.k_norm(indexer.wk(hidden)), indexer.weights_proj(hidden) * 3**-0.5
    ours = indexed_tokens(q, k, weight, 5)
    # Before it has five tokens to choose from, theirs names later ones, which its mask hides again.
    theirs = theirs.masked_fill(theirs > torch.arange(20).view(1, -1, 1), -1)
    assert torch.equal(seen(ours, 20)[:, :, 0], seen(theirs.unsqueeze(2), 20)[:, :, 0])


def test_a_query_at_a_position_on_the_device_picks_as_the_last_of_so_many_tokens():
    """Beyond the position lie numbers that would win."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 1, 4, 16, generator=generator)
    k, runs = torch.randn(2, 2, 30, 2, 16, generator=generator)
    weight = torch.rand(2, 1, 4, generator=generator)
    sizes = {"block_size": 4, "compressed_size": 4, "compressed_stride": 2, "top_k": 4}
    for place in (0, 3, 12, 29):
        ahead, position = torch.arange(30).view(-1, 1, 1) > place, torch.tensor([place])
        index, keys = torch.where(ahead, 9.0, k)[:, :, 0], torch.where(ahead, 9.0, runs)[:, :14]
        known = (place + 1 - 4) // 2 + 1
        picked = nsa_blocks(q, keys, 30, position=position, **sizes)
        assert torch.equal(seen(picked, 8), seen(nsa_blocks(q, runs[:, : max(0, known)], place + 1, **sizes), 8))
        picked = indexed_tokens(q, index, weight, 5, position=position)
        assert torch.equal(seen(picked, 30), seen(indexed_tokens(q, k[:, : place + 1, 0], weight, 5), 30))


def test_forced_blocks_come_first_and_blocks_ahead_never():
    scores = torch.tensor([0.0, 5.0, 1.0, 2.0, 9.0, 9.0]).expand(1, 6, 1, 6)
    lists = top_blocks(scores, torch.arange(6), 4, first=1, last=2)
    assert [sorted(row) for row in lists[0, :, 0].tolist()] == [
        [-1, -1, -1, 0],
        [-1, -1, 0, 1],
        [-1, 0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 3, 4],
        [0, 1, 4, 5],
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: local_global_blocks(4, local=0), "local must be at least 1, but got 0"),
        (lambda: local_global_blocks(0, local=1), "count must be at least 1, but got 0"),
        (lambda: local_global_blocks(4, local=1.5), r"local must be a whole number, but got 1\.5"),
        (lambda: local_global_blocks(4.0, local=1), r"count must be a whole number, but got 4\.0"),
        (lambda: local_global_blocks(4, local=1, seed=None), "seed must be a whole number, but got None"),
        (lambda: local_global_blocks(4, local=1, causal=None), "causal must be True or False, but got None"),
        (lambda: local_global_blocks(4, local=1, device="gpu"), "device must be a torch.device or its name, .* 'gpu'"),
        (lambda: strided_blocks(4, local=1, stride=1, device=None), "device must be a torch.device .* but got None"),
        (lambda: local_global_blocks(4, local=1, at=3), "at must be a tensor or None, but got 3"),
        (lambda: local_global_blocks(4, local=1, at=torch.tensor(1.0)), "at must be one number of int32 or int64"),
        (lambda: local_global_blocks(4, local=1, at=torch.arange(2)), r"at must be one number .* torch\.int64 \[2\]"),
        (lambda: strided_blocks(4, local=1, stride=2, at=torch.tensor(4)), "at must lie from 0 to 3, but got 4 to 4"),
        (lambda: dilated_blocks(4, segments=2, dilations=1), "segments and dilations must pair up, but got 2 and 1"),
        (lambda: top_blocks(torch.zeros(1, 2, 1, 4), [0, 1], 2), r"own must be a tensor, but got \[0, 1\]"),
        (
            lambda: top_blocks(torch.zeros(1, 2, 1, 4), torch.tensor([0, 4]), 2),
            "own must lie from 0 to 3, but got 0 to 4",
        ),
        (lambda: local_global_blocks(4, local=1, random_blocks=-1), "random_blocks must be at least 0, but got -1"),
        (lambda: strided_blocks(4, local=1, stride=0), "stride must be at least 1, but got 0"),
        (lambda: dilated_blocks(4, segments=(2,), dilations=(1, 2)), r"must pair up, but got \(2,\) and \(1, 2\)"),
        (lambda: dilated_blocks(4, segments=(2,), dilations=(0,)), "dilations must be at least 1, but got 0"),
        (lambda: top_blocks(torch.zeros(1, 2, 1, 4), torch.arange(2), 2, first=1, last=2), "at least the 3 blocks"),
        (
            lambda: top_blocks(torch.zeros(1, 2, 1, 4), torch.arange(2), 2, first=-1),
            "first must be at least 0, but got",
        ),
        (lambda: top_blocks(torch.zeros(1, 2, 1, 4), torch.arange(2), 2, last=0), "last must be at least 1, but got 0"),
        (lambda: top_blocks(torch.zeros(1, 2, 1, 4), torch.arange(2), 2.0), "top_k must be a whole number, but got 2"),
        (
            lambda: nsa_blocks(
                torch.zeros(1, 4, 1, 16),
                torch.zeros(1, 1, 1, 16),
                4,
                block_size=4,
                top_k=3,
                compressed_size=3,
                compressed_stride=2,
            ),
            "compressed_stride must divide compressed_size and block_size",
        ),
    ],
)
def test_sizes_that_have_no_meaning_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


NSA = {"block_size": 4, "compressed_size": 4, "compressed_stride": 2, "top_k": 4}


@pytest.mark.parametrize(
    ("call", "shapes", "message"),
    [
        (
            lambda s: top_blocks(s, torch.arange(4), 2),
            [(2, 4, 6)],
            r"scores must be \[B, T, Hkv, N\] of a floating type",
        ),
        (
            lambda s: top_blocks(s, torch.arange(3), 2),
            [(2, 4, 1, 6)],
            r"own must be int32 or int64 .* = \[2, 4\] .*\[3\]",
        ),
        (
            lambda s: top_blocks(s, torch.ones(4), 2),
            [(2, 4, 1, 6)],
            r"own must be int32 or int64 .* torch\.float32 \[4\]",
        ),
        (
            lambda q, means: moba_blocks(q, means, 9, block_size=2, top_k=1),
            [(1, 4, 2, 8), (1, 4, 16)],
            r"means must be \[B, N, Hkv, D\] of a floating type on cpu, but got \[1, 4, 16\]",
        ),
        (
            lambda q, means: moba_blocks(q, means, 9, block_size=2, top_k=1),
            [(1, 4, 2, 8), (1, 4, 1, 16)],
            r"means must have the sequences and the head size of q \[1, 4, 2, 8\], but got shape \[1, 4, 1, 16\]",
        ),
        (
            lambda q, means: moba_blocks(q, means, 9, block_size=2, top_k=1),
            [(1, 4, 3, 8), (1, 4, 2, 8)],
            "q must have a multiple of the 2 heads of means, but got 3",
        ),
        (
            lambda q, means: moba_blocks(q, means, 8, block_size=2, top_k=1),
            [(1, 5, 2, 8), (1, 3, 2, 8)],
            r"means must be of the 4 complete blocks of 2 among 8 keys, but got shape \[1, 3, 2, 8\]",
        ),
        (
            lambda q, means: moba_blocks(q, means, 4, block_size=1, top_k=1),
            [(1, 5, 2, 8), (1, 4, 2, 8)],
            "q must have at most the 4 tokens of the keys unless position is given, but got 5",
        ),
        (
            lambda q, means: moba_blocks(q, means.half(), 9, block_size=2, top_k=1),
            [(1, 4, 2, 8), (1, 4, 2, 8)],
            "means must have the type of q, torch.float32, or float32, but got torch.float16",
        ),
        (
            lambda q, k: nsa_blocks(q.double(), k.double(), 9, **NSA),
            [(1, 4, 2, 8), (1, 3, 2, 8)],
            "q must be float32, float16 or bfloat16, but got torch.float64",
        ),
        (
            lambda q, means: moba_blocks(q, means, 9, block_size=0, top_k=1),
            [(1, 4, 2, 8), (1, 4, 2, 8)],
            "block_size must be at least 1, but got 0",
        ),
        (
            lambda q, k: nsa_blocks(q, k, 9, position=torch.arange(3), **NSA),
            [(1, 4, 2, 8), (1, 3, 2, 8)],
            r"position must be int32 or int64 \[Tq\] = \[4\] on cpu, but got torch.int64 \[3\]",
        ),
        (
            lambda q, k: nsa_blocks(q, k, 9, **(NSA | {"compressed_stride": 0})),
            [(1, 4, 2, 8), (1, 3, 2, 8)],
            "compressed_stride must be at least 1, but got 0",
        ),
        (
            lambda q, k, weight: indexed_tokens(q, k, weight, 2),
            [(1, 4, 2, 8), (1, 4, 8), (1, 4, 3)],
            r"weight \[B, Tq, H\] beside q \[1, 4, 2, 8\], but got \[1, 4, 8\] and \[1, 4, 3\]",
        ),
        (
            lambda q, k: nsa_blocks(q, k, 9, position=torch.tensor([0, 1, 2, 9]), **NSA),
            [(1, 4, 2, 8), (1, 3, 2, 8)],
            "position must lie from 0 to 8, but got 0 to 9",
        ),
        (
            lambda q, k: nsa_blocks(q, k, 9.5, **NSA),
            [(1, 4, 2, 8), (1, 3, 2, 8)],
            r"keys must be a whole number, but got 9\.5",
        ),
        (
            lambda q, k: nsa_blocks(q, k, 9, scale="1", **NSA),
            [(1, 4, 2, 8), (1, 3, 2, 8)],
            "scale must be a finite number, but got '1'",
        ),
        (
            lambda q, k, weight: indexed_tokens(q, k.half(), weight, 2),
            [(1, 4, 2, 8), (1, 4, 8), (1, 4, 2)],
            r"k must have the type of q, torch\.float32, but got torch\.float16",
        ),
        (
            lambda q, k, weight: indexed_tokens(q, k, weight.bfloat16(), 2),
            [(1, 4, 2, 8), (1, 4, 8), (1, 4, 2)],
            r"weight must have the type of q, torch\.float32, but got torch\.bfloat16",
        ),
        (
            lambda q, k, weight: indexed_tokens(q, k, weight, 2, position=torch.tensor([-1, 0, 1, 2])),
            [(1, 4, 2, 8), (1, 4, 8), (1, 4, 2)],
            "position must lie from 0 to 3, but got -1 to 2",
        ),
        (
            lambda q, k, weight: indexed_tokens(q, k, weight, 0),
            [(1, 4, 2, 8), (1, 4, 8), (1, 4, 2)],
            "top_k must be at least 1, but got 0",
        ),
        (
            lambda q, k, weight: indexed_tokens(q, k.to("meta"), weight, 2),
            [(1, 4, 2, 8), (1, 4, 8), (1, 4, 2)],
            r"k must be \[B, Tk, D\] of a floating type on cpu, .* on meta",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused_by_those_who_pick(call, shapes, message):
    with pytest.raises(ValueError, match=message):
        call(*(torch.zeros(shape) for shape in shapes))
