"""Which part of a text is held out for validation: a property of the text alone, whatever reads it.

Of one document it is the last tenth. Of several, each that is long gives its last tenth, so that each is learned from
and each is tested; of the short ones, one in ten is held out whole. Positions are in characters.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

SHORT = 4096  # characters; a document of fewer is held out whole, or not at all
ONE_IN = 10


@dataclass(frozen=True)
class Split:
    """Where the held-out part of each document begins."""

    begins: array[int]  # of the documents of at least `least` characters, in their order
    least: int
    last: int | None  # the shorter document, counted from 0, that is held out where nothing else would be

    def part(self, pieces: Iterator[str | None], held_out: bool) -> Iterator[str | None]:
        """What is held out of the documents, or what is not; pieces are those of `reading`, None after a document."""
        begins, short = iter(self.begins), 0
        opening: list[str] = []
        size, begin, said = 0, None, False  # of the document at hand; `begin` is None while it may be a short one
        for piece in pieces:
            if piece is None:
                if begin is None and (_is_dealt(short) or short == self.last) == held_out:
                    yield from opening
                    said = said or bool(opening)
                if said:
                    yield None
                short += begin is None
                opening, size, begin, said = [], 0, None, False
                continue
            start = size
            size += len(piece)
            if begin is None:
                opening.append(piece)
                if size < self.least:
                    continue
                # Where the text is another one now, there may be more of them; its hash will tell.
                begin, start, piece, opening = next(begins, sys.maxsize), 0, "".join(opening), []
            cut = max(0, begin - start)
            if kept := piece[cut:] if held_out else piece[:cut]:
                yield kept
                said = True


class Splitter:
    """Told of each document's size, it says at the end how the text is split."""

    def __init__(self) -> None:
        self.documents = 0
        self.held_out = 0  # characters
        self._begins = array("q")
        self._short = self._size = 0

    def add(self, size: int, held_out: int | None = None) -> None:
        """A document of `size` characters, of which the last `held_out` are held out if that is said."""
        self.documents += 1
        self._size = size
        if size >= SHORT:
            self._begins.append(_begin(size, held_out))
            self.held_out += size - self._begins[-1]
        else:
            self.held_out += size * _is_dealt(self._short)
            self._short += 1

    def split(self) -> Split:
        """How the documents that were added are split."""
        if self.documents == 1:
            if self._size < SHORT:
                self._begins.append(_begin(self._size, None))
                self.held_out = self._size - self._begins[0]
            return Split(self._begins, 0, None)
        if self.held_out or not self.documents:
            return Split(self._begins, SHORT, None)
        self.held_out = self._size  # there are short ones alone: a long one gives a tenth
        return Split(self._begins, SHORT, self._short - 1)


def _begin(size: int, held_out: int | None) -> int:
    return int(0.9 * size) if held_out is None else max(0, size - held_out)


def _is_dealt(number: int) -> bool:
    """Whether a short document is held out: one of each ten is, by chance, but always the same one."""
    ten, place = divmod(number, ONE_IN)
    return place == zlib.crc32(ten.to_bytes(8, "little")) % ONE_IN
