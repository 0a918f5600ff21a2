"""Moves on architectures as lists of blocks."""

from random import Random

import pytest

from nas.study.samplers.genome import Genome, nearest_choice
from nas.study.samplers.moves import MOVES, change_option, copy_motif, cross, delete, insert, resplit_heads, swap

PARAMS = {
    "num_layers": 4,
    "layers.0.mixer": "attention",
    "layers.0.num_kv_heads": 1,
    "layers.1.mixer": "mamba2",
    "layers.1.state_dim": 16,
    "layers.2.mixer": "head_mix",
    "layers.2.attention.heads_of_4": 2,
    "layers.3.mixer": "gated_deltanet",
}
CHOICES = {
    "num_layers": (4,),
    "layers.0.mixer": ("attention", "mamba2"),
    "layers.1.state_dim": (16, 32),
    "layers.2.attention.heads_of_4": (1, 2, 3),
}
GENOME = Genome.of(PARAMS)
SEEDS = range(30)


def mixers(genome: Genome) -> list[object]:
    return [block.get("mixer") for block in genome.blocks]


def test_the_choices_of_a_trial_come_back_from_its_blocks() -> None:
    assert GENOME.params() == PARAMS
    assert GENOME.whole == {"num_layers": 4}
    assert GENOME.blocks[1] == {"mixer": "mamba2", "state_dim": 16}


