"""Text: packing, splitting, bits per byte, both tokenizers, sources, and what goes wrong with them."""

import json

import numpy as np
import pytest
import torch

from nas.tasks import TaskError, TextTask
from nas.tasks import corpus as corpus_module
from nas.tasks.base import ratio_score
from nas.tasks.text import Budget, pack, windows
from nas.tasks.tokenization import BpeTokenization, ByteTokenization


@pytest.fixture
def folder(tmp_path):
    """Forty documents of json lines, each with its own word so that a split is visible."""
    rows = [{"id": i, "text": f"word{i} " * 40} for i in range(40)]
    source = tmp_path / "data"
    source.mkdir()
    (source / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    return source


def task_of(folder, tmp_path, **options):
    settings = {"sequence_length": 16, "validation_share": 0.3, "cache_dir": str(tmp_path / "cache")}
    return TextTask(**{"dataset": str(folder), **settings, **options})


def test_windows_are_the_stream_and_the_stream_shifted_by_one():
    batch = windows(np.arange(10, dtype=np.uint8), np.array([0, 4]), 3)
    assert batch.tokens.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert batch.targets.tolist() == [[1, 2, 3], [5, 6, 7]]


def test_documents_are_packed_end_to_end_with_an_end_each(tmp_path):
    ids = ByteTokenization().encode(["ab", "é"])
    assert pack(ids, tmp_path / "x.npy", np.uint8) == 6
    assert np.load(tmp_path / "x.npy").tolist() == [97, 98, 0, 0xC3, 0xA9, 0]


def test_a_uniform_model_over_bytes_needs_eight_bits_a_byte(folder, tmp_path):
    score = task_of(folder, tmp_path).score(lambda tokens: torch.zeros(*tokens.shape, 256), 8)["text_loss"]
    assert score.value == pytest.approx(8.0)
    assert score.spread == pytest.approx(0.0, abs=1e-6)


def test_bits_per_byte_with_bpe_counts_the_bytes_of_each_token(folder, tmp_path):
    task = task_of(folder, tmp_path, tokenizer="bpe", bpe_size=300)
    targets = torch.cat([batch.targets for batch in task.held_out_batches(8)])
    size = task.token_bytes()[targets.numpy()].sum()
    score = task.score(lambda tokens: torch.zeros(*tokens.shape, 300), 8)["text_loss"]
    assert score.value == pytest.approx(np.log2(300) * targets.numel() / size, rel=1e-6)


def test_bpe_is_lossless_in_bytes_and_the_same_each_time():
    texts = ["naïve café → tea", "plain text\n\twith tabs"]
    first, second = (BpeTokenization.trained(texts * 5, 290) for _ in range(2))
    for text, ids, again in zip(texts, first.encode(texts), second.encode(texts), strict=True):
        assert first.token_bytes[ids].sum() == len(text.encode()) + 1
        assert ids.tolist() == again.tolist()


def test_no_document_is_in_both_splits_and_none_is_lost(folder, tmp_path):
    task = task_of(folder, tmp_path)
    train, held_out = (set(task._documents(part)) for part in ("train", "validation"))
    assert not train & held_out
    assert len(train | held_out) == 40


def test_a_second_preparation_reads_the_cache(folder, tmp_path, monkeypatch):
    first = task_of(folder, tmp_path)
    first.prepare()
    monkeypatch.setattr(corpus_module.Source, "documents", lambda *_: pytest.fail("the data set was read again"))
    second = task_of(folder, tmp_path)
    assert torch.equal(next(first.train_batches(4, 1)).tokens, next(second.train_batches(4, 1)).tokens)


def test_streaming_reads_the_same_documents_up_to_max_bytes(folder, tmp_path):
    whole = list(task_of(folder, tmp_path)._documents("train"))
    part = list(task_of(folder, tmp_path, streaming=True, max_bytes=6000)._documents("train"))
    assert 0 < len(part) < len(whole)
    assert part == whole[: len(part)]


def test_a_budget_ends_after_the_document_that_exceeds_it():
    assert [Budget(3)(d) for d in ["ab"]] == [True]
    budget = Budget(3)
    assert [budget(d) for d in ["ab", "cd", "ef"]] == [True, True, False]


def test_the_library_of_python_is_read_without_its_tests():
    files = corpus_module.stdlib_files()
    assert 2_000_000 < sum(f.stat().st_size for f in files) < 4_000_000
    assert not [f for f in files if "test" in f.parts or "site-packages" in f.parts]
    assert files == corpus_module.stdlib_files()


def test_a_ratio_has_the_standard_error_of_its_items():
    score = ratio_score([1, 3], [1, 1])
    assert (score.value, score.n) == (2.0, 2)
    assert score.spread == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokenizer": "byte"}, "tokenizer must be one of bytes, bpe, but got 'byte'."),
        ({"tokenizer": "bpe", "bpe_size": 100}, "bpe_size must be at least 257"),
        ({"streaming": True}, "streaming needs max_bytes"),
        ({"validation_share": 1.5}, "validation_share must lie between 0 and 1, but got 1.5."),
        ({"sequence_length": -1}, "sequence_length must be a positive integer, but got -1."),
    ],
)
def test_options_that_do_not_hold_are_one_sentence(options, sentence):
    with pytest.raises(TaskError) as error:
        TextTask(**options)
    assert sentence in str(error.value)


