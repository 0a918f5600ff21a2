"""Text to token ids and back to a count of bytes: raw bytes, or a byte-level BPE trained on the data set itself.

Both code any text without loss, so bits per byte is comparable between them: every token knows how many bytes of text
it stands for. Id 0 ends a document and counts as one byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|end|>"
ENCODE_AT_ONCE = 1_000_000  # characters


class Tokenization(Protocol):
    """`token_bytes`: bytes of text behind each id, [vocab_size]."""

    token_bytes: np.ndarray

    def encode(self, documents: Iterable[str]) -> Iterator[np.ndarray]:
        """One array of ids per document, its end included."""
        ...


class ByteTokenization:
    """UTF-8 bytes. Byte 0, which text does not use, ends a document."""

    def __init__(self) -> None:
        self.token_bytes = np.ones(256, dtype=np.uint8)

    def encode(self, documents: Iterable[str]) -> Iterator[np.ndarray]:
        for document in documents:
            yield np.frombuffer(document.encode(errors="replace") + b"\0", dtype=np.uint8)


class BpeTokenization:
    """Byte-level BPE. The byte-level alphabet writes each byte as one character, so a token's length is its bytes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.token_bytes = np.ones(vocab_size, dtype=np.uint8)
        for token, index in tokenizer.get_vocab().items():
            self.token_bytes[index] = 1 if token == END else len(token)

    def encode(self, documents: Iterable[str]) -> Iterator[np.ndarray]:
        for group in grouped(documents, ENCODE_AT_ONCE):
            for encoding in self.tokenizer.encode_batch(group):
                yield np.array([*encoding.ids, 0], dtype=np.uint32)

    @classmethod
    def trained(cls, documents: Iterable[str], vocab_size: int) -> BpeTokenization:
        """Merges learned from `documents`; the same documents give the same merges."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            max_token_length=64,
        )
        tokenizer.train_from_iterator(documents, trainer)
        return cls(tokenizer, vocab_size)

    def save(self, path: Path) -> None:
        """The form of the `tokenizers` library, so that an exported model can take it along."""
        self.tokenizer.save(str(path))


def grouped(documents: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Lists of documents of about `characters` in all."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document)
        if size >= characters:
            yield group
            group, size = [], 0
    if group:
        yield group