def test_a_pattern_of_letters_is_a_list_of_blocks_too() -> None:
    genome = Genome.of({"period": 2, "window": 32, "pattern.0": "a", "pattern.1": "m"})
    assert genome.whole == {"period": 2, "window": 32}
    assert genome.params()["pattern.1"] == "m"
    assert swap(genome, {}, Random(0)).params() == {"period": 2, "window": 32, "pattern.0": "m", "pattern.1": "a"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_swap_keeps_all_blocks_with_their_options(seed: int) -> None:
    swapped = swap(GENOME, CHOICES, Random(seed))
    assert swapped != GENOME
    assert sorted(map(str, swapped.blocks)) == sorted(map(str, GENOME.blocks))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_inserted_block_moves_those_behind_it_and_the_last_falls_off(seed: int) -> None:
    found = insert(GENOME, CHOICES, Random(seed)).blocks
    assert any([*found[:i], *found[i + 1 :]] == list(GENOME.blocks[:3]) for i in range(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_deleted_block_leaves_the_last_place_to_be_asked_for_again(seed: int) -> None:
    found = delete(GENOME, CHOICES, Random(seed)).blocks
    assert any(list(found) == [*GENOME.blocks[:i], *GENOME.blocks[i + 1 :], {}] for i in range(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_copied_motif_stands_there_twice_or_overlaps_itself(seed: int) -> None:
    found = mixers(copy_motif(GENOME, CHOICES, Random(seed)))
    runs = [tuple(mixers(GENOME)[i : i + n]) for n in (2, 3) for i in range(4 - n + 1)]
    assert found != mixers(GENOME)
    assert any(tuple(found[i : i + len(run)]) == run for run in runs for i in range(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_option_is_one_other_choice(seed: int) -> None:
    found = change_option(GENOME, CHOICES, Random(seed)).params()
    (name,) = [name for name in PARAMS if found[name] != PARAMS[name]]
    assert found[name] in CHOICES[name]


def test_heads_are_split_anew_by_one_step() -> None:
    shares = {resplit_heads(GENOME, CHOICES, Random(seed)).params()["layers.2.attention.heads_of_4"] for seed in SEEDS}
    assert shares == {1, 3}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_child_of_two_has_the_front_of_one_and_the_back_of_the_other(seed: int) -> None:
    other = Genome.of({"num_layers": 4, **{f"layers.{i}.mixer": "mamba1" for i in range(4)}})
    kinds = mixers(cross(GENOME, other, Random(seed)))
    cut = kinds.index("mamba1") if "mamba1" in kinds else 4
    assert kinds == mixers(GENOME)[:cut] + ["mamba1"] * (4 - cut)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_child_of_two_depths_has_one_of_them_and_a_shorter_parent_repeats_itself(seed: int) -> None:
    other = Genome.of({"num_layers": 8, **{f"layers.{i}.mixer": "mamba1" for i in range(8)}})
    for child in (cross(GENOME, other, Random(seed)), cross(other, GENOME, Random(seed))):
        depth = child.whole["num_layers"]
        assert depth in (4, 8) and len(child.blocks) == depth
        assert child.places == tuple(f"layers.{i}" for i in range(depth))
        assert all(kind in ("mamba1", (mixers(GENOME) * 2)[i]) for i, kind in enumerate(mixers(child)))


DEPTHS = {"num_layers": (3, 4, 6)}


def test_blocks_that_come_in_may_deepen_the_network() -> None:
    children = [insert(GENOME, DEPTHS, Random(seed)) for seed in SEEDS]
    assert {len(child.blocks) for child in children} == {4, 6}
    for child in children:
        assert child.whole["num_layers"] == len(child.blocks)
        if len(child.blocks) == 6:  # nothing fell off
            kept = [block for block in child.blocks if block in GENOME.blocks]
            assert all(block in kept for block in GENOME.blocks)


def test_blocks_that_go_may_make_the_network_shallower() -> None:
    children = [delete(GENOME, DEPTHS, Random(seed)) for seed in SEEDS]
    assert {len(child.blocks) for child in children} == {3, 4}
    assert all(child.whole["num_layers"] == len(child.blocks) for child in children)


def test_a_network_whose_depth_is_changed_repeats_or_ends_itself() -> None:
    genome = Genome.of({"num_layers": 4, **{f"layers.{i}.mixer": f"kind{i}" for i in range(4)}})
    children = [change_option(genome, DEPTHS, Random(seed)) for seed in SEEDS]
    assert {tuple(mixers(child)) for child in children} == {
        ("kind0", "kind1", "kind2"),
        ("kind0", "kind1", "kind2", "kind3", "kind0", "kind1"),
    }


def test_a_pattern_grows_with_its_period() -> None:
    genome = Genome.of({"num_layers": 8, "period_of_8": 2, "pattern.0": "a", "pattern.1": "m"})
    children = [insert(genome, {"period_of_8": (1, 2, 4)}, Random(seed)) for seed in SEEDS]
    assert {(len(child.blocks), child.whole["period_of_8"]) for child in children} == {(2, 2), (4, 4)}
    assert children[0].whole["num_layers"] == 8


def test_stages_are_neither_more_nor_fewer() -> None:
    genome = Genome.of({"num_layers": 8, "stages.early.mixer": "attention", "stages.late.mixer": "mamba2"})
    for move in (insert, delete):
        for seed in SEEDS:
            assert move(genome, {"num_layers": (4, 8)}, Random(seed)).places == ("stages.early", "stages.late")


def test_a_choice_with_another_total_goes_to_the_nearest_share() -> None:
    params = {"layers.0.attention.heads_of_4": 1, "period_of_4": 3, "layers.0.mixer": "head_mix"}
    assert nearest_choice(params, "layers.0.attention.heads_of_8", range(1, 8)) == 2
    assert nearest_choice(params, "layers.0.attention.heads_of_2", [1]) == 1
    assert nearest_choice(params, "period_of_8", [1, 2, 4, 8]) in (2, 4)
    assert nearest_choice(params, "layers.0.mixer", ["attention"]) is None
    assert nearest_choice(params, "layers.1.mixer", ["attention"]) is None


@pytest.mark.parametrize("move", MOVES)
def test_every_move_leaves_a_network_of_one_layer_a_network(move: str) -> None:
    one = Genome.of({"layers.0.mixer": "attention"})
    for seed in SEEDS:
        assert len(MOVES[move](one, {}, Random(seed)).blocks) == 1
