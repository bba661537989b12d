"""Files written whole or not at all, damage that is found when they are read, and folders one process owns."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError

CHECKSUM, FIRST = 4, 1  # bytes, and what the CRC-32 begins with: four zeros are no whole file
BLOCK = 1 << 20  # bytes read at once


def cache_dir() -> Path:
    """The user's cache folder for this program; it may not exist yet."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        chosen = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"  # relative ones are not to be used
    return base / "mlx-tinylm"


# Writing


def write_atomically(path: Path, content: bytes | str | Iterable[bytes]) -> None:
    """Write beside `path`, flush to the disk, then take the name: a reader sees the old file or the new.

    Text becomes UTF-8; of an iterable, one block of bytes is in memory at a time. Raises TinyLMError naming the path.
    """
    content = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            for block in [content] if isinstance(content, bytes) else content:
                file.write(block)
            file.flush()
            _reach_the_disk(file.fileno())
        os.replace(beside, path)
        flush(path.parent)
    except OSError as error:
        raise TinyLMError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):  # gone, or the folder is not one: the first error is the one to tell
            beside.unlink()


@contextlib.contextmanager
def folder_in_place(final: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `final` at the end, or is gone where something goes wrong.

    A folder of that name is put aside, with all that is in it, and removed once the new one has its name.
    What a killed process leaves has a name that `remove_leftovers` finds. Raises TinyLMError naming `final`.
    """
    target = Path(os.path.realpath(final))  # a link stays a link
    beside, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old.tmp"))
    for leftover in (beside, old):  # of a process that had the same number
        remove(leftover)
    make_folder(beside)
    try:
        yield beside
        with contextlib.suppress(FileNotFoundError):  # nothing has the name
            os.rename(target, old)
        os.rename(beside, target)
        flush(target.parent)
    except OSError as error:
        raise TinyLMError(f"{final}: cannot be written ({error.strerror or error})") from None
    finally:
        if not target.exists():
            with contextlib.suppress(OSError):  # there was none before either, or the disk fails
                os.rename(old, target)
        if target.exists():
            remove(old)
        remove(beside)


def flush(path: Path) -> None:
    """Make a file, or the names in a folder, last through a power cut; Windows has no such call for folders."""
    if sys.platform != "win32":
        handle = os.open(path, os.O_RDONLY)
        try:
            _reach_the_disk(handle)
        finally:
            os.close(handle)


def _reach_the_disk(handle: int) -> None:
    """Flush an open file or folder. On macOS, fsync(2) says, fsync gets no further than the drive's own memory."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system knows this call
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path, older_than: float | None = None) -> None:
    """Remove what processes that were killed while writing left in `folder`; call it with the lock held.

    Where there is no lock, another process may be writing: then only what has not changed for `older_than` seconds.
    """
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if older_than is None or time.time() - path.stat().st_mtime > older_than:
                remove(path)
                path.unlink()


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents; raises TinyLMError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinyLMError(f"{folder}: cannot be created ({error.strerror})") from None


# Reading


def read(path: Path) -> bytes:
    """The content of a file; raises TinyLMError naming it where it cannot be read or is a pipe or a device."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading it might never end
            raise TinyLMError(f"{path}: not a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise TinyLMError(f"{path}: no such file") from None
    except OSError as error:
        raise TinyLMError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises TinyLMError naming the file where it cannot be read."""
    content = read(path)
    try:
        return json.loads(content)
    # RecursionError: thousands of nested brackets.
    except (ValueError, RecursionError) as error:
        raise TinyLMError(f"{path}: not valid JSON ({str(error)[:100]})") from None


def to_json(content: Any) -> str:
    """JSON for people: indented, ending in a newline."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # What UTF-8 cannot hold, as half of a surrogate pair in a file's name, becomes JSON's own escape.
    return text.encode("utf-8", "backslashreplace").decode()


# Finding damage


def digest(*parts: bytes | memoryview) -> str:
    """The SHA-256 of the parts one after the other, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; raises OSError where it cannot be read."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def sealed(content: dict[str, Any]) -> str:
    """`to_json` of an object with its own SHA-256 in it, for `read_sealed`."""
    return to_json(content | {"sha256": _seal(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `sealed` wrote; raises TinyLMError naming the file where anything in it has changed since."""
    content = read_json(path)
    seal = content.pop("sha256", None) if isinstance(content, dict) else None
    if seal is None or seal != _seal(content):
        raise TinyLMError(f"{path}: is damaged or was edited (its SHA-256 is not the one recorded)")
    return dict(content)


def _seal(content: dict[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


def with_checksum(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks, then their CRC-32 in CHECKSUM bytes: for a file of the cache, which is checked before each use."""
    checksum = FIRST
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
        yield block
    yield checksum.to_bytes(CHECKSUM, "little")


def ends_in_checksum(path: Path) -> bool:
    """Whether a file is there, can be read, and is what `with_checksum` gave."""
    try:
        with open(path, "rb") as file:
            left, checksum = path.stat().st_size - CHECKSUM, FIRST
            while left > 0 and (block := file.read(min(left, BLOCK))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
            return left == 0 and file.read() == checksum.to_bytes(CHECKSUM, "little")
    except OSError:
        return False


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; raises TinyLMError while another process holds it.

    The operating system lets go of the lock when its holder dies, however it dies.
    """
    import fcntl

    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(open(folder / ".lock", "a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TinyLMError(
                f"{folder}: another training run is writing here; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise TinyLMError(f"{folder}: cannot be locked ({error.strerror}); choose another --out") from None
        yield
