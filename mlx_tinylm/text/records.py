"""Files of records: each line of a .jsonl file, each row of a .parquet file, is a document in its field `text`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_tinylm.checks import brief
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.reading import MARK, Reading, Seen, kind_of, place, unpacked

FIELD = "text"
ROWS = 256  # of a .parquet file in memory at once


def texts(path: Path, reading: Reading, seen: Seen) -> Iterator[str]:
    """The text of each record; raises TinyLMError naming file and record where there is none, or no such file."""
    found = _rows(path, seen) if kind_of(path) == ".parquet" else objects(path, reading, seen)
    for where, record in found:
        if FIELD not in record:
            fields = ", ".join(map(repr, list(record)[:5])) or "none"
            raise TinyLMError(f"{path}: {where} has no field {FIELD!r}; its fields are {fields:.200}")
        text = record[FIELD]
        if not isinstance(text, str):
            raise TinyLMError(f"{path}: {where} has no text in its field {FIELD!r} but {brief(text)}")
        if not text.isascii():
            _refuse_halves(path, where, text)
        yield text


def objects(path: Path, reading: Reading, seen: Seen) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl file, packed or not, each with the name of its line; lines of spaces are passed over.

    Raises TinyLMError naming file and line where one is no object, or no text in the encoding.
    """
    with unpacked(path) as stream, io.TextIOWrapper(stream, reading.encoding, newline="\n") as lines:
        number = 0
        while True:
            number += 1
            where = f"line {number:,}"
            try:
                line = next(lines, "")
            except UnicodeDecodeError:
                raise TinyLMError(
                    f"{path}: {where}, or one soon after it, is not {reading.encoding.upper()}; "
                    "say what it is with --encoding, or leave the file out"
                ) from None
            if not line:
                return
            seen.place = place(stream)
            if line.isspace():
                continue
            try:
                record = json.loads(line.removeprefix(MARK) if number == 1 else line)
            except (ValueError, RecursionError) as error:
                cut = "" if line.endswith("\n") else "; it is the last one: was the file cut short?"
                raise TinyLMError(f"{path}: {where} is not JSON ({str(error)[:100]}){cut}") from None
            if not isinstance(record, dict):
                raise TinyLMError(f"{path}: {where} is no JSON object but {brief(record)}")
            yield where, record


def _rows(path: Path, seen: Seen) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .parquet file, of which only the one field is read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise TinyLMError(
            f"{path}: .parquet files need a package that is not here: pip install 'mlx-tinylm[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            if FIELD not in file.schema_arrow.names:
                yield "row 1", dict.fromkeys(file.schema_arrow.names)
                return
            size, number = path.stat().st_size, 0
            for batch in file.iter_batches(ROWS, columns=[FIELD]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    seen.place = size * number // file.metadata.num_rows
                    yield f"row {number:,}", {FIELD: text}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise TinyLMError(f"{path}: no .parquet file that can be read ({str(error)[:200]})") from error


def _refuse_halves(path: Path, where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TinyLMError(
            f"{path}: {where} has half of a surrogate pair, which is no character: {text[error.start]!r}"
        ) from None
