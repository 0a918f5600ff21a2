"""What holds of every task. A new task adds its line to `cases` and gets the whole suite."""

import itertools
import math

import pytest
import torch

from nas.tasks import TASKS, Score, TaskError, make_task, make_tasks, task_configs

RECALL = {"sequence_length": 16, "num_pairs": 4, "vocab_size": 32, "score_sequences": 20}
# Every task of the table, with options that make it small; `cache` stands for a folder of the test session.
CASES = {
    "text": {"sequence_length": 32, "score_tokens": 640, "cache_dir": "cache"},
    "recall": RECALL,
    "mixed": {
        "text": {"sequence_length": 32, "score_tokens": 640, "cache_dir": "cache"},
        "recall": RECALL,
    },
    "recall_capacity": {"fewest_pairs": 2, "most_pairs": 8, "vocab_size": 32, "score_sequences": 20},
    "in_context_recall": {"sequence_length": 16, "score_sequences": 20},
    "fuzzy_recall": {
        **{"sequence_length": 24, "key_size": 2, "value_size": 2},
        **{"train_sequences": 256, "score_sequences": 20},
    },
    "noisy_recall": {"sequence_length": 16, "score_sequences": 20},
    "selective_copying": {"sequence_length": 24, "num_tokens": 5, "score_sequences": 20},
    "compression": {"num_symbols": 6, "sequence_length": 8, "score_sequences": 20},
    "memorisation": {"vocab_size": 32, "sequence_length": 8, "score_sequences": 20},
    "parity": {"sequence_length": 10, "long_length": 20, "score_sequences": 20},
    "s3": {"sequence_length": 10, "long_length": 20, "score_sequences": 20},
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(params=TASKS)
def task(request, cache):
    def filled(options):
        return {
            key: filled(value) if isinstance(value, dict) else cache if value == "cache" else value
            for key, value in options.items()
        }

    made = make_task(request.param, filled(CASES[request.param]))
    made.prepare()
    return made


def first(task, count, *, seed=0, batch_size=4):
    return list(itertools.islice(task.train_batches(batch_size, seed), count))


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(task):
    once, again, other = first(task, 6), first(task, 6), first(task, 6, seed=1)
    assert all(
        torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets) for a, b in zip(once, again, strict=True)
    )
    assert any(
        a.tokens.shape != b.tokens.shape or not torch.equal(a.tokens, b.tokens)
        for a, b in zip(once, other, strict=True)
    )


def test_batches_hold_the_promised_tokens_of_the_vocabulary(task):
    for batch in first(task, 8):
        assert batch.tokens.dtype == batch.targets.dtype == torch.int64
        assert batch.targets.shape[:2] == batch.tokens.shape
        assert batch.tokens.numel() == pytest.approx(4 * task.sequence_length, rel=0.1)
        assert 0 <= batch.tokens.min() and batch.tokens.max() < task.vocab_size
        groups = batch.targets.shape[2] if batch.targets.ndim == 3 else 1
        assert task.vocab_size % groups == 0
        asked = batch.targets[batch.targets != -100]
        assert len(asked) > 0
        assert 0 <= asked.min() and asked.max() < task.vocab_size // groups


def test_every_metric_is_scored_with_its_spread_and_count(task):
    uniform = lambda tokens: torch.zeros(*tokens.shape, task.vocab_size)  # noqa: E731
    scores = task.score(uniform, 4)
    assert list(scores) == [metric.name for metric in task.metrics]
    for score in scores.values():
        assert isinstance(score, Score)
        assert math.isfinite(score.value) and math.isfinite(score.spread) and score.n > 1


def test_the_score_depends_on_the_batch_size_in_no_digit_that_counts(task):
    torch.manual_seed(0)
    table = torch.randn(task.vocab_size, task.vocab_size)
    by_size = [task.score(lambda tokens: table[tokens], size) for size in (3, 16)]
    for name in by_size[0]:
        assert by_size[0][name].value == pytest.approx(by_size[1][name].value, rel=1e-5)


def test_metrics_say_unit_direction_and_meaning(task):
    for metric in task.metrics:
        assert metric.unit and metric.help
        assert metric.direction in ("minimize", "maximize")
    assert task.describe()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("texts", {}, "Unknown task 'texts'. Did you mean 'text'?"),
        ("text", {"tokeniser": "bytes"}, "Unknown option 'tokeniser' of task 'text'. Did you mean 'tokenizer'?"),
        ("mixed", {"text": {}}, "task 'mixed' needs the options of 'recall' as a mapping, but got None."),
        ("mixed", {"text": {}, "recall": {"pairs": 3}}, "Did you mean 'num_pairs'?"),
    ],
)
def test_unknown_names_are_one_sentence_with_the_nearest(name, options, sentence):
    with pytest.raises(TaskError) as error:
        make_task(name, options)
    assert sentence in str(error.value)


def test_a_file_with_runs_gives_a_task_for_each():
    tasks = make_tasks({"runs": {"words": {"name": "text"}, "easy": {"name": "recall", "num_pairs": 4}}})
    assert list(tasks) == ["words", "easy"]
    assert list(make_tasks({"name": "recall"})) == ["recall"]
    with pytest.raises(TaskError, match="needs a name"):
        make_tasks({"num_pairs": 4})


def test_each_task_of_a_file_is_a_file_of_one_task_again():
    config = {"runs": {"words": {"name": "text", "sequence_length": 64}, "easy": RECALL | {"name": "recall"}}}
    for key, alone in task_configs(config).items():
        (task,) = make_tasks(alone).values()
        assert task.describe() == make_tasks(config)[key].describe()


@pytest.mark.parametrize(
    ("runs", "metric"),
    [
        ({"easy": {"name": "recall", "num_pairs": 4}, "hard": {"name": "recall"}}, "recall"),
        ({"easy": {"name": "text"}, "hard": {"name": "mixed", "text": {}, "recall": {}}}, "text_loss"),
    ],
)
def test_two_tasks_that_score_the_same_number_are_refused_in_one_sentence(runs, metric):
    with pytest.raises(TaskError) as error:
        make_tasks({"runs": runs})
    assert f"but 'easy' and 'hard' both score {metric};" in str(error.value)
