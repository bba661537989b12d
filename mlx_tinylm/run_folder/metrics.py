"""metrics.jsonl: one JSON object a step, in the order of the steps."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlx_tinylm.files import read, unwritable, write_atomically
from mlx_tinylm.run_folder.folder import METRICS

LONGEST_LINE = 4096  # bytes


def append(folder: Path, metrics: dict[str, Any]) -> None:
    """Add the line of one step; raises TinyLMError where it cannot be written."""
    try:
        with open(folder / METRICS, "a", encoding="utf-8") as file:
            file.write(_line(metrics))
    except OSError as error:
        raise unwritable(folder / METRICS, error) from None


def add_validation(folder: Path, step: int, loss: float) -> None:
    """Put a validation loss into the line of its step, which is the last one, or into a line of its own.

    Raises TinyLMError where it cannot be written.
    """
    try:
        with open(folder / METRICS, "r+b") as file:
            start = max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE)
            file.seek(start)
            before, newline, last = file.read().removesuffix(b"\n").rpartition(b"\n")
            metrics = _parsed(last)
            if metrics is not None and metrics["step"] == step:
                file.seek(start + len(before) + len(newline))
                file.write(_line(metrics | {"val_loss": loss}).encode())  # longer than what was there
                return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unwritable(folder / METRICS, error) from None
    append(folder, {"step": step, "val_loss": loss})


def truncate(folder: Path, step: int) -> None:
    """Drop the lines after `step`, which will be made again, and whatever is no line of metrics."""
    if (folder / METRICS).exists():
        kept = [line + b"\n" for line, metrics in _lines(folder) if metrics["step"] <= step]
        write_atomically(folder / METRICS, b"".join(kept))


def best_validation(folder: Path, first: int = 0) -> tuple[int, float] | None:
    """The step of the lowest validation loss, the first of equals, and that loss in nats; None where there is none.

    Steps before `first` are left out. Raises TinyLMError where there is a file that cannot be read.
    """
    return lowest([validation for validation in progress(folder)[1] if validation[0] >= first])


def lowest(validations: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """The first of the lowest losses with its step; None of none."""
    return min(validations, key=lambda validation: validation[1], default=None)


def progress(folder: Path) -> tuple[int, list[tuple[int, float]]]:
    """The last step, 0 where there is none, and the steps and losses in nats of all validations.

    Raises TinyLMError where there is a file that cannot be read.
    """
    last, validations = 0, []
    if (folder / METRICS).exists():
        for _, metrics in _lines(folder):
            last, loss = metrics["step"], metrics.get("val_loss")
            if isinstance(loss, (int, float)) and abs(loss) <= sys.float_info.max:
                validations.append((last, float(loss)))
    return last, validations


def _lines(folder: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line and what it says; lines that were cut short or damaged are left out."""
    for line in read(folder / METRICS).splitlines():
        if (metrics := _parsed(line)) is not None:
            yield line, metrics


def _line(metrics: dict[str, Any]) -> str:
    return json.dumps(metrics) + "\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it was cut short or damaged."""
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return metrics if isinstance(metrics, dict) and isinstance(metrics.get("step"), int) else None
