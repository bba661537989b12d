"""metrics.jsonl: one JSON object a step, in the order of the steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_tinylm.files import read, unwritable, write_atomically
from mlx_tinylm.run_folder.folder import METRICS


def append(folder: Path, metrics: dict[str, Any]) -> None:
    """Add the line of one step; raises TinyLMError where it cannot be written."""
    try:
        with open(folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
    except OSError as error:
        raise unwritable(folder / METRICS, error) from None


def truncate(folder: Path, step: int) -> None:
    """Drop the lines after `step`, which will be made again, and whatever is no line of metrics."""
    if (folder / METRICS).exists():
        kept = [line + b"\n" for line, metrics in _lines(folder) if metrics["step"] <= step]
        write_atomically(folder / METRICS, b"".join(kept))


def best_validation(folder: Path) -> tuple[int, float] | None:
    """The step of the lowest validation loss, the first of equals, and that loss in nats; None where there is none.

    Raises TinyLMError where there is a file that cannot be read.
    """
    if not (folder / METRICS).exists():
        return None
    found = [
        (metrics["step"], float(loss))
        for _, metrics in _lines(folder)
        if isinstance(loss := metrics.get("val_loss"), (int, float)) and abs(loss) <= sys.float_info.max
    ]
    return min(found, key=lambda validation: validation[1], default=None)


def _lines(folder: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line and what it says; lines that were cut short or damaged are left out."""
    for line in read(folder / METRICS).splitlines():
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(metrics, dict) and isinstance(metrics.get("step"), int):
            yield line, metrics
