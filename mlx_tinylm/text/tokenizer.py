"""Text to ids and back, on the `tokenizers` library; `tokenizer.json` is the only format.

Two kinds are made here: of characters (characters.py), and of subwords (byte_level.py). Those of other tools are read.
`<|endoftext|>` comes behind all other ids, because other tools want an end-of-text id, then what pads a batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.files import read, read_json
from mlx_tinylm.text import byte_level
from mlx_tinylm.text.characters import characters_of, extended, of_characters
from mlx_tinylm.text.detokenizer import Bytes, Characters, Detokenizer, Pieces
from mlx_tinylm.text.library import in_the_library

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
TOKENIZER_CONFIG = "tokenizer_config.json"  # says which tokens end a text and pad a batch, where they are others
CODE_POINTS = 0x110000
UNKNOWN = 255  # in the table for ASCII: no id, or one too large for a byte


class Tokenizer:
    """A `tokenizers.Tokenizer` that refuses text it cannot write, with a fast path for characters.

    `alphabet` is the string of known characters in id order, or None for a tokenizer that is not
    character by character. `eos_id` ends a text, `pad_id` fills a batch; None where there is no such token, and where
    the end of a text pads, too.
    """

    def __init__(self, inner: Any, eos_token: str = END_OF_TEXT, pad_token: str = PAD) -> None:
        inner.no_truncation()  # some files of other tools cut every text to a length
        inner.no_padding()
        self.inner = inner
        self._special_tokens = eos_token, pad_token
        ids = inner.get_vocab(with_added_tokens=True).values()
        if len(set(ids)) < len(ids):
            raise TinyLMError("two tokens have the same id")
        self.vocab_size: int = 1 + max(ids, default=-1)
        self.eos_id: int | None = inner.token_to_id(eos_token)
        pad_id: int | None = inner.token_to_id(pad_token)
        self.pad_id = None if pad_id == self.eos_id else pad_id
        self._characters = characters_of(inner)
        self.alphabet = None if self._characters is None else "".join(self._characters)
        if self._characters is not None and self.alphabet is not None:
            self._id_of = np.full(CODE_POINTS, -1, np.int32)
            self._id_of[_code_points(self.alphabet)] = list(self._characters.values())
            small = (int(id) if 0 <= id < UNKNOWN else UNKNOWN for id in self._id_of[:128])
            self._ascii = bytes(small) + bytes([UNKNOWN]) * 128

    @classmethod
    def from_alphabet(cls, alphabet: str, *, pads: bool = False) -> Tokenizer:
        """The character tokenizer whose ids are the places of the sorted distinct characters.

        `pads` adds a token that pads, as a text of several documents wants: there the end of a text is trained.
        """
        return cls(of_characters(alphabet, (END_OF_TEXT, PAD) if pads else (END_OF_TEXT,)))

    @classmethod
    def from_texts(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A byte-level BPE of at most `vocab_size` ids, whose merges are learned from `texts`; see `byte_level`."""
        return cls(byte_level.trained(texts, vocab_size, (END_OF_TEXT, PAD)))

    def extended(self, characters: str, *, pads: bool = False) -> Tokenizer:
        """The same tokenizer with more `characters`, and with a token that pads where it has none and `pads` wants one.

        All ids keep their meaning; new ones come behind them. What knows subwords of bytes knows every character.
        """
        if not pads or self.pad_id is not None:
            return Tokenizer(extended(self.inner, characters, []), *self._special_tokens)
        return Tokenizer(extended(self.inner, characters, [PAD]), self._special_tokens[0], PAD)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` in `folder`, and in `tokenizer_config.json` which tokens end a text and pad a batch.

        Raises TinyLMError where the first is missing or malformed, or the second is and no token has the usual name.
        """
        from tokenizers import Tokenizer as Inner

        path = folder / "tokenizer.json"
        if not path.exists():
            raise TinyLMError(f"{folder}: no tokenizer.json here; copy it from where the model came")
        content = read(path)
        with in_the_library(f"{path}: not a tokenizer"):
            inner = Inner.from_str(content.decode())
        try:
            special = _special_tokens(folder / TOKENIZER_CONFIG)
        except TinyLMError:
            if inner.token_to_id(END_OF_TEXT) is None:
                raise
            special = (END_OF_TEXT, PAD)
        try:
            with in_the_library("not a tokenizer"):
                return cls(inner, *special)
        except TinyLMError as error:
            raise TinyLMError(f"{path}: {error}") from None

    @property
    def json(self) -> str:
        """The content of `tokenizer.json`."""
        text: str = self.inner.to_str(pretty=True)
        return text

    @cached_property
    def cuts_at_lines(self) -> bool:
        """Whether the ids of a text are those of its parts, cut between "x\\n" and "y" that are no spaces."""
        return self.alphabet is not None or byte_level.cuts_at_lines(json.loads(self.inner.to_str()))

    @property
    def kind(self) -> str:
        """What its ids are, in words."""
        if self.alphabet is not None:
            return "characters"
        return "subwords" if self._token_bytes is None else "byte-level subwords"

    @property
    def unit(self) -> str:
        """What a text is counted in by its ids."""
        return "tokens" if self.alphabet is None else "characters"

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
        with in_the_library("the tokenizer cannot read this text"):
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

    def encode_many(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        """`encode_array` of each text, on all cores."""
        if self.alphabet is not None:
            return [self.encode_array(text) for text in texts]
        with in_the_library("the tokenizer cannot read this text"):
            encodings = self.inner.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def unknown_characters(self, alphabet: str) -> str:
        """Those characters of `alphabet` that this tokenizer cannot write."""
        if self.alphabet is None:
            return ""
        return "".join(sorted(set(alphabet) - set(self.alphabet)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens."""
        with in_the_library("the tokenizer cannot write these ids"):
            text: str = self.inner.decode(list(ids), skip_special_tokens=True)
            return text

    def detokenizer(self) -> Detokenizer:
        """A fresh detokenizer for one text."""
        if self._characters is not None:
            return Characters({id: character for character, id in self._characters.items()})
        return Bytes(self._token_bytes) if self._token_bytes is not None else Pieces(self.inner)

    @cached_property
    def _token_bytes(self) -> dict[int, bytes] | None:
        return byte_level.token_bytes(self.inner)


def _special_tokens(path: Path) -> tuple[str, str]:
    """The tokens that end a text and that pad, as `tokenizer_config.json` has them, or else as they are named here."""
    raw = read_json(path) if path.is_file() else {}
    said = raw if isinstance(raw, dict) else {}

    def token(key: str, default: str) -> str:
        value = said.get(key)
        content = value.get("content") if isinstance(value, dict) else value  # as transformers 4 writes it
        return content if isinstance(content, str) else default

    return token("eos_token", END_OF_TEXT), token("pad_token", PAD)


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    """Str of n characters -> (n,) code points; a lone surrogate (undecodable input) stays what it is."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def quoted(characters: str) -> str:
    """Characters in quotes for a message, each visible, cut to a bearable number."""
    visible = escaped(characters, keep="")
    return f"'{visible}'" if len(visible) <= 200 else f"'{visible[:200]}' and more"
