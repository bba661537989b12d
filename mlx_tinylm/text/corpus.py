"""Where text comes from: named corpora, files, folders, gzip files and standard input.

Text is UTF-8 and is kept exactly as it is: no newline is translated, no byte-order mark dropped. Several
files are read one after the other, with a newline between two of them where the first does not end in one.
"""

from __future__ import annotations

import atexit
import codecs
import difflib
import gzip
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.example import first_words
from mlx_tinylm.text.named_corpora import NAMED, fetch

PIECE = 1 << 20  # characters (when reading: bytes) held in memory at once
SUFFIXES = (".txt", ".md")


class ChangedTextError(TinyLMError):
    """A text is another one now than it was a moment ago."""


@dataclass(frozen=True)
class Corpus:
    """Text that has been read once from end to end: it is UTF-8, not empty, and its size is known."""

    name: str  # "tinyshakespeare", or what the user gave, joined by ", "
    sources: tuple[Path, ...]  # in the order they are read
    sha256: str  # of the text's UTF-8 bytes: unpacked, joined
    bytes: int  # of the same
    characters: int
    alphabet: str  # the different characters, in code-point order

    @property
    def documents(self) -> int:
        """How many documents the text is made of."""
        return 1

    @property
    def key(self) -> str:
        """What decides the content of all parts."""
        return self.sha256

    def chunks(self, part: str = "all", characters: int = PIECE) -> Iterator[str | None]:
        """The text of a part ("all", "train" or "held_out") in pieces of at most `characters`, None after a document.

        Memory is constant. Raises ChangedTextError at the end where the text is another one now.
        """
        split = int(0.9 * self.characters)
        start, end = {"all": (0, self.characters), "train": (0, split), "held_out": (split, self.characters)}[part]
        place, found = 0, hashlib.sha256()
        for piece in _pieces(self.sources, characters):
            found.update(piece.encode())
            if kept := piece[max(0, start - place) : max(0, end - place)]:
                yield kept
            place += len(piece)
        yield None
        if found.hexdigest() != self.sha256:
            raise ChangedTextError(f"{self.name}: changed while it was read; try again when it is at rest")

    def text(self) -> str:
        """The whole text as one string."""
        return "".join(piece for piece in self.chunks() if piece)

    def first_words(self) -> str:
        """What the text begins with, as a prompt for examples; "" where nothing will do."""
        return first_words(next(self.chunks(characters=4096)) or "")


def open_corpus(data: Sequence[str]) -> Corpus:
    """Read every item of `data` once and describe the text they make together.

    An item is the name of a corpus, a file, a folder (every *.txt and *.md below it in sorted order, without
    names that begin with a dot), a .gz file, or "-" for standard input, which can be given once. The name of
    a corpus wins over a file of that very name: `./tinyshakespeare` and `tinyshakespeare.txt` are files.

    Raises TinyLMError where there is no such thing, where it cannot be read or is not UTF-8 (with the byte
    offset), and where there is no text at all.
    """
    if list(data).count("-") > 1:
        raise TinyLMError("-: standard input can be read only once. Give - once.")
    sources = tuple(path for item in data for path in _files(item))
    return _scanned(", ".join("stdin" if item == "-" else item for item in data), sources)


def open_named(name: str) -> Corpus:
    """The corpus called `name`, which is fetched if it is not kept yet; raises TinyLMError where that fails."""
    if name not in NAMED:
        raise TinyLMError(_unknown(name))
    return _scanned(name, (fetch(name),))


# Files


def _files(item: str) -> list[Path]:
    if item in NAMED:
        return [fetch(item)]
    if item == "-":
        if sys.stdin is None:
            raise TinyLMError("-: standard input is closed. Pipe text into it, or name a file.")
        return [_spooled(sys.stdin.buffer, "stdin")]
    path = Path(item)
    try:
        mode = os.stat(item).st_mode
        if stat.S_ISDIR(mode):
            found = sorted(_texts(path), key=lambda file: file.relative_to(path).as_posix())
            if not found:
                raise TinyLMError(f"{path}: no *.txt or *.md file in this folder. Name the files themselves.")
            return found
        if stat.S_ISREG(mode):
            return [path]
        with path.open("rb") as stream:  # a pipe or a device, which can be read only once
            return [_spooled(stream, path.name)]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise TinyLMError(_unknown(item)) from None
    except OSError as error:
        raise TinyLMError(_unreadable(error.filename or path, error)) from error


