"""Slices of the text loss: which tokens repeat an n-gram, exactly, and what each slice costs."""

import numpy as np
import pytest

from nas.tasks import TaskError
from nas.tasks.text_slices import repeated, score_slices


def which(text: str, order: int) -> str:
    """The letters of a text that end a repeated n-gram; the first letter is no target."""
    ids = np.frombuffer(text.encode(), dtype=np.uint8)[None]
    found = repeated(ids[:, :-1], ids[:, 1:], order)[0]
    return "".join(letter for letter, is_repeated in zip(text[1:], found, strict=True) if is_repeated)


@pytest.mark.parametrize(
    ("text", "order", "found"),
    [
        ("abcabd", 2, "b"),  # ab comes again, bd does not
        ("abcabc", 2, "bc"),
        ("abcabc", 3, "c"),
        ("aaaa", 2, "aa"),
        ("abcdef", 2, ""),
        ("abxabyab", 2, "bb"),
    ],
)
def test_a_token_is_repeated_where_its_ngram_came_earlier_in_the_sequence(text, order, found):
    assert which(text, order) == found


def test_what_one_sequence_holds_repeats_nothing_in_another():
    tokens, targets = np.array([[1, 2], [1, 2]]), np.array([[2, 3], [2, 3]])
    assert not repeated(tokens, targets, 2).any()


def test_repeats_agree_with_a_search_by_hand():
    rng = np.random.default_rng(0)
    stream = rng.integers(3, size=(5, 41))
    for order in (2, 3, 5):
        found = repeated(stream[:, :-1], stream[:, 1:], order)
        for row, is_repeated in zip(stream.tolist(), found, strict=True):
            seen = set()
            for end in range(order, len(row) + 1):
                gram = tuple(row[end - order : end])
                assert is_repeated[end - 2] == (gram in seen)
                seen.add(gram)
            assert not is_repeated[: order - 2].any()


def test_slices_are_bits_per_byte_of_their_tokens():
    bits = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    sizes = np.array([[1.0, 1.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    is_repeated = np.array([[False, True, True, False], [False, False, False, True]])
    scores = score_slices(bits, sizes, is_repeated)
    assert scores["text_loss_repeated"].value == pytest.approx((2 + 3 + 8) / (1 + 2 + 1))
    assert scores["text_loss_new"].value == pytest.approx((1 + 4 + 5 + 6 + 7) / (1 + 4 + 1 + 1 + 1))
    assert scores["text_loss_late"].value == pytest.approx((4 + 8) / (4 + 1))
    assert {score.n for score in scores.values()} == {2}


def test_text_that_repeats_nothing_is_one_sentence():
    ones = np.ones((1, 4))
    with pytest.raises(TaskError, match="must repeat an n-gram within a sequence, but none does; give a longer"):
        score_slices(ones, ones, np.zeros((1, 4), dtype=bool))
