"""Tables that fit a terminal: columns are left out, the least wanted first, and then cells are cut."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GAP = "  "


def cut(text: str, width: int) -> str:
    """The beginning of a text, at most `width` wide, with a mark where something is missing."""
    if measure(text) <= width:
        return text
    while text and measure(text) >= width:
        text = text[:-1]
    return f"{text}…"


def cut_left(text: str, width: int) -> str:
    """The end of a text, as of a path, at most `width` wide."""
    return text if measure(text) <= width else cut(text[::-1], width)[::-1]


def thinned(curve: str, width: int) -> str:
    """A curve of one character a point with `width` points at most, its first and its last among them."""
    if len(curve) <= width:
        return curve
    return "".join(curve[round(place * (len(curve) - 1) / max(width - 1, 1))] for place in range(width))


@dataclass(frozen=True)
class Column:
    """The cells of a column, and what may happen to it where room is short."""

    head: str
    cells: Sequence[str]
    wanted: int  # columns that are wanted less go first
    least: int | None = None  # the width down to which its cells can be cut; None: not at all
    right: bool = False  # numbers end at one line
    cut: Callable[[str, int], str] = cut

    @property
    def width(self) -> int:
        return max(map(measure, [self.head, *self.cells]))

    @property
    def narrowest(self) -> int:
        return self.width if self.least is None else min(self.width, self.least)


def columns(found: Sequence[Column], width: int | None = None) -> list[str]:
    """The lines of a table, its heads first, none wider than `width` as long as one column fits that."""
    shown = [column for column in found if any(column.cells)]
    while width is not None and len(shown) > 1 and _total([column.narrowest for column in shown]) > width:
        shown.remove(min(shown, key=lambda column: column.wanted))
    widths = [column.width for column in shown]
    while width is not None and (excess := _total(widths) - width) > 0:
        spare = [had - column.narrowest for had, column in zip(widths, shown, strict=True)]
        if not any(spare):
            break
        place = spare.index(max(spare))
        widths[place] -= min(excess, max(1, spare[place] - max([*spare[:place], *spare[place + 1 :]], default=0)))
    padded = [_cells(column, wide) for column, wide in zip(shown, widths, strict=True)]
    return [GAP.join(row).rstrip() for row in zip(*padded, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _cells(column: Column, width: int) -> list[str]:
    cells = [cut(column.head, width), *(column.cut(cell, width) for cell in column.cells)]
    spaces = [" " * (width - measure(cell)) for cell in cells]
    return [space + cell if column.right else cell + space for cell, space in zip(cells, spaces, strict=True)]


def measure(text: str) -> int:
    """The places that a text takes on a terminal: two for a wide character, none for a mark on another."""
    if text.isascii():
        return len(text)
    return sum(_places(character) for character in text)


def _places(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def terminal_width() -> int | None:
    """The width of the terminal, or what COLUMNS says; None where nobody looks: a pipe gets whole lines."""
    if (chosen := os.environ.get("COLUMNS", "")).isdecimal() and int(chosen):
        return int(chosen)
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None
