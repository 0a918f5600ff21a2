"""Recall capacity: the interpolation is exact, designs that hold so many pairs score that number."""

import itertools

import pytest
import torch

from nas.tasks import RecallCapacityTask, TaskError
from nas.tasks.recall_capacity import capacity

SMALL = {"fewest_pairs": 2, "most_pairs": 8, "vocab_size": 32, "ramp_tokens": 768, "score_sequences": 64}


def remembering(task, held: int):
    """Knows the last `held` pairs that it read, and guesses the first value for others."""

    def model(tokens):
        logits = torch.zeros(*tokens.shape, task.vocab_size)
        pairs = tokens.shape[1] // task.tokens_per_pair
        for row, sequence in enumerate(tokens.tolist()):
            listed = list(zip(sequence[0 : 2 * pairs : 2], sequence[1 : 2 * pairs : 2], strict=True))
            known = dict(listed[-held:]) if held else {}
            for place, token in enumerate(sequence):
                logits[row, place, known.get(token, task.vocab_size // 2)] = 100.0
        return logits

    return model


@pytest.mark.parametrize(
    ("accuracies", "pairs"),
    [
        ([1.0, 1.0, 1.0], 8.0),  # all that the sweep can say
        ([1.0, 0.9, 0.2], 4.0),
        ([1.0, 0.8, 0.2], 2 * 2**0.5),  # half of the way from 2 to 4
        ([0.5, 1.0, 1.0], 0.4),  # a fifth of the way from nothing to 2
        ([0.0, 0.0, 0.0], 0.2),
    ],
)
def test_the_capacity_lies_where_accuracy_first_falls_through_nine_tenths(accuracies, pairs):
    assert capacity((2, 4, 8), accuracies) == pytest.approx(pairs)


def test_a_design_that_holds_all_pairs_scores_the_most_and_one_that_holds_some_about_those():
    task = RecallCapacityTask(**SMALL)
    whole = task.score(remembering(task, 8), 16)
    assert whole["recall_capacity"].value == 8.0 and whole["recall_capacity"].spread == 0.0
    assert whole["recall_capacity_bits"].value == pytest.approx(0.0, abs=1e-6)
    part = task.score(remembering(task, 4), 16)["recall_capacity"]
    assert 4.0 < part.value < 5.5 and 0.0 <= part.spread < 0.5 and part.n == 3 * 64


def test_a_guess_scores_the_stated_chance():
    task = RecallCapacityTask(**SMALL)
    score = task.score(remembering(task, 0), 16)["recall_capacity"]
    assert score.value == pytest.approx(task.chance, abs=4 * score.spread + 0.01)


def test_difficulties_come_in_one_after_the_other_and_then_alternate_with_equal_tokens():
    task = RecallCapacityTask(**SMALL)
    shapes = [tuple(batch.tokens.shape) for batch in itertools.islice(task.train_batches(8, 0), 9)]
    easy, middle, hard = (32, 8), (16, 16), (8, 32)
    assert shapes == [easy, middle, hard, easy, middle, hard, easy, middle, hard]
    gentle = RecallCapacityTask(**{**SMALL, "ramp_tokens": 1536})
    shapes = [tuple(batch.tokens.shape) for batch in itertools.islice(gentle.train_batches(8, 0), 6)]
    assert shapes == [easy, easy, easy, middle, middle, hard]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"most_pairs": 4}, "most_pairs must be fewest_pairs=4 times 2, 4, 8 or a higher power of two, but got 4."),
        ({"most_pairs": 24}, "but got 24."),
        ({"fewest_pairs": 0}, "fewest_pairs must be a positive integer, but got 0."),
        ({"tokens_per_pair": 3}, "at least 4 * num_pairs"),
        ({"vocab_size": 64}, "vocab_size must be at least 130 for 64 pairs"),
    ],
)
def test_options_that_do_not_hold_are_one_sentence(options, sentence):
    with pytest.raises(TaskError) as error:
        RecallCapacityTask(**options)
    assert sentence in str(error.value)
