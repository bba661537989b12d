"""What is text in a file: its bytes unpacked and decoded, its documents apart.

A text file is one document, unless lines that are `<|endoftext|>` and nothing else part several, as they do in
TinyStories; each record of a .jsonl or .parquet file is one (records.py). A byte-order mark is no text, and
CRLF ends a line as LF does, unless every byte is to be kept.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlx_tinylm.errors import TinyLMError

PIECE = 1 << 20  # characters (when reading: bytes) held in memory at once
END = "<|endoftext|>"
RECORDS = (".jsonl", ".parquet")
SUFFIXES = (".txt", ".md", *RECORDS)  # of what is read in a folder, with or without .gz
MARK = "\ufeff"  # a byte-order mark, decoded


@dataclass(frozen=True)
class Reading:
    """How files are read; raises TinyLMError for an encoding that Python does not know."""

    encoding: str = "utf-8"
    raw: bool = False  # keep byte-order marks, CRLF, and lines that would part documents
    as_one: bool = False  # files are no documents, but joined, with a newline where one is missing: as runs once were

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding)  # refuses what is known and no encoding of text, too
        except (LookupError, ValueError):
            raise TinyLMError(
                f"--encoding {self.encoding[:80]!r}: Python knows no encoding of text of this name; "
                "try latin-1, cp1252, utf-16, gb18030 or shift_jis"
            ) from None


UTF_8 = Reading()


@dataclass
class Seen:
    """What is noticed while files are read."""

    place: int = 0  # bytes of the file at hand, as it lies on the disk, that have been read
    returns: bool = False  # whether CRLF became LF


def kind_of(path: Path) -> str:
    """The suffix of a file, in small letters and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def pieces(path: Path, reading: Reading, seen: Seen, size: int = PIECE) -> Iterator[str | None]:
    """The text of a file in non-empty pieces of at most `size` characters, None after each document; no empty one.

    Memory is constant. Raises TinyLMError naming the file where it cannot be read, or is no text in that encoding.
    """
    begun = False
    for piece in _documents(path, reading, seen, size):
        if piece or (begun and piece is None):
            yield piece
            begun = piece is not None
    if begun:
        yield None


def _documents(path: Path, reading: Reading, seen: Seen, size: int) -> Iterator[str | None]:
    if kind_of(path) in RECORDS:
        from mlx_tinylm.text.records import texts  # which reads files as this module does

        for text in texts(path, reading, seen):
            kept = text if reading.raw else _with_newlines(text, seen)
            yield from (kept[start : start + size] for start in range(0, len(kept), size))
            yield None
        return
    decoded = _decoded(path, reading, seen, size)
    if reading.raw:
        yield from decoded
    elif reading.as_one:
        yield from _translated(decoded, seen)
    else:
        yield from _parted(_translated(decoded, seen))


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of what is in a .gz file; raises TinyLMError naming it where they cannot be read."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() != ".gz":
                yield file
            else:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TinyLMError(f"{path}: broken gzip file ({error}). Fetch or pack it again.") from error
    except OSError as error:
        raise TinyLMError(unreadable(path, error)) from error


def place(stream: IO[bytes]) -> int:
    """How far a file is read, in bytes as it lies on the disk."""
    return int(getattr(stream, "fileobj", stream).tell())


def unreadable(path: object, error: OSError) -> str:
    """Why a file or folder cannot be read, in a line."""
    return f"{path}: cannot be read: {error.strerror or error}. Check the path and its permissions."


def _decoded(path: Path, reading: Reading, seen: Seen, size: int) -> Iterator[str]:
    """Pieces that come from at most `size` bytes each, so that they have no more characters than that."""
    if size < 1:
        raise ValueError(f"a piece of {size} characters")
    decoder = codecs.getincrementaldecoder(reading.encoding)()
    offset = 0
    with unpacked(path) as stream:
        while True:
            block = stream.read(size)
            seen.place = place(stream)
            held = len(decoder.getstate()[0])  # bytes of a character that began in the block before
            try:
                text = decoder.decode(block, final=not block)
                text.encode()  # some encodings, such as utf-7, can write half of a surrogate pair
            except UnicodeDecodeError as error:
                raise TinyLMError(_undecodable(path, reading, offset - held + error.start, block)) from None
            except UnicodeError:
                raise TinyLMError(_undecodable(path, reading, offset - held, block)) from None
            yield text
            if not block:
                return
            offset += len(block)


def _undecodable(path: Path, reading: Reading, offset: int, block: bytes) -> str:
    unpacked = " of the unpacked text" if path.suffix.lower() == ".gz" else ""
    wide = offset == 0 and block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    name = "UTF-8" if reading.encoding == UTF_8.encoding else reading.encoding
    return f"{path}: not {name} at byte {offset}{unpacked}. " + (
        "It begins as UTF-16 does: add --encoding utf-16."
        if wide and reading.encoding != "utf-16"
        else "Convert the file to UTF-8, say what it is (--encoding latin-1), or leave it out."
    )


def _translated(text: Iterator[str], seen: Seen) -> Iterator[str]:
    """The text without a byte-order mark at its start, with LF for CRLF; what comes last of a piece may wait."""
    held, at_start = "", True
    for piece in text:
        if at_start and piece:
            piece, at_start = piece.removeprefix(MARK), False
        joined = held + piece
        held = "\r" if joined.endswith("\r") else ""
        yield _with_newlines(joined[: len(joined) - len(held)], seen)
    yield held


def _with_newlines(text: str, seen: Seen) -> str:
    if "\r\n" not in text:
        return text
    seen.returns = True
    return text.replace("\r\n", "\n")


def _parted(text: Iterator[str]) -> Iterator[str | None]:
    """The text with None in the place of each line that is END; what may become such a line waits."""
    held, within = "", False  # `within` says whether what comes next goes on with a line
    for piece in text:
        joined = held + piece
        line = joined.rfind("\n") + 1
        held = joined[line:] if (line or not within) and END.startswith(joined[line:]) else ""
        joined = joined[: len(joined) - len(held)]
        start, place = 0, joined.find(END)
        while place >= 0:
            after = place + len(END)
            if joined[after : after + 1] == "\n" and (joined[place - 1] == "\n" if place else not within):
                yield joined[start:place]
                yield None
                start = after + 1
            place = joined.find(END, after)
        yield joined[start:]
        within = not held and (within if not joined else not joined.endswith("\n"))
    yield held if held != END else None
