"""What a person sees: tables, and text as it is made."""

from __future__ import annotations

import io
import os
import sys
import textwrap
import time
from collections.abc import Iterable
from typing import Any, TextIO

from mlx_tinylm.cli.columns import measure, terminal_width
from mlx_tinylm.errors import JOINERS, SPACES, TinyLMError, escaped
from mlx_tinylm.run_folder.presets import PRESETS, settings_that_differ


def table(rows: Iterable[tuple[object, object]]) -> str:
    """Two columns, the first as wide as it needs to be; what is too long for the terminal goes on below itself."""
    cells = [(str(name), f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in rows]
    width = max((len(name) for name, _ in cells), default=0)
    room = (terminal_width() or sys.maxsize) - width - 2
    return "\n".join(f"{name:<{width}}  {_below(value, room, ' ' * (width + 2))}" for name, value in cells)


def _below(value: str, width: int, indent: str) -> str:
    if measure(value) <= width or width < 10:
        return value
    return f"\n{indent}".join(textwrap.wrap(value, width, replace_whitespace=False, break_on_hyphens=False))


def rows_as_they_come(rows: Iterable[tuple[str, Any]]) -> None:
    """Print two columns whose rows take a while to be known."""
    for name, value in rows:
        print(f"{name:<34}{value:,}" if isinstance(value, int) else f"{name:<34}{value}", flush=True)


def preset_table(width: int) -> str:
    """The presets side by side, with all in which they differ, for the help of `train`; below each other if need be."""
    names = settings_that_differ()
    label = max(map(len, names))
    side_by_side: list[list[str]] = []  # the names of presets that fit
    for preset in PRESETS:
        if not side_by_side or label + sum(_preset_width(each) for each in [*side_by_side[-1], preset]) > width:
            side_by_side.append([])
        side_by_side[-1].append(preset)
    blocks = []
    for presets in side_by_side:
        rows = [("", presets), *((name.replace("_", "-"), [_shown(each, name) for each in presets]) for name in names)]
        widths = [_preset_width(each) for each in presets]
        lines = (f"{name:<{label}}" + "".join(map(str.rjust, values, widths)) for name, values in rows)
        blocks.append("\n".join(lines))
    return "\n\n\b\n".join(blocks)


def _preset_width(preset: str) -> int:
    return 2 + max(len(preset), *(len(_shown(preset, name)) for name in settings_that_differ()))


def _shown(preset: str, name: str) -> str:
    value = getattr(PRESETS[preset], name)
    return "off" if value is None else str(value)


def visible(text: str) -> str:
    """The text without control characters, which could take over a terminal: they become escapes."""
    return escaped(text, keep="\n\t" + SPACES + JOINERS)


def one_line(text: str) -> str:
    """The same for a cell of a table: newlines and tabs are spaces, too."""
    return visible(" ".join(text.split()))


def stream_text(prompt: str, pieces: Iterable[str], number: int, samples: int, backend: str) -> None:
    """Write one sample to stdout as it is made, and its speed to stderr."""
    written = visible if sys.stdout.isatty() else str
    if samples > 1:
        print(f"{'' if number == 0 else chr(10)}--- {number + 1} of {samples} ---")
    sys.stdout.write(written(prompt))
    sys.stdout.flush()
    started, characters = time.perf_counter(), 0
    for piece in pieces:
        sys.stdout.write(written(piece))
        sys.stdout.flush()
        characters += len(piece)
    seconds = time.perf_counter() - started
    print(flush=True)
    note(f"[{characters:,} characters, {characters / seconds:,.0f} a second, {backend}]")


def print_anything() -> None:
    """Let what an encoding cannot show be an escape, and what is printed to nobody be lost: no reason to end."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the program began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open as long as the program is)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def can_show(text: str, stream: TextIO) -> bool:
    """Whether the encoding of a stream has all characters of a text."""
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def standard_input() -> str:
    """All the text on standard input; raises TinyLMError where it is closed or not UTF-8."""
    if sys.stdin is None:
        raise TinyLMError("-: standard input is closed; pipe the prompt into it, or give it as --prompt TEXT")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise TinyLMError(f"-: the prompt is not UTF-8 at byte {error.start}") from None


def note(text: str) -> None:
    """A line for the person, not for the pipe."""
    print(text, file=sys.stderr, flush=True)
