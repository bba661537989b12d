"""The tokenizer of a new model: made for its text, or taken from another model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.byte_level import SUBWORDS
from mlx_tinylm.text.characters import CHARACTERS
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.watch import WatchStages, unwatched

MOST = 100_000_000  # bytes that merges are learned from: more brings nothing but waiting
STAGE = "learning the subwords"


def trained_tokenizer(corpus: Corpus, kind: str, vocab_size: int, watch: WatchStages = unwatched) -> Tokenizer:
    """The tokenizer of `kind` for a text: "char", "bpe" of at most `vocab_size` ids, or what lies in a folder.

    Subwords are learned from the training part alone. Raises TinyLMError where there is no such folder.
    """
    if kind == CHARACTERS:
        return Tokenizer.from_alphabet(corpus.alphabet, pads=corpus.documents > 1)
    if kind != SUBWORDS:
        return tokenizer_of(kind)

    def watched(texts: Iterator[str]) -> Iterator[str]:
        done, total = 0, min(corpus.bytes, MOST)
        for text in texts:
            yield text
            watch(STAGE, done := min(done + len(text), total), total)

    return Tokenizer.from_texts(watched(sample(corpus)), vocab_size)


def tokenizer_of(folder: str) -> Tokenizer:
    """The tokenizer of another model; raises TinyLMError where that folder is none, or has none."""
    if not Path(folder).is_dir():
        raise TinyLMError(
            f"{folder[:200]!r}: no tokenizer; give char, bpe, or the folder of a model with a tokenizer.json"
        )
    return Tokenizer.load(Path(folder))


def sample(corpus: Corpus, most: int = MOST) -> Iterator[str]:
    """About `most` bytes of the training part of a text at most, taken evenly from all of it."""
    share = min(1.0, most / corpus.bytes)
    for piece in corpus.chunks("train"):
        if piece and (kept := piece[: round(share * len(piece))]):
            yield kept
