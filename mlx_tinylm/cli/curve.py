"""The losses of a run as a small picture in the terminal: braille dots, or ASCII where those cannot be shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlx_tinylm.cli.terminal import can_show, note
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.metrics import Losses, losses

ROWS, NARROWEST, WIDEST = 12, 40, 80  # of characters
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # the bits of a braille cell, row by row (Unicode, 8.1)
BRAILLE = 0x2800  # the empty cell
SHOWN = "⣿●┄│└─"  # what a terminal must be able to show
MARGIN, NAMES = 6, 9  # for the numbers on the left, and for what stands on the right
CLIPPED = 1.25  # of the loss of guessing: what is higher is drawn at the upper edge


def show_curve(folder: Path, guessing: float, width: int) -> None:
    """Draw the losses of the run in a folder on the terminal that stderr is; what stands in the way is no error."""
    plain = not can_show(SHOWN, sys.stderr) or os.environ.get("TERM") == "linux"  # the console's font has no braille
    with contextlib.suppress(TinyLMError, OSError):
        if lines := curve(losses(folder), guessing, width, plain):
            note("\n".join(["", *lines, ""]))


def curve(found: Losses, guessing: float, width: int, plain: bool = False) -> list[str]:
    """Lines no wider than `width`; none where that is too narrow, or there are not two steps to join.

    Training losses are the mean of the steps that share a column. What guessing and n-gram models reach are lines with
    their names on the right, as far as they lie in between and have a row of their own.
    """
    width = min(width, WIDEST)
    if width < NARROWEST or len(found.training) < 2:
        return []
    fine, tall = (1, 1) if plain else (2, 4)  # dots of a cell
    across = width - MARGIN - 1 - NAMES
    last = max(step for step, _ in (*found.training, *found.validations))
    means = _means(found.training, last, across * fine)
    shown = [*means.values(), *(loss for _, loss in found.validations)]
    top, low = min(max(shown), CLIPPED * guessing), min(shown)
    low, top = (low, top) if top - low > 1e-6 else (low - 0.5, low + 0.5)
    rows: dict[int, str] = {}  # those with a reference line, and its name
    for name, loss in [("guessing", guessing), *((f"{n}-gram", loss) for n, loss in enumerate(found.ngrams, start=1))]:
        if low <= loss <= top:
            rows.setdefault(_place(top - loss, top - low, ROWS), name)
    cells = [[("-" if plain else "┄") if row in rows else " " for _ in range(across)] for row in range(ROWS)]
    bits: dict[tuple[int, int], int] = {}
    for x, y in _line({x: _place(top - mean, top - low, ROWS * tall) for x, mean in means.items()}):
        place = y // tall, x // fine
        bits[place] = bits.get(place, 0) | DOTS[y % tall][x % fine]
    for (row, column), dots in bits.items():
        cells[row][column] = "." if plain else chr(BRAILLE + dots)
    for step, loss in found.validations:
        cells[_place(top - loss, top - low, ROWS)][_place(step, last, across)] = "o" if plain else "●"
    side, corner, bottom = ("|", "+", "-") if plain else ("│", "└", "─")
    numbers = {row: f"{top - (top - low) * row / (ROWS - 1):.2f}" for row in (0, ROWS // 2, ROWS - 1)}
    lines = []
    for row in range(ROWS):
        number, name = numbers.get(row, ""), rows.get(row, "")
        lines.append(f"{number:>{MARGIN - 1}} {side}{''.join(cells[row])} {name}")
    lines.append(" " * MARGIN + corner + bottom * across)
    end = f"step {last:,}"
    lines.append(f"{'':{MARGIN + 1}}0{end:>{across - 1}}")
    legend = f"loss in nats: {'o' if plain else '●'} validation, {'.' if plain else '⠶'} training"
    lines.append(" " * min(MARGIN + 1, width - len(legend)) + legend)
    return [line.rstrip() for line in lines]


def _place(part: float, whole: float, count: int) -> int:
    """Which of `count` places a part of the whole falls on, from 0; what lies outside, on the nearest."""
    return max(0, min(count - 1, round(part / whole * (count - 1))))


def _means(points: Sequence[tuple[int, float]], last: int, width: int) -> dict[int, float]:
    """The mean of the points that share a column, by column from left to right."""
    columns: dict[int, list[float]] = {}
    for step, loss in points:
        columns.setdefault(_place(step, last, width), []).append(loss)
    return {x: sum(column) / len(column) for x, column in sorted(columns.items())}


def _line(points: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """The dots (x, y) of a line through points, given from left to right, without gaps."""
    before: tuple[int, int] | None = None
    for x, y in points.items():
        start, level = before or (x, y)
        earlier = level
        for between in range(start, x + 1):
            reached = level + round((y - level) * (between - start) / max(x - start, 1))
            yield from ((between, dot) for dot in range(min(earlier, reached), max(earlier, reached) + 1))
            earlier = reached
        before = x, y
