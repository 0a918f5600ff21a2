import re

import pytest

from nas.architecture import (
    Architecture,
    ArchitectureError,
    Attention,
    Block,
    Glu,
    HeadMix,
    Mamba2,
    Moe,
    YarnScaling,
    from_dict,
    read_architecture,
    to_dict,
    write_architecture,
)

HYBRID = Architecture(
    name="hybrid",
    d_model=128,
    vocab_size=256,
    blocks=(
        *[Block(mixer=Attention(num_heads=4, num_kv_heads=1, head_dim=32, window=64), ffn=Glu(d_ff=300))] * 3,
        Block(mixer=HeadMix(parts=(Attention(num_heads=1, head_dim=32), Mamba2(num_heads=3, head_dim=32)))),
        Block(ffn=Moe(num_experts=4, top_k=2, d_ff=64, num_shared=1)),
    ),
)


def test_an_architecture_survives_the_file(tmp_path):
    path = tmp_path / "hybrid.yaml"
    write_architecture(path, HYBRID, comment="trial 3\nsampled")
    assert read_architecture(path) == HYBRID
    assert path.read_text().startswith("# trial 3\n# sampled\n")


def test_equal_neighbours_are_written_once():
    assert [entry.get("repeat", 1) for entry in to_dict(HYBRID)["blocks"]] == [3, 1, 1]


def test_groups_that_repeat_are_written_once():
    attention, mamba = (Block(mixer=m) for m in (Attention(num_heads=2), Mamba2(num_heads=2)))
    ffn = Block(ffn=Moe(num_experts=4, top_k=2, d_ff=64))
    pattern = (ffn, *(mamba, mamba, mamba, attention) * 3, mamba, mamba)
    architecture = Architecture(d_model=64, vocab_size=9, blocks=pattern)
    first, group, last = to_dict(architecture)["blocks"]
    assert "repeat" not in first and last["repeat"] == 2
    assert group["repeat"] == 3 and [entry.get("repeat", 1) for entry in group["blocks"]] == [3, 1]
    assert from_dict(to_dict(architecture)) == architecture


def test_defaults_may_be_left_out():
    short = {"d_model": 64, "vocab_size": 10, "blocks": [{"mixer": {"kind": "attention", "num_heads": 2}}]}
    assert from_dict(short).blocks == (Block(mixer=Attention(num_heads=2)),)


def test_options_within_options_are_read_and_rare_ones_at_their_defaults_not_written(tmp_path):
    stretched = Attention(num_heads=2, rope_scaling=YarnScaling(factor=4, original_length=64), qk_norm="head")
    architecture = Architecture(d_model=64, vocab_size=9, blocks=(Block(mixer=stretched),))
    write_architecture(tmp_path / "a.yaml", architecture)
    assert read_architecture(tmp_path / "a.yaml") == architecture
    written = to_dict(architecture)["blocks"][0]["mixer"]
    assert written["rope_scaling"] == {"kind": "yarn", "factor": 4, "original_length": 64, "slow": 1.0, "fast": 32.0,
        "truncate": True}  # fmt: skip
    assert written["qk_norm"] == "head" and "rope_fraction" not in written


HEAD = "d_model: 64\nvocab_size: 9\nblocks:\n- "


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD + "mixer: {kind: atention, num_heads: 2}", "blocks[0].mixer: unknown kind 'atention'. Did you mean 'att"),
        (HEAD + "mixer: {num_heads: 2}", "blocks[0].mixer: kind is missing"),
        (HEAD + "mixer: {kind: attention}", "blocks[0].mixer: num_heads is missing"),
        (HEAD + "mixer: {kind: attention, num_head: 2}", "unknown key 'num_head'. Did you mean 'num_heads'?"),
        (HEAD + "mixer: {kind: attention, num_heads: 3, num_kv_heads: 2}", "num_kv_heads must divide num_heads"),
        (HEAD + "mixer: {kind: attention, num_heads: 2, window: 0}", "window must be at least 1, but got 0."),
        (HEAD + "mixer: {kind: attention, num_heads: two}", "num_heads must be of type int, but got 'two'."),
        (HEAD + "mixer: {kind: attention, num_heads: 2, head_dim: 30}", "head_dim must be a multiple of 4"),
        (HEAD + "mixer: {kind: attention, num_heads: 2, rope_fraction: 0.01}", "rope_fraction must rotate an even"),
        (HEAD + "mixer: {kind: attention, num_heads: 2, rope_scaling: {kind: yarm}}", ".rope_scaling: unknown kind"),
        (HEAD + "mixer: {kind: attention, num_heads: 2, rope_scaling: {kind: linear, factor: 0.5}}", "at least 1"),
        (HEAD + "mixer: {kind: attention, num_heads: 2, rope_scaling: linear}", "rope_scaling must be a mapping"),
        (HEAD + "mixer: {kind: head_mix, parts: [{kind: none}, {kind: none}]}", "must be a mixer with heads"),
        (HEAD + "ffn: {kind: moe, num_experts: 2, top_k: 3, d_ff: 8}", "top_k must be at most num_experts"),
        (HEAD + "mixer: [1, 2]", "blocks[0].mixer must be a mapping"),
        (HEAD + "mixer: {kind: [a], num_heads: 1}", "unknown kind ['a']"),
        (HEAD + "{}", "blocks[0]: A block needs a mixer or an FFN"),
        (HEAD + "{repeat: 100000, ffn: {kind: glu, d_ff: 8}}", "repeat must be a whole number from 1 to 2000"),
        (HEAD + "{repeat: 2, blocks: [{ffn: {kind: glu}}]}", "blocks[0].blocks[0].ffn: d_ff is missing"),
        (HEAD + "{repeat: 2, blocks: [], mixer: {kind: none}}", "blocks[0]: unknown key 'mixer'"),
        (HEAD + "{repeat: 2000, blocks: [{repeat: 2, ffn: {kind: glu, d_ff: 8}}]}", "2 blocks 2000 times are more"),
        ("d_model: 64\nvocab_size: 9\nblocks: []", "at least one block"),
        ("d_model: 64\nvocab_size: 9\nblocks: {}", "blocks must be a list"),
        ("d_model: 64\nvocab_size: 9", "blocks is missing"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: [1", "not a readable architecture file at line 1"),
        ("a: &x [1, 1]\nb: [*x, *x]", "may not use YAML aliases"),
        ("!!python/object/apply:os.system ['echo']", "not a readable architecture file"),
        ("_target_: os.system\nd_model: 1", "unknown key '_target_'"),
        ("d_model: 64\nd_model: 32", "d_model stands twice"),
    ],
)
def test_a_bad_file_is_answered_with_one_sentence_that_names_the_place(tmp_path, text, sentence):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ArchitectureError, match=re.escape(sentence)) as caught:
        read_architecture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_sentence(tmp_path):
    with pytest.raises(ArchitectureError, match="cannot be read"):
        read_architecture(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchitectureError, match=r"cannot be read|not a readable"):
        read_architecture(tmp_path / "binary.yaml")
    (tmp_path / "deep.yaml").write_text("[" * 20000)
    with pytest.raises(ArchitectureError, match=r"cannot be read|not a readable"):
        read_architecture(tmp_path / "deep.yaml")
