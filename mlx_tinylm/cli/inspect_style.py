"""What a terminal can show: widths, colours, bars in eighths, and white space that is seen."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from dataclasses import dataclass

from mlx_tinylm.cli.columns import cut, measure, terminal_width
from mlx_tinylm.errors import escaped

WIDTH = 80  # columns, where no terminal says otherwise
NARROWEST, WIDEST = 40, 100
EIGHTHS = " ▏▎▍▌▋▊▉█"
# From blue over grey to yellow as in cividis (Nuñez et al. 2018), each lighter than the one before, of xterm's 256
# colours: for 0, 1 ... 5 bits and more. On the first two ink is white.
SCALE = (17, 60, 102, 144, 185, 227)
DARK = 2
ORANGE = 208  # what the model does


@dataclass(frozen=True)
class Style:
    """What the place that is written to can show."""

    width: int = WIDTH
    colour: bool = False
    blocks: bool = True  # and dots and arrows

    @classmethod
    def here(cls) -> Style:
        """That of stdout: no colour in a pipe, nor where NO_COLOR (no-color.org) or a dumb terminal says so."""
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            (EIGHTHS + "·⏎→“").encode(sys.stdout.encoding or "ascii")
            blocks = True
        except (UnicodeEncodeError, LookupError):
            blocks = False
        return cls(min(max(terminal_width() or WIDTH, NARROWEST), WIDEST), colour, blocks)

    def title(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text

    def muted(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.colour and text else text

    def cut(self, text: str, width: int) -> str:
        found = cut(text, width)
        return found if self.blocks else found.replace("…", "~")

    def orange(self, text: str) -> str:
        return f"\x1b[38;5;{ORANGE}m{text}\x1b[0m" if self.colour else text

    def prose(self, text: str) -> list[str]:
        """A paragraph of at most 76 columns."""
        return [self.muted(line) for line in textwrap.wrap(self.plain(text), min(self.width, 76))]

    def plain(self, text: str) -> str:
        return text if self.blocks else text.replace("“", '"').replace("”", '"')

    def bar(self, share: float, width: int) -> str:
        """A bar of `share` of `width`, in eighths of a column."""
        eighths = round(share * width * 8)
        if not self.blocks:
            return "#" * round(eighths / 8)
        return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()

    def glyph(self, text: str) -> str:
        """A token's text, its white space visible, and never without a column of its own."""
        shown = escaped(text.replace("\r\n", "\n"), keep="\n\t")
        for white, mark in zip(" \n\t", ("·", "⏎", "→") if self.blocks else ("_", "\\n", "\\t"), strict=True):
            shown = shown.replace(white, mark)
        if measure(shown):
            return shown
        return f"◌{shown}" if shown else "∅" if self.blocks else "?"

    def spoken(self, text: str) -> str:
        """A token in a sentence."""
        return {" ": "space", "\n": "newline", "\t": "tab"}.get(text) or self.plain(f"“{self.glyph(text)}”")


def percent(p: float) -> str:
    """As the page writes a probability: two digits, and what is smaller says so."""
    return "<0.01%" if 0 < p < 0.00005 else f"{100 * p:.2f}%"


def bits(nats: float) -> float:
    return nats / math.log(2)


def padded(text: str, width: int) -> str:
    return text + " " * (width - measure(text))


def digit(value: float) -> str:
    """A surprise in bits where there is no colour; a space where there is none."""
    return " " if math.isnan(value) else str(min(round(value), 9))


def painted(glyph: str, value: float) -> str:
    """A glyph on the colour of its surprise in bits."""
    if math.isnan(value):
        return glyph
    step = min(round(value), len(SCALE) - 1)
    return f"\x1b[48;5;{SCALE[step]};38;5;{231 if step < DARK else 16}m{glyph}\x1b[0m"
