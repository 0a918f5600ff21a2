"""Next-token prediction on text, scored in bits per byte on documents that were held out.

Decisions here:
* Prepared once: documents are split into training and validation, tokenised, packed end to end and stored as flat
  arrays that are mapped, not loaded. The folder is named after everything that shaped it.
* A training epoch cuts the stream into windows at a fresh random offset and shuffles them.
* The held-out windows lie evenly over all held-out documents and never change.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nas.tasks.base import Batch, Metric, Model, Score, TaskError, check_counts, make_batch, ratio_score
from nas.tasks.corpus import STDLIB, Source
from nas.tasks.text_slices import SLICES, repeated, score_slices
from nas.tasks.tokenization import BpeTokenization, ByteTokenization, Tokenization

TEXT_LOSS = Metric(
    name="text_loss", unit="bits/byte", direction="minimize", help="loss on held-out text, -log2 p per byte"
)

CACHE_VARIABLE = "HYBRID_NAS_CACHE"


def cache_folder() -> Path:
    """Where what was made once is kept between runs: $HYBRID_NAS_CACHE, or ~/.cache/hybrid_nas."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/hybrid_nas").expanduser()


FORMAT = 1
BPE_TRAINING_CHARACTERS = 20_000_000
# By tokenizer, the tokens of the n-gram that splits the loss: about as much text either way.
NGRAMS = {"bytes": 6, "bpe": 2}


