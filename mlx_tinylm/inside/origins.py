"""Which parts of a text stand word for word in another one, and in which lines."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

LEAST = 20  # characters: shorter runs are common words, not memory


@dataclass(frozen=True)
class Run:
    """Characters `start` to `end` (exclusive) of a text stand in lines `first` to `last`, from 1, of another."""

    start: int
    end: int
    first: int
    last: int


class Origins:
    """A training text, to look up what stands in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._newlines = [place for place, character in enumerate(text) if character == "\n"]

    def lines(self, start: int, end: int) -> tuple[int, int]:
        """The numbers of the lines, from 1, in which characters `start` to `end` (exclusive) stand."""
        return tuple(1 + bisect.bisect_left(self._newlines, place) for place in (start, max(start, end - 1)))  # type: ignore[return-value]

    def runs(self, text: str, least: int = LEAST) -> list[Run]:
        """The longest runs of `least` characters or more, in their order; two may overlap. Where one stands more than
        once in the training text, it is the first place that counts.
        """
        found: list[Run] = []
        i = 0
        while i + least <= len(text):
            place = self.text.find(text[i : i + least])
            if place < 0:
                i += 1
                continue
            start, end = i, i + least
            while end < len(text) and (further := self._from(place, text[start : end + 1])) >= 0:
                place, end = further, end + 1
            while start > 0 and (further := self._from(0, text[start - 1 : end])) >= 0:
                place, start = further, start - 1
            found.append(Run(start, end, *self.lines(place, place + end - start)))
            i = end - least + 1
        return found

    def _from(self, place: int, wanted: str) -> int:
        """Where `wanted` stands at `place` or after; a look at the place itself is quicker than a search."""
        return place if self.text.startswith(wanted, place) else self.text.find(wanted, place)
