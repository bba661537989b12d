"""Ids into text one at a time, as generation makes them."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any, Protocol

from mlx_tinylm.text.library import in_the_library


class Detokenizer(Protocol):
    """Turns ids into text one at a time; the pieces join to the whole, but for a character that is not yet whole."""

    def add(self, id: int) -> str: ...


class Characters:
    """One id is one character, so nothing has to be remembered."""

    def __init__(self, character_of: Mapping[int, str]) -> None:
        self._character_of = character_of

    def add(self, id: int) -> str:
        return self._character_of.get(id, "")  # a model may have more ids than its tokenizer


class Bytes:
    """Tokens of bytes may end inside a character, which is held back until it is whole; U+FFFD is what cannot be."""

    def __init__(self, bytes_of: Mapping[int, bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id: int) -> str:
        return self._decoder.decode(self._bytes_of.get(id, b""))


class Pieces:
    """Any other tokenizer: the library knows what a token needs of those before it."""

    def __init__(self, inner: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._inner = inner
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, id: int) -> str:
        with in_the_library("the tokenizer cannot write these ids"):
            return str(self._stream.step(self._inner, id) or "")
