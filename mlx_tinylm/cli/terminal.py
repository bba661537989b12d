"""What a person sees: tables, and text as it is made."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_tinylm.errors import JOINERS, SPACES, TinyLMError, escaped
from mlx_tinylm.run_folder.presets import PRESETS


def table(rows: Iterable[tuple[object, object]]) -> str:
    """Two columns, the first as wide as it needs to be."""
    cells = [(str(name), f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in rows]
    width = max((len(name) for name, _ in cells), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in cells)


def rows_as_they_come(rows: Iterable[tuple[str, Any]]) -> None:
    """Print two columns whose rows take a while to be known."""
    for name, value in rows:
        print(f"{name:<34}{value:,}" if isinstance(value, int) else f"{name:<34}{value}", flush=True)


def facts(content: Mapping[str, Any]) -> str:
    """The table that `info` prints, with the tensors of a model, if there is one, below it."""
    tensors = content.get("tensors", {})
    above = ((name, f"{value:,}" if isinstance(value, int) else value) for name, value in content.items())
    below = ((name, f"{t['type']:<8} {t['shape']!s:<14} {t['parameters']:>9,}") for name, t in tensors.items())
    return table(row for row in above if row[0] != "tensors") + ("\n\n" + table(below) if tensors else "")


def preset_table() -> str:
    """The presets side by side, for the help of `train`."""
    names = ["family", "layers", "heads", "width", "context", "batch_size", "steps", "optimizer"]
    names += ["learning_rate", "muon_weight_decay", "schedule", "dropout"]
    lines = ["\b", f"{'Presets':<18}" + "".join(f"{name:>10}" for name in PRESETS)]
    for name in names:
        values = (str(getattr(settings, name)) for settings in PRESETS.values())
        lines.append(f"{name.replace('_', '-'):<18}" + "".join(f"{value:>10}" for value in values))
    return "\n".join(lines)


def visible(text: str) -> str:
    """The text without control characters, which could take over a terminal: they become escapes."""
    return escaped(text, keep="\n\t" + SPACES + JOINERS)


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