def test_a_path_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(TaskError, match="is no file or folder here"):
        TextTask(dataset="./nowhere.txt", cache_dir=str(tmp_path)).prepare()


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub")

    monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
    with pytest.raises(TaskError) as error:
        TextTask(dataset="some/set", cache_dir=str(tmp_path)).prepare()
    assert "ConnectionError" in str(error.value)
    assert "dataset=stdlib" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [OSError, RuntimeError, type("HTTPError", (Exception,), {})])
def test_an_error_of_any_library_that_reads_is_one_sentence(tmp_path, monkeypatch, kind):
    import datasets

    def broken(*_, **__):
        raise kind("503 of the\nserver")

    monkeypatch.setattr(datasets, "get_dataset_split_names", broken)
    with pytest.raises(TaskError) as error:
        TextTask(dataset="some/set", cache_dir=str(tmp_path)).prepare()
    assert f"({kind.__name__}: 503 of the server)" in str(error.value)
    assert "check its name and the connection" in str(error.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("torn.json", b'{"text": "a"}\n{"text": ', "could not be read (ArrowInvalid: JSON parse error"),
        ("torn.parquet", b"PAR1 and nothing", "could not be read (ArrowInvalid: Parquet magic bytes"),
        ("empty.json", b"", "must hold text, but all its files are empty."),
        ("nested.json", b'{"text": "a"}\n{"text": {"b": 3}}\n', "must hold text in every row, but one has"),
        ("numbers.json", b'{"a": 1}', "must have a column of text, but its first row has none (a)."),
    ],
)
def test_a_malformed_file_is_one_sentence_and_nothing_else(tmp_path, capfd, streaming, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    settings = {"cache_dir": str(tmp_path / "cache"), "streaming": streaming, "max_bytes": 1000}
    with pytest.raises(TaskError) as error:
        TextTask(dataset=str(tmp_path / name), **settings).prepare()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_an_ambiguous_column_is_one_sentence_with_the_choices(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"question": "a", "answer": "b"}))
    with pytest.raises(TaskError, match=r"2 text columns \(question, answer\)"):
        TextTask(dataset=str(tmp_path / "rows.json"), cache_dir=str(tmp_path / "cache")).prepare()


def test_too_little_text_is_one_sentence(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"text": "short"}))
    with pytest.raises(TaskError, match="too few for sequence_length=256"):
        TextTask(dataset=str(tmp_path / "rows.json"), cache_dir=str(tmp_path / "cache")).prepare()