def _texts(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise TinyLMError(f"{folder}: this link leads back to a folder above it. Remove it, or name the files.")
    for entry in folder.iterdir():
        if entry.name.startswith("."):  # .git, .venv, and the "._x.txt" that macOS leaves on foreign disks
            continue
        if entry.is_dir():
            yield from _texts(entry, above | {here})
        elif entry.suffix.lower() in SUFFIXES:
            yield entry


def _spooled(stream: IO[bytes], name: str) -> Path:
    folder = tempfile.mkdtemp(prefix="mlx-tinylm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, name)
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, PIECE)
    except OSError as error:
        raise TinyLMError(f"{name}: cannot be copied to {path}: {error.strerror or error}") from error
    return path


# Text


def _scanned(name: str, sources: tuple[Path, ...]) -> Corpus:
    import numpy as np  # not at the top: naming a corpus and asking for help must not wait for it

    seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    ascii_seen = b""
    digest, size, characters = hashlib.sha256(), 0, 0
    for piece in _pieces(sources, PIECE):
        encoded = piece.encode()
        digest.update(encoded)
        size += len(encoded)
        characters += len(piece)
        if len(encoded) == len(piece):  # ASCII: what is left after deleting what was seen before is new
            ascii_seen = bytes(sorted({*ascii_seen, *encoded.translate(None, ascii_seen)}))
            continue
        codes = np.frombuffer(piece.encode("utf-32-le"), dtype="<u4")
        # Looking before marking, as there is seldom a new one; "clip" spares a check of the range.
        if not seen.take(codes, mode="clip").all():
            seen[codes] = True
    if not characters:
        raise TinyLMError(f"{name or 'no data'}: there is no text in it. Name a file with text.")
    seen[list(ascii_seen)] = True
    alphabet = "".join(map(chr, np.flatnonzero(seen).tolist()))
    return Corpus(name, sources, digest.hexdigest(), size, characters, alphabet)


def _pieces(sources: Sequence[Path], size: int) -> Iterator[str]:
    """The decoded text; a piece comes from at most `size` bytes, so it has no more characters than that."""
    last = "\n"  # so that no newline goes before the first file
    for source in sources:
        between = "" if last.endswith("\n") else "\n"
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset = 0
        for block in _blocks(source, size):
            held = len(decoder.getstate()[0])  # bytes of a character that began in the block before
            try:
                piece = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                unpacked = " of the unpacked text" if source.suffix.lower() == ".gz" else ""
                raise TinyLMError(
                    f"{source}: not UTF-8 at byte {offset - held + error.start}{unpacked}. "
                    "Convert the file to UTF-8, or leave it out."
                ) from None
            offset += len(block)
            if piece:
                if between:
                    yield between
                    between = ""
                yield piece
                last = piece[-1]


def _blocks(source: Path, size: int) -> Iterator[bytes]:
    """The unpacked bytes of a file in blocks of at most `size`, and an empty one at its end."""
    if size < 1:
        raise ValueError(f"a piece of {size} characters")
    zipped = source.suffix.lower() == ".gz"
    try:
        with gzip.open(source, "rb") if zipped else source.open("rb") as stream:
            while block := stream.read(size):
                yield block
        yield b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TinyLMError(f"{source}: broken gzip file ({error}). Fetch or pack it again.") from error
    except OSError as error:
        raise TinyLMError(_unreadable(source, error)) from error


# Messages


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), NAMED)
    hint = (
        f"Did you mean {close[0]}?" if close else f"Give a path, - for standard input, or one of: {', '.join(NAMED)}."
    )
    return f"{name!r}: no corpus, file or folder of this name. {hint}"


def _unreadable(path: object, error: OSError) -> str:
    return f"{path}: cannot be read: {error.strerror or error}. Check the path and its permissions."
