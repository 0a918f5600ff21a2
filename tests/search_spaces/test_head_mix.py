import pytest
import torch
from optuna.trial import FixedTrial

from nas.architecture import ArchitectureError
from nas.compile import compile_architecture
from nas.count import count_parameters
from search_spaces.attention_kinds import ALL_HEADED, OTHER_ATTENTIONS
from search_spaces.random_trial import RandomTrial

GLOBAL = {"d_model": 128, "parts": "attention+mamba2", "fuse": "concat", "ffn": "glu"}
OPTIONS = {"attention.position": "rope", "mamba2.state_dim": 32}
SPLIT = {f"stages.{stage}.attention.heads_of_4": n for stage, n in [("early", 1), ("middle", 3), ("late", 2)]}
KV = {"stages.middle.attention.num_kv_heads": 1, "stages.late.attention.num_kv_heads": "full"}


def test_heads_are_split_per_stage_and_everything_else_once(make_space):
    space = make_space("head_mix", num_layers=4, d_model=[96, 128])
    params = GLOBAL | OPTIONS | SPLIT | KV
    architecture = space(FixedTrial(params))
    assert architecture.name == "(a1m3)(a3m1)(a3m1)(a2m2)"
    assert [block.mixer.parts[0].num_kv_heads for block in architecture.blocks] == [1, 1, 1, 2]
    assert space.encode(architecture) == params


def test_only_mixed_designs_lie_in_it(make_space, designs):
    assert [name for name, _ in make_space("head_mix").references(designs.values())] == ["head-mix"]


def test_all_pairs_are_those_of_mixers_with_heads(make_space):
    pairs = make_space("head_mix", head_mix_pairs="all").pairs
    assert len(pairs) == len(ALL_HEADED) * (len(ALL_HEADED) - 1) // 2
    assert {"attention+kda", "mamba2+latent_attention"} <= set(pairs)
    assert not any("short_convolution" in pair for pair in pairs)


@pytest.mark.parametrize("kind", OTHER_ATTENTIONS)
def test_every_attention_shares_heads_with_a_recurrence(kind: str, make_space):
    space = make_space("head_mix", head_mix_pairs=[f"{kind}+mamba2"])
    for seed in range(3):
        architecture = space(RandomTrial(seed))
        with torch.device("meta"):
            model = compile_architecture(architecture)
        assert sum(p.numel() for p in model.parameters()) == count_parameters(architecture)
        found = space.encode(architecture)
        assert found is not None and space.at(found) == architecture


def test_a_width_of_one_head_is_refused(make_space):
    with pytest.raises(ArchitectureError, match="head_mix needs at least 2 heads, but d_model=32 has 1"):
        make_space("head_mix", d_model=[32, 64])
