"""One file at an http or https address, brought whole.

What has come is written beside under a hidden name, so that a download that was cut short goes on where it stopped
(RFC 9110, section 14: Range and If-Range); the file takes its name only when all of it is there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256 as new_sha256
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import flush, read_json, to_json, unwritable, write_atomically
from mlx_tinylm.integrity import BLOCK

# Seconds for a host to answer, and for more to come; a firewall that swallows packets costs this for each address.
PATIENCE = 10.0
PIECE = 1 << 16  # bytes


@dataclass(frozen=True)
class Fetched:
    """A file that has come whole."""

    bytes: int
    sha256: str


class FetchError(TinyLMError):
    """A file cannot be had from where it is said to be."""


def download(url: str, path: Path, name: str, size: int | None = None, sha256: str | None = None) -> Fetched:
    """Fetch `url` into `path`, whose folder is there; where size in bytes and SHA-256 are said, it must have them.

    A bar with this name is shown where stderr is a terminal. What another call can go on with stays beside; else
    nothing does. Raises FetchError with the reason where it cannot be had, TinyLMError where it cannot be written.
    """
    part, state = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    ours = going_on = False
    try:
        with open(part, "ab") as file:
            _lock(file)
            ours, begun = True, _begun(state, url, part)
            going_on = begun is not None
            with _answer(url, begun) as answer:
                going_on = answer.validator is not None
                if answer.start == 0:
                    state.unlink(missing_ok=True)
                    file.truncate(0)
                    if going_on:
                        write_atomically(state, to_json({"url": url, "validator": answer.validator}))
                if size is not None and answer.total not in (None, size):
                    going_on = False
                    raise FetchError(f"has {answer.total:,} bytes there, not {size:,}")
                found = _received(answer, file, part, name, size)
            going_on = False
            if not found.bytes:  # kept, it would be the text at this address for good
                raise FetchError("the server sends an empty file")
            if sha256 is not None and found.sha256 != sha256:
                raise FetchError(f"what came, {found.bytes:,} bytes, has another SHA-256: {found.sha256}")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        flush(path.parent)
        return found
    except OSError as error:
        going_on = False
        raise unwritable(path, error) from None
    finally:
        if ours and not going_on:
            for left in (part, state):
                with contextlib.suppress(OSError):
                    left.unlink()


@dataclass(frozen=True)
class _Answer:
    """What a server sends: all of a file, or what of it is behind `start`."""

    body: Any
    start: int
    total: int | None  # bytes of the whole file, where the server says so
    validator: str | None  # what is another one when the file is, where what has come can be gone on with


@contextlib.contextmanager
def _answer(url: str, begun: tuple[int, str] | None) -> Iterator[_Answer]:
    """Ask for a file, or for the rest of what was `begun`: its bytes that are here, and its validator."""
    headers = {"Accept-Encoding": "identity"}
    if begun:
        headers |= {"Range": f"bytes={begun[0]}-", "If-Range": begun[1]}
    with contextlib.ExitStack() as held:
        with _reasons():
            try:
                body = held.enter_context(urlopen(Request(url, headers=headers), timeout=PATIENCE))
            except HTTPError as error:
                error.close()  # it is an answer, too
                if not begun or error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise
                body = held.enter_context(urlopen(url, timeout=PATIENCE))
        length = body.headers.get("Content-Length", "")
        validator = body.headers.get("ETag") or body.headers.get("Last-Modified")
        if (validator or "").startswith("W/"):  # such a one may stay the same where some bytes do not
            validator = None
        start, total = 0, int(length) if length.isdecimal() else None
        if body.status == HTTPStatus.PARTIAL_CONTENT:
            said = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
            if not begun or not said or int(said[1]) != begun[0]:
                raise FetchError("the server sends another part than it was asked for")
            start, total, validator = begun[0], int(said[2]), begun[1]
        yield _Answer(body, start, total, validator if total is not None else None)


def _received(answer: _Answer, file: IO[bytes], part: Path, name: str, most: int | None) -> Fetched:
    """Append what comes to a file, to its end, or until it is more than `most`; raises where it ends too early."""
    from tqdm import tqdm

    found, size = new_sha256(), answer.start
    if answer.start:
        with open(part, "rb") as before:
            while block := before.read(BLOCK):
                found.update(block)
    with tqdm(desc=name, initial=size, total=answer.total, unit="B", unit_scale=True, disable=None) as bar:
        while most is None or size <= most:
            with _reasons():
                block = answer.body.read(PIECE)
            if not block:
                break
            file.write(block)
            found.update(block)
            size += len(block)
            bar.update(len(block))
    file.flush()
    if answer.total is not None and size != answer.total:
        on = "; the same command goes on from there" if answer.validator else ""
        raise FetchError(f"the server ended after {size:,} of {answer.total:,} bytes{on}")
    return Fetched(size, found.hexdigest())


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """What goes wrong on the way, in the system's words."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        reason = getattr(error, "reason", error)  # urllib wraps the system's error
        code = f"{error.code} " if isinstance(error, HTTPError) else ""
        said = str(getattr(reason, "strerror", None) or reason)
        raise FetchError(f"{code}{' '.join(said.split())}") from error


def _lock(file: IO[bytes]) -> None:
    with contextlib.suppress(ImportError):  # on Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError("another process is fetching it; wait for it") from None


def _begun(state: Path, url: str, part: Path) -> tuple[int, str] | None:
    """How many bytes of the file are here, and the validator that they came with; None where there are none."""
    with contextlib.suppress(TinyLMError, OSError):
        said = read_json(state)
        size = part.stat().st_size
        if size and isinstance(said, dict) and said.get("url") == url and isinstance(said.get("validator"), str):
            return size, said["validator"]
    return None
