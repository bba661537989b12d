"""What `--data` names, as files: named corpora, files, folders, addresses and standard input."""

from __future__ import annotations

import atexit
import difflib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text import named_corpora
from mlx_tinylm.text.fetching import fetched, is_address
from mlx_tinylm.text.reading import PIECE, SUFFIXES, kind_of, unreadable


@dataclass(frozen=True)
class Source:
    """A file to read, and how many characters at its end are held out, where that is known of it."""

    path: Path
    held_out: int | None = None
    piped: bool = False  # it came through a pipe, and is gone when the program ends


def sources_of(data: Sequence[str]) -> tuple[list[Source], list[str]]:
    """The files that the items of `data` stand for, in the order they are read, and what a person should know of them.

    Raises TinyLMError where there is no such thing, where it cannot be read, or standard input is named twice.
    """
    if list(data).count("-") > 1:
        raise TinyLMError("-: standard input can be read only once. Give - once.")
    found: list[Source] = []
    models: list[Path] = []
    for item in data:
        if item in named_corpora.NAMED:
            found.append(named_source(item))
        else:
            found += _files(item, models)
    more = and_more(len(models) - 1, "folder")
    return found, [f"{models[0]}{more}: passed over, as a model lies there"] if models else []


def and_more(count: int, what: str) -> str:
    """What goes behind the first of several: " and 2 more files", or nothing where it is the only one."""
    return f" and {count:,} more {what}{'s' if count > 1 else ''}" if count > 0 else ""


def named_source(name: str) -> Source:
    """The file of the corpus called `name`, which is fetched if it is not kept yet; raises TinyLMError."""
    if name not in named_corpora.NAMED:
        raise TinyLMError(_unknown(name))
    return Source(named_corpora.fetch(name), named_corpora.NAMED[name].held_out)


def _files(item: str, models: list[Path]) -> list[Source]:
    if is_address(item):
        return [Source(fetched(item))]
    if item == "-":
        if sys.stdin is None:
            raise TinyLMError("-: standard input is closed. Pipe text into it, or name a file.")
        return [_spooled(sys.stdin.buffer, "stdin")]
    path = Path(item)
    try:
        mode = os.stat(item).st_mode
        if stat.S_ISDIR(mode):
            return [Source(file) for file in _in_folder(path, models)]
        if stat.S_ISREG(mode):
            return [Source(path)]
        with path.open("rb") as stream:  # a pipe or a device, which can be read only once
            return [_spooled(stream, path.name)]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise TinyLMError(_unknown(item)) from None
    except OSError as error:
        raise TinyLMError(unreadable(error.filename or path, error)) from error


def _in_folder(folder: Path, models: list[Path]) -> list[Path]:
    before = len(models)
    found = sorted(_texts(folder, models), key=lambda file: file.relative_to(folder).as_posix())
    if found:
        return found
    passed = f" but in a model's, {models[before]}" if models[before:] else ""
    kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
    raise TinyLMError(f"{folder}: no {kinds} file in this folder{passed}. Name the files themselves.")


def _texts(folder: Path, models: list[Path], above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise TinyLMError(f"{folder}: this link leads back to a folder above it. Remove it, or name the files.")
    entries = list(folder.iterdir())
    if {"config.json", "model.safetensors"} <= {entry.name for entry in entries}:  # its card and its logs are no texts
        models.append(folder)
        return
    for entry in entries:
        if entry.name.startswith("."):  # .git, .venv, and the "._x.txt" that macOS leaves on foreign disks
            continue
        if entry.is_dir():
            yield from _texts(entry, models, above | {here})
        elif kind_of(entry) in SUFFIXES:
            yield entry


def _spooled(stream: IO[bytes], name: str) -> Source:
    folder = tempfile.mkdtemp(prefix="mlx-tinylm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, name)
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, PIECE)
    except OSError as error:
        raise TinyLMError(f"{name}: cannot be copied to {path}: {error.strerror or error}") from error
    return Source(path, piped=True)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), named_corpora.NAMED)
    hint = (
        f"Did you mean {close[0]}?"
        if close
        else f"Give a path, an address, - for standard input, or one of: {', '.join(named_corpora.NAMED)}."
    )
    return f"{name!r}: no corpus, file or folder of this name. {hint}"
