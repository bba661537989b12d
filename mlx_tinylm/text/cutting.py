"""Text in pieces that can be encoded one by one: cut only where that changes no id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LINES = 100  # in a piece, about: long ones take the `tokenizers` library more time a character, and far more memory
LONG = 1 << 16  # characters without such a line end, from where on a space will do

# No token of a byte-level tokenizer reaches from one side of these places to the other: its pre-tokenizer (GPT-2's,
# Llama 3's and Qwen's alike) parts a line end from the letter or sign after it, and a word from the space after it.
# More white space on either side may belong together.
LINE_END = re.compile(r"(?<=\S)\n(?=\S)")
SPACE = re.compile(r"(?<=\S)(?= \S)")


def cut(pieces: Iterable[str | None]) -> Iterator[str | None]:
    """The same text in other pieces; None, as it is after each document, stays where it is.

    What has no place for a cut stays in one piece, however long.
    """
    held = ""
    for piece in pieces:
        if piece is None:
            if held:
                yield held
            held = ""
            yield None
            continue
        held += piece
        start = 0
        for end in _places(held):
            yield held[start:end]
            start = end
        held = held[start:]
    if held:
        yield held


def _places(text: str) -> Iterator[int]:
    """Where to cut: after every so many lines, and at a space where lines are long."""
    last = 0
    for count, found in enumerate(LINE_END.finditer(text), start=1):
        if found.end() - last > LONG:
            yield from _spaces(text, last, found.end())
        if count % LINES == 0 or found.end() - last > LONG:
            last = found.end()
            yield last
    yield from _spaces(text, last, len(text))


def _spaces(text: str, start: int, end: int) -> Iterator[int]:
    """Places at spaces between `start` and `end`, so far apart that few are needed."""
    while end - start > LONG:
        found = SPACE.search(text, start + LONG, end)
        if found is None:
            return
        start = found.start()
        yield start
