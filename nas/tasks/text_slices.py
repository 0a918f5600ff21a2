"""The loss on text, taken apart: what the context has said before, what is new, and what stands late.

Source: Arora et al., Zoology, arXiv 2312.04927, section 3, which finds most of the difference between mixers in tokens
that end a bigram seen earlier in the context. There, bigrams that training repeats often are left out; here every
repeated one counts, so that the slices need nothing but the held-out sequence.
"""

from __future__ import annotations

import numpy as np

from nas.tasks.base import Metric, Score, TaskError, ratio_score

REPEATED = Metric(
    name="text_loss_repeated",
    unit="bits/byte",
    direction="minimize",
    help="held-out text, tokens whose n-gram came earlier in the sequence: what recall is good for",
)
NEW = Metric(
    name="text_loss_new", unit="bits/byte", direction="minimize", help="held-out text, tokens whose n-gram is new"
)
LATE = Metric(
    name="text_loss_late",
    unit="bits/byte",
    direction="minimize",
    help="held-out text, the last quarter of each sequence: what a long context is good for",
)
SLICES = (REPEATED, NEW, LATE)


def repeated(tokens: np.ndarray, targets: np.ndarray, order: int) -> np.ndarray:
    """Whether the n-gram that ends with each target came earlier in the same sequence, bool [N, T].

    tokens, targets: [N, T], a sequence and the same shifted by one. order: tokens of the n-gram, the target included; 2
    is the published bigram. Where a sequence has not yet that many tokens, nothing is repeated.
    """
    ids = targets.astype(np.int64)
    for back in range(order - 1):
        earlier = np.roll(tokens, back, axis=1).astype(np.int64)
        # Renumbered after each token, so that the number of an n-gram stays small.
        ids = np.unique(ids * (int(tokens.max()) + 1) + earlier, return_inverse=True)[1].reshape(ids.shape)
    first = order - 2
    found = np.zeros(ids.shape, dtype=bool)
    ids = ids[:, first:]
    by_id = np.argsort(ids, axis=1, kind="stable")
    in_order = np.take_along_axis(ids, by_id, axis=1)
    same_as_before = np.zeros(ids.shape, dtype=bool)
    same_as_before[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    np.put_along_axis(found[:, first:], by_id, same_as_before, axis=1)
    return found


def score_slices(bits: np.ndarray, sizes: np.ndarray, is_repeated: np.ndarray) -> dict[str, Score]:
    """Bits per byte of every slice; an item is a sequence.

    bits, sizes, is_repeated: [N, T], bits of each target, bytes of text behind it, and what `repeated` says.
    Raises TaskError where no n-gram is repeated.
    """
    late = np.zeros(bits.shape, dtype=bool)
    late[:, 3 * bits.shape[1] // 4 :] = True
    if not (sizes * is_repeated).any():
        raise TaskError(
            "The held-out text must repeat an n-gram within a sequence, but none does; give a longer sequence_length "
            "or a smaller ngram."
        )
    slices = zip(SLICES, (is_repeated, ~is_repeated, late), strict=True)
    return {metric.name: ratio_score((bits * m).sum(1), (sizes * m).sum(1)) for metric, m in slices}
