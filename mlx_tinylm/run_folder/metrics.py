"""metrics.jsonl: one JSON object a step, in the order of the steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read, unwritable, write_atomically
from mlx_tinylm.run_folder.folder import METRICS

MOST_STEPS = 10**9  # a line that says more is damaged
BASELINES = "baselines"  # the key of what validation losses compare with, in the line where they were counted
BLOCK = 1 << 20  # bytes read at once of a run under way


@dataclass(frozen=True)
class Losses:
    """The losses of a run so far by step, in nats, and those of guessing and of 1-gram, 2-gram, ... models."""

    training: tuple[tuple[int, float], ...]  # each that of a batch before its update
    validations: tuple[tuple[int, float], ...]
    guessing: float | None  # None where nothing was counted yet
    ngrams: tuple[float, ...]


@dataclass(frozen=True)
class Increment:
    """What was added to the metrics of a run; ask again from `next` on."""

    lines: tuple[dict[str, Any], ...]
    next: int  # bytes
    restarted: bool  # whether the file has changed before where it was to be read from: these are lines from its start


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
    for metrics in _validations(folder, step):
        if (bits := _number(metrics.get("val_bits_per_byte"))) is not None:
            found = bits
    return found


def exact_answers(folder: Path, step: int) -> tuple[int, int] | None:
    """How many of how many held-out pairs were answered exactly at the validation of `step`; None of other text.

    Raises TinyLMError where there is a file that cannot be read.
    """
    found = None
    for metrics in _validations(folder, step):
        exact, pairs = metrics.get("val_exact_answers"), metrics.get("val_pairs")
        if isinstance(exact, int) and isinstance(pairs, int):
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
            last = metrics["step"]
            if (loss := _number(metrics.get("val_loss"))) is not None:
                validations.append((last, loss))
    return last, validations


def losses(folder: Path) -> Losses:
    """All losses of a run; raises TinyLMError where there is no file, or one that cannot be read."""
    training: list[tuple[int, float]] = []
    validations: list[tuple[int, float]] = []
    guessing: float | None = None
    ngrams: tuple[float, ...] = ()
    for _, metrics in _lines(folder):
        for key, found in (("loss", training), ("val_loss", validations)):
            if (loss := _number(metrics.get(key))) is not None:
                found.append((metrics["step"], loss))
        if known := _baselines(metrics):
            guessing, ngrams = known
    return Losses(tuple(training), tuple(validations), guessing, ngrams)


def increment(folder: Path, offset: int = 0, most: int = BLOCK) -> Increment:
    """The whole lines from byte `offset` on, at most about `most` bytes of them; none where nothing was added.

    Of each, numbers that are finite, and the baselines. A run that is resumed rewrites its last lines: where `offset`
    is not where a line begins any more, they come from the beginning again.
    Raises TinyLMError where the file cannot be read.
    """
    path = folder / METRICS
    if not path.exists():
        return Increment((), 0, restarted=offset > 0)
    if not path.is_file():  # reading it might never end
        raise TinyLMError(f"{path}: not a file")
    try:
        with open(path, "rb") as file:
            file.seek(max(offset - 1, 0))
            restarted = offset > 0 and file.read(1) != b"\n"
            start = file.seek(0 if restarted else offset)
            block = file.read(most) + file.readline()
    except OSError as error:
        raise TinyLMError(f"{path}: cannot be read ({error.strerror})") from None
    end = block.rfind(b"\n") + 1
    found = (_parsed(line) for line in block[:end].splitlines())
    lines = ({key: value for key, value in metrics.items() if _shown(key, value)} for metrics in found if metrics)
    return Increment(tuple(lines), start + end, restarted)


def _lines(folder: Path, words: bytes = b"") -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line that holds `words`, and what it says; lines that were cut short or damaged are left out."""
    for line in read(folder / METRICS).splitlines():
        if words in line and (metrics := _parsed(line)) is not None:
            yield line, metrics


def _validations(folder: Path, step: int) -> Iterator[dict[str, Any]]:
    """What the lines of `step` say that hold a validation; of the others, which are many, none is taken apart."""
    if (folder / METRICS).exists():
        yield from (metrics for _, metrics in _lines(folder, b'"val_') if metrics["step"] == step)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it was cut short or damaged."""
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = metrics.get("step") if isinstance(metrics, dict) else None
    return metrics if isinstance(step, int) and 0 <= step <= MOST_STEPS else None


def _number(value: object) -> float | None:
    """A finite number; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max else None


def _baselines(metrics: dict[str, Any]) -> tuple[float, tuple[float, ...]] | None:
    """The losses of guessing and of n-gram models, where a line has them."""
    found = metrics.get(BASELINES)
    if not isinstance(found, dict) or not isinstance(found.get("ngrams"), list):
        return None
    numbers = [_number(each) for each in (found.get("guessing"), *found["ngrams"])]
    known = tuple(number for number in numbers if number is not None)
    return (known[0], known[1:]) if len(known) == len(numbers) else None


def _shown(key: str, value: object) -> bool:
    return _number(value) is not None or (key == BASELINES and _baselines({key: value}) is not None)
