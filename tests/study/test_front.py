import numpy as np
import pytest

from nas.study.front import crowding, hypervolume, non_dominated, ranks


@pytest.mark.parametrize(
    ("values", "front"),
    [
        ([[1, 2], [2, 1], [2, 2]], [0, 1]),
        ([[1, 1], [1, 1]], [0]),
        ([[1, 2], [1, 1]], [1]),
        ([[3.0]], [0]),
        ([[1, 5, 5], [5, 1, 5], [5, 5, 1], [5, 5, 5]], [0, 1, 2]),
    ],
)
def test_the_front_holds_what_nothing_dominates_once(values, front):
    assert non_dominated(np.array(values, dtype=float)).tolist() == front


@pytest.mark.parametrize(
    ("values", "reference", "volume"),
    [
        ([[1, 1]], [2, 2], 1.0),
        ([[0, 1], [1, 0]], [2, 2], 3.0),
        ([[3, 3]], [2, 2], 0.0),
        ([[0.5]], [2], 1.5),
        ([[0, 0, 1], [1, 1, 0]], [2, 2, 2], 4.0 + 1.0),
        ([[1, 1, 1], [1, 1, 1]], [2, 2, 2], 1.0),
    ],
)
def test_hypervolume_of_boxes_is_their_union(values, reference, volume):
    assert hypervolume(np.array(values, dtype=float), np.array(reference, dtype=float)) == pytest.approx(volume)


def test_hypervolume_agrees_with_counting_grid_points():
    generator = np.random.default_rng(0)
    points = generator.integers(0, 6, size=(8, 3)).astype(float)
    grid = np.stack(np.meshgrid(*[np.arange(6) + 0.5] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    covered = np.any(np.all(points[:, None] <= grid[None], axis=2), axis=0).sum()
    assert hypervolume(points, np.full(3, 6.0)) == pytest.approx(covered)


def test_rows_are_ranked_by_the_fronts_that_lie_before_them():
    values = np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 3.0], [1.0, 2.0], [3.0, 3.0]])
    assert ranks(values).tolist() == [0, 0, 1, 0, 2]
    assert ranks(np.empty((0, 2))).tolist() == []


def test_ends_of_a_rank_are_never_crowded_and_others_by_the_gap_around_them():
    values = np.array([[0.0, 10.0], [1.0, 5.0], [4.0, 0.0], [9.0, 9.0]])
    assert crowding(values, ranks(values)).tolist() == [np.inf, 4 / 4 + 10 / 10, np.inf, np.inf]
