"""A corpus as ids: encoded once and kept on disk, and what is held out for validation.

Shapes: N ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import CACHE, DAY, cache_dir, make_folder, remove_leftovers, write_atomically
from mlx_tinylm.integrity import CHECKSUM, digest, ends_in_checksum, with_checksum
from mlx_tinylm.text import ids_cache
from mlx_tinylm.text.corpus import PIECE, Corpus
from mlx_tinylm.text.tokenizer import Tokenizer, quoted

Ids = npt.NDArray[Any]  # uint16, or uint32 where the vocabulary needs it
HELD_OUT = 0.1  # of a corpus, at its end
LONGEST = 2**31 - 1  # ids: the offsets of windows are int32


class UnknownCharactersError(TinyLMError):
    """A text has `characters` that a tokenizer cannot write."""

    def __init__(self, name: str, characters: str) -> None:
        super().__init__(f"{name}: has characters that the model does not know: {quoted(characters)}")
        self.characters = characters


class ChangedTextError(TinyLMError):
    """A text is another one now than it was a moment ago."""


@dataclass(frozen=True)
class Dataset:
    """The ids of a corpus (N,); the last tenth is held out for validation."""

    ids: Ids

    @property
    def train(self) -> Ids:
        return self.ids[: self._split]

    @property
    def validation(self) -> Ids:
        return self.ids[self._split :]

    def unseen(self, vocab_size: int) -> tuple[int, ...]:
        """The ids below `vocab_size` that do not stand in the training split, in their order."""
        seen = np.zeros(vocab_size, np.bool_)
        for start in range(0, len(self.train), PIECE):
            seen[self.train[start : start + PIECE]] = True
        return tuple(np.flatnonzero(~seen).tolist())

    @property
    def _split(self) -> int:
        return int((1 - HELD_OUT) * len(self.ids))


def encode(corpus: Corpus, tokenizer: Tokenizer) -> Ids:
    """All ids of a corpus (N,), mapped from a file in the cache that is written once for each tokenizer.

    Raises UnknownCharactersError where the tokenizer lacks some of its characters, TinyLMError where it cannot be kept.
    """
    if unknown := tokenizer.unknown_characters(corpus.alphabet):
        raise UnknownCharactersError(corpus.name, unknown)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    key = digest(f"{corpus.sha256} {tokenizer.json}".encode())[:32]
    path = cache_dir() / "ids" / f"{key}.{dtype.name}"
    # A damaged file would train on other text, or past the end of a table.
    if not ends_in_checksum(path):
        try:
            make_folder(path.parent)
            remove_leftovers(path.parent, older_than=DAY)
            write_atomically(path, with_checksum(ids.astype(dtype).tobytes() for ids in _arrays(corpus, tokenizer)))
        except ChangedTextError:
            raise
        except TinyLMError as error:
            raise TinyLMError(f"{error}. {CACHE} names another folder for it") from None
    ids_cache.used(path)
    count = (path.stat().st_size - CHECKSUM) // dtype.itemsize
    return np.memmap(path, dtype, mode="r", shape=(count,)) if count else np.zeros(0, dtype)


def _arrays(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[npt.NDArray[np.int32]]:
    """The ids in pieces; raises TinyLMError where the text is no longer that which was described."""
    # A token may span two chunks, so all the text goes in at once, unless each is a character.
    chunks = corpus.chunks() if tokenizer.alphabet is not None else [corpus.text()]
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk.encode())
        yield tokenizer.encode_array(chunk)
    if found.hexdigest() != corpus.sha256:
        raise ChangedTextError(f"{corpus.name}: changed while it was read; try again when it is at rest")


def check_length(corpus_name: str, dataset: Dataset, context: int) -> None:
    """Raise TinyLMError where a corpus is too short for one window of `context` ids plus validation, or too long."""
    length, train, validation = len(dataset.ids), len(dataset.train), len(dataset.validation)
    if length > LONGEST:
        raise TinyLMError(f"{corpus_name}: {length:,} characters; more than {LONGEST:,} cannot be trained on")
    if train < context + 1 or validation < 2:
        needed = max(round((context + 2) / (1 - HELD_OUT)) + 1, 20)
        raise TinyLMError(
            f"{corpus_name}: {length:,} characters leave {train:,} to train on and {validation:,} to "
            f"validate with; a context of {context} needs about {needed:,}. Add text, or lower --context"
        )
