"""Text to ids and back, on the `tokenizers` library; `tokenizer.json` is the only format.

A character tokenizer is a BPE without merges: every tool that reads `tokenizer.json` reads it. The ids
0..V-1 are the characters in code-point order; `<|endoftext|>` comes last, because other tools want an
end-of-text id.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.files import read

END_OF_TEXT = "<|endoftext|>"
CODE_POINTS = 0x110000
UNKNOWN = 255  # in the table for ASCII: no id, or one too large for a byte


class Detokenizer(Protocol):
    """Turns ids into text one at a time; the pieces join to the whole."""

    def add(self, id: int) -> str: ...


class Tokenizer:
    """A `tokenizers.Tokenizer` that refuses text it cannot write, with a fast path for characters.

    `alphabet` is the string of known characters in id order, or None for a tokenizer that is not
    character by character (a byte-level BPE of another model, say).
    """

    def __init__(self, inner: Any) -> None:
        inner.no_truncation()  # some files of other tools cut every text to a length
        inner.no_padding()
        self.inner = inner
        ids = inner.get_vocab(with_added_tokens=True).values()
        if len(set(ids)) < len(ids):
            raise TinyLMError("two tokens have the same id")
        self.vocab_size: int = 1 + max(ids, default=-1)
        self.alphabet = _alphabet(inner)
        if self.alphabet is not None:
            self._id_of = np.full(CODE_POINTS, -1, np.int32)
            self._id_of[_code_points(self.alphabet)] = np.arange(len(self.alphabet), dtype=np.int32)
            small = (int(id) if 0 <= id < UNKNOWN else UNKNOWN for id in self._id_of[:128])
            self._ascii = bytes(small) + bytes([UNKNOWN]) * 128

    @classmethod
    def from_alphabet(cls, alphabet: str) -> Tokenizer:
        """The character tokenizer whose ids are the places of the sorted distinct characters."""
        from tokenizers import AddedToken, decoders, models
        from tokenizers import Tokenizer as Inner

        vocab = {character: i for i, character in enumerate(sorted(set(alphabet)))}
        inner = Inner(models.BPE(vocab, merges=[]))
        inner.decoder = decoders.Fuse()
        inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        return cls(inner)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` in `folder`; raises TinyLMError where it is missing or malformed."""
        from tokenizers import Tokenizer as Inner

        path = folder / "tokenizer.json"
        if not path.exists():
            raise TinyLMError(f"{folder}: no tokenizer.json here; copy it from where the model came")
        content = read(path)
        with _in_the_library(f"{path}: not a tokenizer"):
            inner = Inner.from_str(content.decode())
        try:
            with _in_the_library("not a tokenizer"):
                return cls(inner)
        except TinyLMError as error:
            raise TinyLMError(f"{path}: {error}") from None

    @property
    def json(self) -> str:
        """The content of `tokenizer.json`."""
        text: str = self.inner.to_str(pretty=True)
        return text

    @property
    def eos_id(self) -> int | None:
        id: int | None = self.inner.token_to_id(END_OF_TEXT)
        return id

    @property
    def opening(self) -> str:
        """What a text can begin with if nothing is given: a newline, or something else that is known."""
        return "\n" if self.alphabet is None or "\n" in self.alphabet else self.example

    @property
    def example(self) -> str:
        """A prompt for examples: a name, or as much of a word as this tokenizer knows."""
        if self.alphabet is None or not self.unknown_characters("ROMEO:"):
            return "ROMEO:"
        return min(self.alphabet, key=lambda c: (not c.isalpha(), not c.isprintable(), c))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; raises TinyLMError naming the first character the model does not know."""
        if self.alphabet is not None:
            ids: list[int] = self.encode_array(text).tolist()
            return ids
        with _in_the_library("the tokenizer cannot read this text"):
            return list(self.inner.encode(text, add_special_tokens=False).ids)

    def encode_array(self, text: str) -> npt.NDArray[np.int32]:
        """Str of n characters -> (n,) int32 for a character tokenizer; (number of ids,) for others."""
        if self.alphabet is None:
            return np.array(self.encode(text), np.int32)
        if text.isascii():  # a table of bytes does, wherever all of it has small ids
            small = np.frombuffer(text.encode().translate(self._ascii), np.uint8)
            if not small.size or small.max() < UNKNOWN:
                return small.astype(np.int32)
        ids: npt.NDArray[np.int32] = self._id_of[_code_points(text)]
        if ids.size and ids.min() < 0:
            place = int(np.argmin(ids))
            raise TinyLMError(
                f"the model does not know {quoted(text[place])} (character {place + 1} of the text); "
                f"it knows {quoted(self.alphabet)}"
            )
        return ids

    def unknown_characters(self, alphabet: str) -> str:
        """Those characters of `alphabet` that this tokenizer cannot write."""
        if self.alphabet is None:
            return ""
        return "".join(sorted(set(alphabet) - set(self.alphabet)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens."""
        with _in_the_library("the tokenizer cannot write these ids"):
            text: str = self.inner.decode(list(ids), skip_special_tokens=True)
            return text

    def detokenizer(self) -> Detokenizer:
        """A fresh detokenizer for one text."""
        return _Characters(self) if self.alphabet is not None else _Pieces(self)


