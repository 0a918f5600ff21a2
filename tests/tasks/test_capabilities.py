"""The capability tasks: one exact example each, a hand-written solver that is always right, and the level of chance."""

from typing import Any

import numpy as np
import pytest
import torch

from nas.tasks import (
    CompressionTask,
    FuzzyRecallTask,
    InContextRecallTask,
    MemorisationTask,
    NoisyRecallTask,
    ParityTask,
    S3Task,
    SelectiveCopyingTask,
    TaskError,
    make_task,
)
from nas.tasks.s3 import ELEMENTS

SURE = 100.0

SMALL = {
    "in_context_recall": {"vocab_size": 16, "sequence_length": 32},
    "noisy_recall": {"vocab_size": 24, "noise_vocab_size": 8, "noise": 0.4, "sequence_length": 32},
    "fuzzy_recall": {"vocab_size": 12, "key_size": 3, "value_size": 3, "sequence_length": 48},
    "selective_copying": {"vocab_size": 10, "num_tokens": 6, "sequence_length": 40},
    "compression": {"num_symbols": 8, "sequence_length": 12},
    "memorisation": {"vocab_size": 32, "sequence_length": 16, "train_sequences": None},
    "parity": {"sequence_length": 12, "long_length": 40},
    "s3": {"sequence_length": 12, "long_length": 40},
}


def small(name: str, **options: object) -> Any:
    return make_task(name, SMALL[name] | {"score_sequences": 64} | options)


def from_rows(task, answer):
    """A model that says `answer(tokens of a sequence) -> {place: token}`."""

    def model(tokens):
        logits = torch.zeros(*tokens.shape, task.vocab_size)
        for row, sequence in enumerate(tokens.tolist()):
            for place, token in answer(sequence).items():
                logits[row, place, token] = SURE
        return logits

    return model


def recalling(task):
    """Each key is answered with what followed it the last time."""

    def answer(sequence):
        value_of, said = {}, {}
        for place in range(0, len(sequence), 2):
            key, value = sequence[place], sequence[place + 1]
            said[place] = value_of.get(key, 0)
            if key < task.num_keys:
                value_of[key] = value
        return said

    return from_rows(task, answer)


def recalling_fuzzily(task):
    """Reads keys and values as runs of key tokens and of value tokens, and finishes a value it has seen."""
    first_value, pad = task.num_key_tokens, task.vocab_size - 1

    def answer(sequence):
        value_of, said, key, value = {}, {}, (), ()
        for place, token in enumerate(sequence):
            if token == pad:
                continue
            if token < first_value:
                if value:
                    value_of[key] = value
                    key, value = (), ()
                key += (token,)
            else:
                value += (token,)
            known = value_of.get(key, ())
            if len(known) > len(value):
                said[place] = known[len(value)]
        return said

    return from_rows(task, answer)


def copying(task):
    blank, copy = task.vocab_size - 2, task.vocab_size - 1

    def answer(sequence):
        begin = sequence.index(copy)
        content = [token for token in sequence[:begin] if token != blank]
        return {begin + 1 + k: token for k, token in enumerate(content)}

    return from_rows(task, answer)


def compressing(task):
    def model(tokens):
        logits = torch.zeros(*tokens.shape, task.vocab_size)
        for row, sequence in enumerate(tokens.tolist()):
            for group, token in enumerate(sequence[:-1]):
                logits[row, -1, group * task.num_symbols + token] = SURE
        return logits

    return model


def knowing(task):
    return from_rows(task, lambda s: {place: int(task.facts[s[place - 1]]) for place in range(1, len(s), 2)})


def counting(task):
    return from_rows(task, lambda s: {place: sum(s[: place + 1]) % 2 for place in range(len(s))})


def permuting(task):
    """Moves three things by hand."""

    def answer(sequence):
        things, said = (0, 1, 2), {}
        for place, token in enumerate(sequence):
            move = ELEMENTS[token]
            things = tuple(move[thing] for thing in things)
            said[place] = ELEMENTS.index(things)
        return said

    return from_rows(task, answer)


SOLVERS = {
    "in_context_recall": recalling,
    "noisy_recall": recalling,
    "fuzzy_recall": recalling_fuzzily,
    "selective_copying": copying,
    "compression": compressing,
    "memorisation": knowing,
    "parity": counting,
    "s3": permuting,
}


