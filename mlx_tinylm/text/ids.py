"""A corpus as ids on disk, its split, and the windows that make up the batch of a step.

Shapes: N ids, B batch, T context.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir, make_folder
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.tokenizer import Tokenizer, show

Ids = npt.NDArray[Any]  # uint16, or uint32 where the vocabulary needs it
VALIDATION_SHARE = 0.1
LONGEST = 2**31 - 1  # ids: the offsets of windows are int32
CHECKSUM, FIRST = 4, 1  # bytes, and what it begins with: four zeros are no whole file


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

    @property
    def _split(self) -> int:
        return int((1 - VALIDATION_SHARE) * len(self.ids))


def load_dataset(corpus: Corpus, tokenizer: Tokenizer, context: int) -> Dataset:
    """The encoded corpus; raises TinyLMError where it is too short for one window plus validation."""
    dataset = Dataset(encode_corpus(corpus, tokenizer))
    train, validation = len(dataset.train), len(dataset.validation)
    if len(dataset.ids) > LONGEST:
        raise TinyLMError(f"{corpus.name}: {len(dataset.ids):,} characters; more than {LONGEST:,} cannot be trained on")
    if train < context + 1 or validation < 2:
        needed = max(round((context + 2) / (1 - VALIDATION_SHARE)) + 1, 20)
        raise TinyLMError(
            f"{corpus.name}: {len(dataset.ids):,} characters leave {train:,} to train on and {validation:,} to "
            f"validate with; a context of {context} needs about {needed:,}. Add text, or lower --context"
        )
    return dataset


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer) -> Ids:
    """All ids of a corpus (N,), mapped from a file in the cache that is written once for each tokenizer.

    Raises TinyLMError with the characters that the tokenizer does not know.
    """
    if unknown := tokenizer.unknown_characters(corpus.alphabet):
        raise TinyLMError(f"{corpus.name}: has characters that the model does not know: {show(unknown)}")
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    key = hashlib.sha256(f"{corpus.sha256} {tokenizer.json}".encode()).hexdigest()[:32]
    folder = cache_dir() / "ids"
    path = folder / f"{key}.{np.dtype(dtype).name}"
    make_folder(folder)
    if not _is_whole(path):
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _remove_stale(folder)
        try:
            with open(beside, "wb") as file:
                checksum = FIRST
                for ids in _encoded(corpus, tokenizer):
                    content = ids.astype(dtype).tobytes()
                    checksum = zlib.crc32(content, checksum)
                    file.write(content)
                file.write(checksum.to_bytes(CHECKSUM, "little"))
            os.replace(beside, path)
        except OSError as error:
            raise TinyLMError(f"{path}: cannot be written ({error.strerror})") from None
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    length = (path.stat().st_size - CHECKSUM) // np.dtype(dtype).itemsize
    return np.memmap(path, dtype, mode="r", shape=(length,)) if length else np.zeros(0, dtype)


def _is_whole(path: Path) -> bool:
    """Whether the file ends in the CRC-32 of the rest: a wrong id would train on wrong text, or past a table's end."""
    try:
        with open(path, "rb") as file:
            left, checksum = path.stat().st_size - CHECKSUM, FIRST
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
            return left == 0 and file.read() == checksum.to_bytes(CHECKSUM, "little")
    except OSError:
        return False


def _remove_stale(folder: Path) -> None:
    """Remove what processes that were killed while encoding left; one that is still at it is younger than a day."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                path.unlink()


def _encoded(corpus: Corpus, tokenizer: Tokenizer) -> list[npt.NDArray[np.int32]] | map[npt.NDArray[np.int32]]:
    if tokenizer.alphabet is None:  # a token may span two chunks, so all the text goes in at once
        return [tokenizer.encode_array(corpus.text())]
    return map(tokenizer.encode_array, corpus.chunks())
