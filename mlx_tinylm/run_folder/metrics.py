"""metrics.jsonl: one JSON object a step, in the order of the steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlx_tinylm.files import read, unwritable, write_atomically
from mlx_tinylm.run_folder.folder import METRICS

MOST_STEPS = 10**9  # a line that says more is damaged


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


def best_validation(folder: Path, first: int = 0) -> tuple[int, float] | None:
    """The step of the lowest validation loss, the first of equals, and that loss in nats; None where there is none.

    Steps before `first` are left out. Raises TinyLMError where there is a file that cannot be read.
    """
    return lowest([validation for validation in progress(folder)[1] if validation[0] >= first])


def bits_per_byte(folder: Path, step: int) -> float | None:
    """What the validation of `step` was in bits per byte; None where that was not recorded, as by older versions.

    Raises TinyLMError where there is a file that cannot be read.
    """
    found = None
    for _, metrics in _lines(folder) if (folder / METRICS).exists() else ():
        bits = metrics.get("val_bits_per_byte")
        if metrics["step"] == step and isinstance(bits, (int, float)) and abs(bits) <= sys.float_info.max:
            found = float(bits)
    return found


def exact_answers(folder: Path, step: int) -> tuple[int, int] | None:
    """How many of how many held-out pairs were answered exactly at the validation of `step`; None of other text.

    Raises TinyLMError where there is a file that cannot be read.
    """
    found = None
    for _, metrics in _lines(folder) if (folder / METRICS).exists() else ():
        exact, pairs = metrics.get("val_exact_answers"), metrics.get("val_pairs")
        if metrics["step"] == step and isinstance(exact, int) and isinstance(pairs, int):
            found = exact, pairs
    return found


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


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it was cut short or damaged."""
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = metrics.get("step") if isinstance(metrics, dict) else None
    return metrics if isinstance(step, int) and 0 <= step <= MOST_STEPS else None
