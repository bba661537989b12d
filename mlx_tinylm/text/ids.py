"""A text as ids: encoded once and kept on disk, in two parts, one to train on and one held out for validation.

Shapes: N ids.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.integrity import digest
from mlx_tinylm.text import ids_cache
from mlx_tinylm.text.corpus import PIECE, Corpus
from mlx_tinylm.text.cutting import cut
from mlx_tinylm.text.tokenizer import Tokenizer, quoted
from mlx_tinylm.watch import Watch, unwatched

Ids = npt.NDArray[Any]  # uint16, or uint32 where the vocabulary needs it
FORMAT = 2  # of the files, and of the places where text is cut before it is encoded
SIZES = np.dtype("<i8")  # of the two numbers behind the ids: see EncodedText


class UnknownCharactersError(TinyLMError):
    """A text has `characters` that a tokenizer cannot write."""

    def __init__(self, name: str, characters: str) -> None:
        super().__init__(f"{name}: has characters that the model does not know: {quoted(characters)}")
        self.characters = characters


@dataclass(frozen=True)
class EncodedText:
    """The ids of a text (N,), mapped from a file, and the size of what those behind the first stand for."""

    ids: Ids
    characters: int
    bytes: int


@dataclass(frozen=True)
class Dataset:
    """The ids of a corpus: those to train on (N,), and those held out for validation."""

    train: Ids
    validation: Ids
    # The size of the held-out text behind its first id, which nothing predicts.
    validation_characters: int
    validation_bytes: int

    def bits_per_byte(self, loss: float) -> float:
        """A mean loss over the held-out ids, in nats an id, as bits a byte of their text, whatever the tokenizer."""
        return loss * (len(self.validation) - 1) / self.validation_bytes / math.log(2)

    def unseen(self, vocab_size: int) -> tuple[int, ...]:
        """The ids below `vocab_size` that do not stand in the training part, in their order."""
        return tuple(np.flatnonzero(~seen(self.train, vocab_size)).tolist())


def seen(ids: Ids, vocab_size: int) -> npt.NDArray[np.bool_]:
    """(N,) ids -> (vocab_size,), whether each stands among them; little of them is in memory at once."""
    found = np.zeros(vocab_size, np.bool_)
    for piece in _pieces(ids):
        found[piece] = True
    return found


def encode(corpus: Corpus, tokenizer: Tokenizer, watch: Watch = unwatched) -> Dataset:
    """Both parts of a corpus as ids; raises as `encode_part` does."""
    train = encode_part(corpus, tokenizer, "train", watch)
    held_out = encode_part(corpus, tokenizer, "held_out", watch)
    return Dataset(train.ids, held_out.ids, held_out.characters, held_out.bytes)


def encode_part(corpus: Corpus, tokenizer: Tokenizer, part: str, watch: Watch = unwatched) -> EncodedText:
    """The ids of one part of a corpus ("train", "held_out" or "all"), from a file in the cache that is written once.

    Where there are several documents, an end-of-text id follows each. Memory does not grow with the text.
    `watch` is told of characters.
    Raises UnknownCharactersError where the tokenizer lacks some of its characters, ChangedTextError where the text is
    another one now, TinyLMError where it cannot be kept.
    """
    if unknown := tokenizer.unknown_characters(corpus.alphabet):
        raise UnknownCharactersError(corpus.name, unknown)
    dtype = type_of(tokenizer)
    key = digest(f"{FORMAT} {corpus.key} {part} {tokenizer.json}".encode())[:32]
    path = ids_cache.kept_file(f"{key}.{dtype.name}", lambda: _content(corpus, tokenizer, part, dtype, watch))
    content = ids_cache.mapped(path)
    split = len(content) - 2 * SIZES.itemsize
    characters, size = content[split:].view(SIZES).tolist()
    return EncodedText(content[:split].view(dtype), characters, size)


def type_of(tokenizer: Tokenizer) -> np.dtype[Any]:
    """How ids are kept in a file."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _content(corpus: Corpus, tokenizer: Tokenizer, part: str, dtype: np.dtype[Any], watch: Watch) -> Iterator[bytes]:
    """The file: the ids, then how many characters and how many bytes those behind the first stand for."""
    sizes, opening = np.zeros(2, SIZES), ""
    for texts, ids in _encoded(corpus, tokenizer, part):
        opening = opening or tokenizer.decode(ids[:1].tolist())
        sizes += (sum(map(len, texts)), sum(len(text.encode()) for text in texts))
        yield ids.astype(dtype).tobytes()
        watch(int(sizes[0]), corpus.characters)
    watch(corpus.characters, corpus.characters)
    yield (sizes - (len(opening), len(opening.encode()))).clip(0).tobytes()


def _encoded(corpus: Corpus, tokenizer: Tokenizer, part: str) -> Iterator[tuple[list[str], npt.NDArray[np.int32]]]:
    """Pieces of text, about a mebibyte at once, and the ids of all of them."""
    pieces = corpus.chunks(part)
    if tokenizer.alphabet is None:
        pieces = cut(pieces) if tokenizer.cuts_at_lines else _whole(pieces)
    end = [tokenizer.eos_id] if corpus.documents > 1 and tokenizer.eos_id is not None else []
    held: list[str | None] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece or "") + 1
        if size > PIECE:
            yield _joined(held, tokenizer, end)
            held, size = [], 0
    if held:
        yield _joined(held, tokenizer, end)


def _joined(pieces: list[str | None], tokenizer: Tokenizer, end: list[int]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The texts among the pieces, and their ids, with those of an `end` in the place of each None."""
    texts = [piece for piece in pieces if piece is not None]
    found = iter(tokenizer.encode_many(texts))
    ending = np.array(end, np.int32)
    return texts, np.concatenate([ending if piece is None else next(found) for piece in pieces])


def _whole(pieces: Iterator[str | None]) -> Iterator[str | None]:
    """Each document in one piece: a token may reach over any other border."""
    held: list[str] = []
    for piece in pieces:
        if piece is None:
            yield "".join(held)
            held = []
            yield None
        else:
            held.append(piece)
    if held:
        yield "".join(held)


def _pieces(ids: Ids) -> Iterator[Ids]:
    """All of `ids` (N,) in pieces; of a mapped file none stays in memory, as all that is read through the map would."""
    with contextlib.ExitStack() as held:
        file = None
        if isinstance(ids, np.memmap):
            with contextlib.suppress(OSError):  # the cache has let go of it: then the map is all there is
                file = held.enter_context(open(str(ids.filename), "rb"))
        for start in range(0, len(ids), PIECE):
            count = min(PIECE, len(ids) - start)
            yield np.fromfile(file, ids.dtype, count) if file else ids[start : start + count]


def check_length(corpus_name: str, dataset: Dataset, context: int) -> None:
    """Raise TinyLMError where a corpus is too short for one window of `context` ids plus validation."""
    train, validation = len(dataset.train), len(dataset.validation)
    if train < context + 1 or validation < 2:
        raise TinyLMError(
            f"{corpus_name}: has {train:,} ids to train on and {validation:,} to validate with; a context of {context} "
            f"needs {context + 1:,} and 2. Add text, or lower --context"
        )
