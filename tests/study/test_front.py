import numpy as np
import pytest

from nas.study.front import hypervolume, non_dominated


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