class _Characters:
    """One id is one character, so nothing has to be remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        alphabet = tokenizer.alphabet or ""
        self._text: list[str] = [*alphabet, *[""] * (tokenizer.vocab_size - len(alphabet))]

    def add(self, id: int) -> str:
        return self._text[id] if id < len(self._text) else ""  # a model may have more ids than its tokenizer


class _Pieces:
    """Byte-level tokens may end inside a character: the library holds them back until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._inner = tokenizer.inner
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, id: int) -> str:
        with _in_the_library("the tokenizer cannot write these ids"):
            return str(self._stream.step(self._inner, id) or "")


@contextlib.contextmanager
def _in_the_library(problem: str) -> Iterator[None]:
    """Raise TinyLMError for what the library raises: bare Exception, sometimes PanicException, which is none."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (TinyLMError, KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise TinyLMError(f"{problem} ({' '.join(str(error).split())[:200]})") from None


def _alphabet(inner: Any) -> str | None:
    """The characters in id order if this is a character tokenizer as `from_alphabet` makes it."""
    vocab = inner.get_vocab(with_added_tokens=False)
    tokens = sorted(vocab, key=vocab.__getitem__)
    # Before to_str(), which counts up to the largest id there is: a hostile one would take minutes.
    if any(len(token) != 1 for token in tokens) or [vocab[t] for t in tokens] != list(range(len(tokens))):
        return None
    raw = json.loads(inner.to_str())
    if raw["model"].get("type") != "BPE" or raw["model"].get("merges"):
        return None
    if raw.get("normalizer") or raw.get("pre_tokenizer") or not _adds_nothing(raw.get("post_processor")):
        return None
    if (raw.get("decoder") or {}).get("type") != "Fuse":
        return None
    if any(token["id"] < len(tokens) or not token["special"] for token in raw["added_tokens"]):
        return None
    return "".join(tokens)


def _adds_nothing(post_processor: dict[str, Any] | None) -> bool:
    """Whether ids stay as they are: transformers 5 saves a template that holds the text, or both of a pair, alone."""
    if post_processor is None:
        return True
    if post_processor["type"] != "TemplateProcessing" or post_processor["special_tokens"]:
        return False
    texts = [[piece.get("Sequence", {}).get("id") for piece in post_processor[of]] for of in ("single", "pair")]
    return texts == [["A"], ["A", "B"]]


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    """Str of n characters -> (n,) code points; a lone surrogate (undecodable input) stays what it is."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def quoted(characters: str) -> str:
    """Characters in quotes for a message, each visible, cut to a bearable number."""
    visible = escaped(characters, keep="")
    return f"'{visible}'" if len(visible) <= 200 else f"'{visible[:200]}' and more"
