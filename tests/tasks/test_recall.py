"""Multi-query associative recall: the exact example, what holds of every sequence, and both metrics."""

import numpy as np
import pytest
import torch

from nas.tasks import RecallTask, TaskError
from nas.tasks.recall import draw_without_replacement

EXAMPLE = {"vocab_size": 8, "num_pairs": 2, "sequence_length": 10, "filler": "blank", "power": 0.01, "easier": 0}


def test_the_example_of_the_docstring_is_exact():
    task = RecallTask(**EXAMPLE)
    tokens, targets = task.sequences(np.random.default_rng(0), 1, 2, 10)
    assert tokens.tolist() == [[3, 4, 2, 7, 3, 0, 2, 0, 0, 0]]
    assert targets.tolist() == [[-100, -100, -100, -100, 4, -100, 7, -100, -100, -100]]


def test_every_key_is_asked_for_once_and_answered_by_its_value():
    task = RecallTask(sequence_length=64, num_pairs=16, vocab_size=128)
    tokens, targets = task.sequences(np.random.default_rng(1), 20, 16, 64)
    for row, answers in zip(tokens, targets, strict=True):
        pairs = dict(zip(row[0:32:2].tolist(), row[1:32:2].tolist(), strict=True))
        asked = np.flatnonzero(answers >= 0)
        assert len(pairs) == 16
        assert {int(row[i]): int(answers[i]) for i in asked} == pairs
        assert (asked >= 32).all()


def test_training_begins_on_short_sequences_and_ends_on_full_ones_with_equal_tokens():
    task = RecallTask(sequence_length=64, num_pairs=16, vocab_size=128, easier=2, ramp_tokens=2048)
    batches = task.train_batches(8, seed=0)
    shapes = [tuple(next(batches).tokens.shape) for _ in range(6)]
    assert shapes == [(32, 16), (32, 16), (16, 32), (16, 32), (8, 64), (8, 64)]


def test_a_model_that_knows_the_answers_scores_one_and_a_uniform_one_scores_chance():
    task = RecallTask(**EXAMPLE, score_sequences=50)

    def knowing(tokens):
        logits = torch.zeros(*tokens.shape, 8)
        for row, sequence in enumerate(tokens.tolist()):
            for place, token in enumerate(sequence[4:], start=4):
                if token:
                    logits[row, place, sequence[sequence.index(token) + 1]] = 100.0
        return logits

    assert task.score(knowing, 16)["recall"].value == 1.0
    assert task.score(knowing, 16)["recall_bits"].value == pytest.approx(0.0, abs=1e-6)
    uniform = task.score(lambda tokens: torch.zeros(*tokens.shape, 8), 16)
    assert uniform["recall_bits"].value == pytest.approx(3.0)
    assert uniform["recall_bits"].n == 50


def test_weighted_draws_prefer_heavy_indices_and_never_repeat():
    drawn = draw_without_replacement(np.random.default_rng(0), np.array([8.0, 1.0, 1.0]), 4000, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert (drawn[:, 0] == 0).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_pairs": 0}, "num_pairs must be a positive integer, but got 0."),
        ({"num_pairs": "four"}, "num_pairs must be a positive integer, but got 'four'."),
        ({"sequence_length": 32, "num_pairs": 16}, "sequence_length must be even and at least 4 * num_pairs"),
        ({"vocab_size": 20, "num_pairs": 16, "sequence_length": 64}, "vocab_size must be at least 34"),
        ({"filler": "noise"}, "filler must be 'random' or 'blank', but got 'noise'."),
        ({"power": 0}, "power must be a number above 0 and at most 1, but got 0."),
        ({"num_pairs": 2, "easier": 2}, "easier must be an integer from 0 to 1, but got 2."),
    ],
)
def test_options_that_do_not_hold_are_one_sentence(options, sentence):
    with pytest.raises(TaskError) as error:
        RecallTask(**options)
    assert sentence in str(error.value)