def first_sequence(task, seed=0):
    tokens, targets = task.sequences(np.random.default_rng(seed), 1)
    return tokens[0].tolist(), targets[0].tolist()


_ = -100


@pytest.mark.parametrize(
    ("task", "seed", "tokens", "targets"),
    [
        (
            InContextRecallTask(vocab_size=8, sequence_length=12),
            3,
            [0, 7, 3, 4, 3, 4, 2, 4, 0, 7, 2, 4],
            [_, _, _, _, 4, _, _, _, 7, _, 4, _],
        ),
        (
            NoisyRecallTask(vocab_size=8, noise_vocab_size=2, noise=0.4, sequence_length=12),
            3,
            [0, 5, 0, 5, 7, 6, 2, 3, 6, 7, 2, 3],
            [_, _, 5, _, _, _, _, _, _, _, 3, _],
        ),
        (
            FuzzyRecallTask(vocab_size=8, key_size=2, value_size=2, sequence_length=14),
            0,
            [7, 7, 7, 1, 2, 3, 2, 0, 6, 5, 2, 0, 6, 5],
            [_, _, _, _, _, _, _, _, _, _, _, 6, 5, _],
        ),
        (
            SelectiveCopyingTask(vocab_size=6, num_tokens=3, sequence_length=10),
            0,
            [3, 2, 4, 4, 2, 4, 5, 4, 4, 4],
            [_, _, _, _, _, _, _, 3, 2, 2],
        ),
        (
            MemorisationTask(vocab_size=8, sequence_length=8),
            0,
            [2, 7, 1, 7, 1, 7, 0, 7],
            [_, 6, _, 3, _, 3, _, 5],
        ),
        (ParityTask(sequence_length=8, long_length=9), 0, [1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1, 1]),
        (S3Task(sequence_length=8, long_length=9), 0, [5, 3, 3, 1, 1, 0, 0, 0], [5, 1, 2, 4, 2, 2, 2, 2]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_example_of_the_docstring_is_exact(task, seed, tokens, targets):
    assert first_sequence(task, seed) == (tokens, targets)


def test_the_example_of_compression_asks_every_group_at_the_last_token():
    tokens, targets = first_sequence(CompressionTask(num_symbols=4, sequence_length=6))
    assert tokens == [2, 1, 1, 0, 0, 3]
    assert targets[-1] == [2, 1, 1, 0, 0]
    assert all(answer == [_] * 5 for answer in targets[:-1])


@pytest.mark.parametrize("name", SMALL)
def test_whoever_knows_the_rule_is_always_right(name):
    task = small(name)
    scores = task.score(SOLVERS[name](task), 16)
    assert scores[name].value == 1.0
    assert scores[f"{name}_bits"].value == pytest.approx(0.0, abs=1e-6)
    assert scores.get(f"{name}_long", scores[name]).value == 1.0


@pytest.mark.parametrize("name", SMALL)
def test_a_guess_among_the_possible_answers_scores_chance(name):
    task = small(name, score_sequences=400)
    _tokens, targets = task.sequences(np.random.default_rng(1), 400)
    answers = np.unique(targets[targets != _])
    assert len(answers) == round(1 / task.chance)
    generator = torch.Generator().manual_seed(0)
    groups = targets.shape[2] if targets.ndim == 3 else 1

    def guessing(tokens):
        logits = torch.full((*tokens.shape, groups, task.vocab_size // groups), -SURE)
        logits[..., answers] = torch.rand(*tokens.shape, groups, len(answers), generator=generator)
        return logits.flatten(-2)

    for metric, score in task.score(guessing, 32).items():
        if not metric.endswith("_bits"):
            assert score.value == pytest.approx(task.chance, abs=max(4 * score.spread, 0.02))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "memorisation"])
def test_no_held_out_sequence_is_trained_on(name):
    task = small(name, score_sequences=200) if name != "parity" else small(name, sequence_length=39)
    held_out = {row.tobytes() for row in task.sequences(np.random.default_rng(2**62 + 11), 200)[0]}
    for seed in range(3):
        tokens, _targets = task.training_sequences(np.random.default_rng(seed), 500)
        assert not held_out & {row.tobytes() for row in tokens}


def test_a_training_set_of_a_size_is_repeated_in_another_order():
    task = small("memorisation", train_sequences=6)
    batches = task.train_batches(3, 0)
    epochs = [[row.tobytes() for _ in range(2) for row in next(batches).tokens.numpy()] for _ in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("name", ["in_context_recall", "noisy_recall", "fuzzy_recall"])
def test_published_supervision_asks_for_every_next_token_in_training_alone(name):
    task = small(name, supervise="all")
    tokens, targets = task.training_sequences(np.random.default_rng(0), 5)
    assert (targets[:, :-1] == tokens[:, 1:]).all() and (targets[:, -1] == _).all()
    few = (task.sequences(np.random.default_rng(0), 5)[1] != _).sum()
    assert 0 < few < (targets != _).sum() / 2


def test_every_sequence_of_recall_asks_for_a_key_that_came_before():
    for name in ("in_context_recall", "noisy_recall", "fuzzy_recall"):
        _tokens, targets = small(name).sequences(np.random.default_rng(4), 300)
        assert (targets != _).any(axis=1).all()


def test_noise_makes_up_its_share_of_the_pairs():
    tokens, _targets = small("noisy_recall", noise=0.25).sequences(np.random.default_rng(0), 2000)
    assert (tokens >= 16).mean() == pytest.approx(0.25 * 14.06 / 16, abs=0.01)  # two pairs are never noise


def test_keys_of_training_have_all_sizes_and_those_of_the_score_the_largest():
    task = small("fuzzy_recall")

    def sizes(sequences):
        found = set()
        for row in sequences[0].tolist():
            runs = "".join("k" if t < task.num_key_tokens else " " for t in row).split()
            found |= {len(run) for run in runs}
        return found

    assert sizes(task.sequences(np.random.default_rng(0), 50)) == {3}
    assert sizes(task.training_sequences(np.random.default_rng(0), 50)) == {1, 2, 3}


def test_long_words_are_scored_only_beyond_the_length_of_training():
    task = small("parity")
    by_count = counting(task)

    def short_sighted(tokens):
        logits = by_count(tokens)
        logits[:, 12:] = torch.tensor([SURE, 0.0])
        return logits

    scores = task.score(short_sighted, 8)
    assert scores["parity"].value == 1.0
    assert scores["parity_long"].value == pytest.approx(0.5, abs=0.05)


def test_the_group_of_s3_does_not_commute_and_every_element_has_an_inverse():
    table = S3Task().table
    assert (table != table.T).any()
    assert (table == 0).sum() == 6
    assert all(sorted(row) == list(range(6)) for row in table.tolist())


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("in_context_recall", {"sequence_length": 7}, "sequence_length must be even and at least 4, but got 7."),
        ("in_context_recall", {"noise": 0.5}, "noise=0.5 needs a noise_vocab_size of at least 1, but got 0."),
        ("in_context_recall", {"supervise": "some"}, "supervise must be 'answers' or 'all', but got 'some'."),
        ("noisy_recall", {"vocab_size": 18}, "vocab_size must leave 4 ids or more beside noise_vocab_size=16"),
        ("noisy_recall", {"noise": 1}, "noise must be a number from 0 to below 1, but got 1."),
        ("fuzzy_recall", {"sequence_length": 11}, "at least 2 * (key_size + value_size) = 12, but got 11."),
        ("fuzzy_recall", {"vocab_size": 7}, "vocab_size must be at least 8 for keys of 3"),
        ("selective_copying", {"num_tokens": 128}, "at least 2 * num_tokens + 1 = 257, got 256."),
        ("compression", {"num_symbols": 2}, "num_symbols must be at least 3"),
        ("memorisation", {"sequence_length": 9}, "sequence_length must be even, but got 9."),
        ("parity", {"long_length": 40}, "long_length must be above sequence_length=40, the length of training"),
        ("s3", {"train_sequences": 0}, "train_sequences must be a positive integer, but got 0."),
    ],
)
def test_options_that_do_not_hold_are_one_sentence(name, options, sentence):
    with pytest.raises(TaskError) as error:
        make_task(name, options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