class TextTask:
    """Text of any size and source.

    Args:
        dataset: "stdlib" (the running Python's sources, needs nothing), a local file or folder (parquet, json, text),
            or a name on the Hub.
        config: the configuration of a Hub data set.
        split: the Hub split to train on. Its own `validation` split is held out where there is one; elsewhere
            `validation_share` of the documents is.
        column: the column that holds the text; found when it is obvious.
        streaming: read while downloading, up to `max_bytes`, rather than download the whole first.
        tokenizer: "bytes" (256 ids) or "bpe" (`bpe_size` ids, trained on the data set and cached).
        sequence_length: tokens per sequence.
        max_bytes: training text used, in bytes; null is all of it.
        score_tokens: size of the held-out set in tokens, at most.
        ngram: tokens of an n-gram, at least 2, by which the loss is split into repeated and new; a bigram is published
            for tokens of several bytes, and null takes as much text: 2 with bpe, 6 with bytes.
        cache_dir: null is $HYBRID_NAS_CACHE, or ~/.cache/hybrid_nas.
    """

    name = "text"
    synthetic = False
    metrics = (TEXT_LOSS, *SLICES)

    def __init__(
        self,
        *,
        dataset: str = STDLIB,
        config: str | None = None,
        split: str = "train",
        column: str | None = None,
        streaming: bool = False,
        tokenizer: str = "bytes",
        bpe_size: int = 4096,
        sequence_length: int = 256,
        max_bytes: int | None = None,
        validation_share: float = 0.1,
        score_tokens: int = 32768,
        ngram: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        check_counts(sequence_length=sequence_length, score_tokens=score_tokens, bpe_size=bpe_size)
        if tokenizer not in NGRAMS:
            raise TaskError(f"tokenizer must be one of {', '.join(NGRAMS)}, but got {tokenizer!r}.")
        if tokenizer == "bpe" and bpe_size < 257:
            raise TaskError(f"bpe_size must be at least 257 (an end and every byte), but got {bpe_size}.")
        if max_bytes is not None:
            check_counts(max_bytes=max_bytes)
        elif streaming:
            raise TaskError("streaming needs max_bytes, the bytes of text to read from the stream, but it is null.")
        if isinstance(validation_share, bool) or not isinstance(validation_share, int | float):
            raise TaskError(f"validation_share must be a number, but got {validation_share!r}.")
        if not 0 < validation_share < 1:
            raise TaskError(f"validation_share must lie between 0 and 1, but got {validation_share!r}.")
        if ngram is not None and (isinstance(ngram, bool) or not isinstance(ngram, int) or ngram < 2):
            raise TaskError(f"ngram must be an integer of at least 2, or null, but got {ngram!r}.")
        if not isinstance(dataset, str) or not dataset:
            raise TaskError(f"dataset must be a name or a path, but got {dataset!r}.")
        self.source = Source(dataset=dataset, config=config, split=split, column=column, streaming=streaming)
        self.tokenizer = tokenizer
        self.bpe_size = bpe_size
        self.sequence_length = sequence_length
        self.max_bytes = max_bytes
        self.validation_share = validation_share
        self.score_tokens = score_tokens
        self.ngram = NGRAMS[tokenizer] if ngram is None else ngram
        self.cache_dir = cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
        self._folder: Path | None = None

    @property
    def vocab_size(self) -> int:
        return 256 if self.tokenizer == "bytes" else self.bpe_size

    def prepare(self) -> None:
        if self._folder is not None:
            return
        settings = (FORMAT, self.source.fingerprint(), self.tokenizer, self.max_bytes, self.validation_share)
        key = hashlib.sha256(repr((*settings, self.vocab_size)).encode()).hexdigest()[:16]
        folder = self.cache_dir / f"text-{key}"
        if not (folder / "meta.json").exists():
            try:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                building = Path(tempfile.mkdtemp(prefix="building-", dir=self.cache_dir))
            except OSError as error:
                raise TaskError(
                    f"cache_dir must be writable, but {self.cache_dir} is not ({error.strerror}); set cache_dir= or "
                    f"${CACHE_VARIABLE}."
                ) from None
            try:
                self._build(building)
                # Another process may have built the same; either result is the same.
                if not folder.exists():
                    building.rename(folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        for part in ("train", "validation"):
            have = len(np.load(folder / f"{part}.npy", mmap_mode="r"))
            if have <= 2 * self.sequence_length:
                raise TaskError(
                    f"dataset {self.source.dataset!r} gives {have} {part} tokens, which is too few for "
                    f"sequence_length={self.sequence_length}; give more text or a shorter length."
                )
        self._folder = folder

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        stream, length = self._stream("train"), self.sequence_length
        rng = np.random.default_rng(seed)
        starts = np.empty(0, dtype=np.int64)
        while True:
            while len(starts) < batch_size:
                epoch = np.arange(rng.integers(length), len(stream) - length, length)
                starts = np.concatenate([starts, rng.permutation(epoch)])
            yield windows(stream, starts[:batch_size], length)
            starts = starts[batch_size:]

    def score(self, model: Model, batch_size: int) -> dict[str, Score]:
        return score_text(model, self.held_out_batches(batch_size), self.token_bytes(), self.ngram)

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """The fixed held-out set in batches."""
        stream, length = self._stream("validation"), self.sequence_length
        available = (len(stream) - 1) // length
        count = max(1, min(available, self.score_tokens // length))
        starts = np.linspace(0, available - 1, count).round().astype(np.int64) * length
        for first in range(0, count, batch_size):
            yield windows(stream, starts[first : first + batch_size], length)

    def token_bytes(self) -> np.ndarray:
        """Bytes of text behind each token id, uint8 [vocab_size]."""
        self.prepare()
        assert self._folder is not None
        return np.load(self._folder / "token_bytes.npy")

    def describe(self) -> str:
        size = "" if self.tokenizer == "bytes" else f" of {self.bpe_size}"
        return f"{self.source.dataset} as {self.tokenizer}{size}, sequences of {self.sequence_length}"

    def _stream(self, part: str) -> np.ndarray:
        self.prepare()
        assert self._folder is not None
        return np.load(self._folder / f"{part}.npy", mmap_mode="r")

    def _build(self, folder: Path) -> None:
        tokenization: Tokenization
        if self.tokenizer == "bytes":
            tokenization = ByteTokenization()
        else:
            sample = itertools.takewhile(Budget(BPE_TRAINING_CHARACTERS), self._documents("train"))
            tokenization = BpeTokenization.trained(sample, self.bpe_size)
            tokenization.save(folder / "tokenizer.json")
        dtype = np.uint8 if self.vocab_size <= 256 else np.uint16 if self.vocab_size <= 65536 else np.uint32
        counts = {}
        for part in ("train", "validation"):
            counts[part] = pack(tokenization.encode(self._documents(part)), folder / f"{part}.npy", dtype)
        np.save(folder / "token_bytes.npy", tokenization.token_bytes)
        meta = {"source": repr(self.source), "tokenizer": self.tokenizer, "tokens": counts}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1))

    def _documents(self, part: str) -> Iterator[str]:
        """The documents of "train" or "validation", at most `max_bytes` of them before they are divided."""
        source, own = self.source, self.source.validation_split()
        if own is not None:
            split = own if part == "validation" else source.split
            yield from itertools.takewhile(Budget(self.max_bytes), source.documents(split, self.cache_dir))
            return
        documents = itertools.takewhile(Budget(self.max_bytes), source.documents(source.split, self.cache_dir))
        for index, document in enumerate(documents):
            held_out = zlib.crc32(str(index).encode()) % 1000 < 1000 * self.validation_share
            if held_out == (part == "validation"):
                yield document


class Budget:
    """True for documents as long as those before them stay below so many bytes in all."""

    def __init__(self, limit: int | None) -> None:
        self.left = limit

    def __call__(self, document: str) -> bool:
        if self.left is None:
            return True
        within = self.left > 0
        self.left -= len(document.encode(errors="replace"))
        return within


def pack(documents: Iterable[np.ndarray], path: Path, dtype: type[np.unsignedinteger]) -> int:
    """Write token arrays end to end as one .npy file without holding them all; returns the number of tokens."""
    raw = path.with_suffix(".raw")
    count = 0
    with raw.open("wb") as file:
        for ids in documents:
            file.write(ids.astype(dtype).tobytes())
            count += len(ids)
    if count:
        packed = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count,))
        packed[:] = np.memmap(raw, dtype=dtype, mode="r")
        packed.flush()
    else:
        np.save(path, np.empty(0, dtype=dtype))
    raw.unlink()
    return count


def windows(stream: np.ndarray, starts: np.ndarray, length: int) -> Batch:
    """Sequences at `starts` and the same shifted by one as targets; every target counts."""
    cut = np.stack([stream[s : s + length + 1] for s in starts])
    return make_batch(cut[:, :-1], cut[:, 1:])


def score_text(model: Model, batches: Iterator[Batch], token_bytes: np.ndarray, ngram: int) -> dict[str, Score]:
    """Bits per byte over held-out batches, in all and by slice; an item is a sequence."""
    from nas.tasks.scoring import answers

    held_out = list(batches)
    bits, _ = answers(model, held_out)
    tokens, targets = (np.concatenate([part.numpy() for part in parts]) for parts in zip(*held_out, strict=True))
    sizes = token_bytes[targets].astype(np.float64)
    slices = score_slices(bits, sizes, repeated(tokens, targets, ngram))
    return {TEXT_LOSS.name: ratio_score(bits.sum(1), sizes.sum(1)), **slices}
